"""Real machines of 512 bytes, started, and what they print."""

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.cluster.guest_processes import guest_processes
from tests.cluster.guests.boot_sector import BootSectorKind, boot_sector_image
from tests.drivers.hypervisor.hosts import QemuHost, machine
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.hypervisor.contract import Desired, Disk
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver


def defined(host: QemuHost, kind: BootSectorKind = BootSectorKind.OBEDIENT, ticks: int = 3) -> Desired:
    """A machine whose disk lies in a folder of its own, as in a pool."""
    desired = machine(host)
    pool = host.folder / "pool"
    pool.mkdir(exist_ok=True)
    image = boot_sector_image(kind, pool / f"{desired.uid}.img", ticks)
    return replace(desired, disks=(Disk("root", FileAttachment(image, DiskFormat.RAW)),))


async def started(
    driver: QemuDriver, host: QemuHost, kind: BootSectorKind = BootSectorKind.OBEDIENT, ticks: int = 3
) -> Desired:
    desired = defined(host, kind, ticks)
    await driver.define(desired)
    await driver.start(desired.uid)
    return desired


def pid_of(host: QemuHost, desired: Desired) -> int:
    [pid] = guest_processes(host.folder / "state" / desired.uid)
    return pid


def record_file(host: QemuHost, uid: str) -> Path:
    return host.folder / "state" / uid / "record.json"


async def ticks(driver: QemuDriver, uid: str, at_least: int) -> str:
    async with asyncio.timeout(15):
        while f"tick {at_least}" not in (console := (await driver.serial_log(uid, 65536)).decode()):
            await asyncio.sleep(0.05)
    return console
