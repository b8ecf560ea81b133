"""A driver that is killed at each point of plugging anew what was cut off: the next one finds what there is, finishes.

One real Linux runs through all of it. In the end its adapter is joined once, where it was, and what it sends arrives.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.qemu.machines.test_hotplug import in_guest, linux, sees
from tests.drivers.qemu.recovery.test_killed_at_every_await import EVERY, killed
from tests.drivers.qemu.recovery.test_killed_while_plugging import finished
from tests.unix_sockets import bound
from virtplane_drivers.attachment import StreamAttachment
from virtplane_drivers.hypervisor.contract import Nic
from virtplane_drivers.hypervisor.nics import nic_changes
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver

MAC = "52:54:00:00:00:05"
PLACE = f"readlink -f $(dirname $(grep -l {MAC} /sys/class/net/*/address))/device/.."


class Program:
    """What frames are sent to: it has whoever connects."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._connections: list[socket.socket] = []
        self._received = b""
        listener.settimeout(0)

    def joined(self) -> int:
        """How many are connected now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._connections.append(self._listener.accept()[0])
        self._connections = [one for one in self._connections if self._is_open(one)]
        return len(self._connections)

    def has_heard(self, mac: str) -> bool:
        """Whether a frame of it has come since the last end."""
        self.joined()
        return bytes.fromhex(mac.replace(":", "")) in self._received

    def end(self) -> None:
        """Its connections do, as when it is killed."""
        self.joined()
        while self._connections:
            self._connections.pop().close()
        self._received = b""

    def _is_open(self, connection: socket.socket) -> bool:
        connection.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while frames := connection.recv(65536):
                self._received += frames
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


async def is_cut_off(driver: QemuDriver, uid: str) -> None:
    """Returns when it is seen that the machine's adapter is."""
    async with asyncio.timeout(20):
        while not (seen := await driver.observe(uid)).nics[0].is_cut_off:
            await asyncio.sleep(0.02)
    assert nic_changes(seen.nics, seen.defined_nics).unplug == ("user",)


@pytest.mark.timeout(1200)
async def test_the_next_driver_joins_the_adapter_once_and_what_the_guest_sends_arrives(
    host: QemuHost, program: Program, tmp_path: Path
) -> None:
    nic = Nic("user", MAC, StreamAttachment(tmp_path / "frames"))
    async with host.open() as driver:
        desired = await linux(host, driver, nic)
        place = await in_guest(driver, desired.uid, PLACE)
    fatal, points, status = 1, 0, -signal.SIGKILL
    while status != 0:
        program.end()
        async with host.open() as driver:  # which was away
            await is_cut_off(driver, desired.uid)
        status = await killed(host, "change_nics", desired.uid, fatal)
        async with host.open() as driver:
            await finished(host, driver, desired.uid)
            assert (await driver.observe(desired.uid)).nics == (nic,)
            eventually(lambda: program.joined() == 1)
            await sees(driver, desired.uid, {nic.mac: True})
            assert await in_guest(driver, desired.uid, PLACE) == place
            eventually(lambda: program.has_heard(MAC))
        assert status in (0, -signal.SIGKILL)
        fatal, points = fatal + EVERY, points + (status != 0)
    assert points > 0
