"""`python -m tests.drivers.qemu.machines.full_disk FOLDER`: a guest fills a tiny file system, and gets room again."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tests.cluster.guest_processes import end_machines
from tests.cluster.guests.boot_sector import BootSectorKind, boot_sector_image
from tests.drivers.hypervisor.hosts import QemuHost, machine
from virtplane_api.vocabulary import DiskFormat, PowerState
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.hypervisor.contract import Disk
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver


def make_full_disk(folder: Path) -> Path:
    """A disk that may grow to 64 MiB, on a file system that has room for half of one."""
    pool = folder / "pool"
    pool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", pool], check=True)
    raw = boot_sector_image(BootSectorKind.WRITES, folder / "image", ticks=1)
    disk = pool / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", disk, "64M"], check=True)
    (pool / "ballast").write_bytes(b"x" * (480 << 10))
    return disk


async def main(folder: Path) -> None:
    """Says each state that was reached, a word a line."""
    disk = await asyncio.to_thread(make_full_disk, folder)
    host = QemuHost(folder)
    async with host.open() as driver:
        desired = replace(machine(host), disks=(Disk("root", FileAttachment(disk, DiskFormat.QCOW2)),))
        await driver.define(desired)
        await driver.start(desired.uid)
        await _until_held(driver, desired.uid)
        print("held", flush=True)
        await driver.resume(desired.uid)
        await _until_held(driver, desired.uid)
        print("still-held", flush=True)
        ticks = (await driver.serial_log(desired.uid, 65536)).count(b"tick")
        (disk.parent / "ballast").unlink()
        await driver.resume(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING
        print("running", flush=True)
        async with asyncio.timeout(10):
            while (await driver.serial_log(desired.uid, 65536)).count(b"tick") < ticks + 2:
                await asyncio.sleep(0.05)
        print("ticking", flush=True)
        await driver.destroy(desired.uid)


async def _until_held(driver: QemuDriver, uid: str) -> None:
    async with asyncio.timeout(30):
        while (seen := await driver.observe(uid)).power is not PowerState.PAUSED:
            await asyncio.sleep(0.05)
    assert (seen.has_io_error, seen.message) == (True, "disk root: no space is left")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    try:
        asyncio.run(main(where))
    finally:
        end_machines(where)
