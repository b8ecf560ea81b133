"""A real Linux whose adapter is joined to a program that ends: it is plugged anew, and what it sends arrives again."""

import asyncio
import socket
from contextlib import closing
from pathlib import Path

from tests.drivers.hypervisor.hosts import QemuHost, bound
from tests.drivers.qemu.machines.test_hotplug import in_guest, linux, sees
from virtplane_drivers.attachment import StreamAttachment
from virtplane_drivers.hypervisor.contract import Nic, Observed
from virtplane_drivers.hypervisor.nics import nic_changes
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver

PLACE = "readlink -f $(dirname $(grep -l $mac /sys/class/net/*/address))/device/.."
SPEAK = "arping -D -c 1 -I $(basename $(dirname $(grep -l $mac /sys/class/net/*/address))) 192.0.2.7"


async def hears(program: socket.socket, mac: str) -> None:
    """Returns when a frame of that sender has arrived, and ends then."""
    reader, writer = await asyncio.open_connection(sock=program)
    with closing(writer):
        async with asyncio.timeout(20):
            while True:
                length = int.from_bytes(await reader.readexactly(4), "big")
                if (await reader.readexactly(length))[6:12].hex(":") == mac:
                    return


async def cut_off(driver: QemuDriver, uid: str) -> Observed:
    """The machine, once it is seen that its adapter is."""
    async with asyncio.timeout(20):
        while not (seen := await driver.observe(uid)).nics[0].is_cut_off:
            await asyncio.sleep(0.02)
    return seen


async def test_what_a_guest_sends_by_an_adapter_that_was_plugged_anew_arrives(host: QemuHost, tmp_path: Path) -> None:
    """Once by the driver that started it, once by one that was away when it happened."""
    with bound(tmp_path / "frames") as listener:
        listener.listen(1)
        nic = Nic("user", "52:54:00:00:00:05", StreamAttachment(tmp_path / "frames"))
        async with host.open() as driver:
            desired = await linux(host, driver, nic)
            place = await in_guest(driver, desired.uid, f"mac={nic.mac};{PLACE}")
        program, _ = listener.accept()
        for _ in range(2):
            program.close()
            async with host.open() as driver:
                seen = await cut_off(driver, desired.uid)
                assert nic_changes(seen.nics, seen.defined_nics).unplug == ("user",)
                await driver.change_nics(desired.uid)
                assert (await driver.observe(desired.uid)).nics == (nic,)
                program, _ = listener.accept()
                await sees(driver, desired.uid, {nic.mac: True})
                assert await in_guest(driver, desired.uid, f"mac={nic.mac};{PLACE}") == place
                await in_guest(driver, desired.uid, f"mac={nic.mac};{SPEAK}")
                await hears(program, nic.mac)
