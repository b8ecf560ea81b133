"""Hosts, and drivers that are open on them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.cluster.guest_processes import end_machines
from tests.drivers.hypervisor.hosts import HOSTS, Host
from virtplane_drivers.hypervisor.contract import HypervisorDriver


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    yield HOSTS[request.param](tmp_path)
    end_machines(tmp_path)


@pytest.fixture
async def driver(host: Host) -> AsyncIterator[HypervisorDriver]:
    async with host.open() as opened:
        yield opened
