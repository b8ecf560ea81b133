"""A host for each test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.network.linux.host import Host, new_host
from tests.drivers.network.linux.networks import STATE_ID, TRANSIT_CIDR
from virtplane_drivers.network.linux.names import namespace_path
from virtplane_drivers.network.linux.namespace import ensure_namespace
from virtplane_drivers.network.linux.uplinks import Uplinks


@pytest.fixture
def root() -> None:
    """Skips the test where it cannot run."""
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces that the driver can enter")


@pytest.fixture
def host(root: None, tmp_path: Path) -> Iterator[Host]:
    """A network namespace of its own that stands for a host, with an outside."""
    with new_host(tmp_path) as one:
        yield one


@pytest.fixture
async def router(host: Host) -> Path:
    """The namespace of a network, empty."""
    path = namespace_path(host.folder, "router")
    await ensure_namespace(path)
    return path


@pytest.fixture
def uplinks(host: Host) -> Uplinks:
    """Of the host."""
    return Uplinks(STATE_ID, TRANSIT_CIDR, host.machine.path)
