"""A host with real QEMU machines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.guest_processes import end_machines
from tests.drivers.hypervisor.hosts import QemuHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[QemuHost]:
    yield QemuHost(tmp_path)
    end_machines(tmp_path)
