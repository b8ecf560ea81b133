"""A host for each test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.network.linux.host import Host, new_host


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
