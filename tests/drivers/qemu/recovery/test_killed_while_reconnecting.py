"""A driver that is killed at each point of plugging anew what was cut off: the next one finds what there is, finishes.

One real Linux runs through all of it. In the end its adapter is joined once, and nothing else is.
"""

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.hypervisor.hosts import QemuHost, bound
from tests.drivers.qemu.machines.test_cut_off import cut_off
from tests.drivers.qemu.machines.test_hotplug import linux, sees
from tests.drivers.qemu.recovery.test_killed_at_every_await import EVERY, killed
from tests.drivers.qemu.recovery.test_killed_while_plugging import finished
from virtplane_drivers.attachment import StreamAttachment
from virtplane_drivers.hypervisor.contract import Nic


class Program:
    """What frames are sent to: it has whoever connects."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._connections: list[socket.socket] = []
        listener.settimeout(0)

    def joined(self) -> int:
        """How many are connected now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._connections.append(self._listener.accept()[0])
        self._connections = [one for one in self._connections if _is_open(one)]
        return len(self._connections)

    def end(self) -> None:
        """Its connections do, as when it is killed."""
        self.joined()
        while self._connections:
            self._connections.pop().close()


def _is_open(connection: socket.socket) -> bool:
    connection.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while connection.recv(65536):
            pass
        connection.close()
        return False
    return True


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with bound(tmp_path / "frames") as listener:
        listener.listen(4)
        one = Program(listener)
        yield one
        one.end()


@pytest.mark.timeout(1200)
async def test_the_next_driver_joins_the_adapter_once(host: QemuHost, program: Program, tmp_path: Path) -> None:
    nic = Nic("user", "52:54:00:00:00:05", StreamAttachment(tmp_path / "frames"))
    async with host.open() as driver:
        desired = await linux(host, driver, nic)
    fatal, points, status = 1, 0, -signal.SIGKILL
    while status != 0:
        async with host.open() as driver:
            program.end()
            await cut_off(driver, desired.uid)
        status = await killed(host, "change_nics", desired.uid, fatal)
        async with host.open() as driver:
            await finished(host, driver, desired.uid)
            assert (await driver.observe(desired.uid)).nics == (nic,)
            eventually(lambda: program.joined() == 1)
            await sees(driver, desired.uid, {nic.mac: True})
        assert status in (0, -signal.SIGKILL)
        fatal, points = fatal + EVERY, points + (status != 0)
    assert points > 0
