"""A disk whose file system does not answer holds up its own machine only.

The hung disk is a FIFO in the place of an image that is opened for reading: open(2) waits in the kernel until there is
a writer, as it does for a server that is away.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.guest_processes import guest_processes
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.qemu.machines.starting import defined, record_file, started
from virtplane_api.vocabulary import DiskFormat, DiskType, PowerState
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hypervisor.contract import Desired, Disk
from virtplane_drivers.hypervisor.qemu import driver as qemu_driver
from virtplane_drivers.hypervisor.qemu import following

MANY = 20
"""More than the default thread pool has threads."""


@contextmanager
def hung_cdrom(folder: Path) -> Iterator[Disk]:
    """It answers at the end of the block."""
    fifo = folder / "cdrom.iso"
    os.mkfifo(fifo)
    try:
        yield Disk("tools", FileAttachment(fifo, DiskFormat.RAW), DiskType.CDROM)
    finally:
        answer(fifo)


def answer(fifo: Path) -> None:
    """Whoever waits opens it, and finds an empty image from then on."""
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    fifo.unlink()
    fifo.write_bytes(b"\0" * 2048)
    os.close(descriptor)


def with_disk(desired: Desired, disk: Disk) -> Desired:
    return replace(desired, disks=(*desired.disks, disk))


async def test_starts_that_hang_hold_up_no_other_machine(host: QemuHost) -> None:
    with hung_cdrom(host.folder) as cdrom:
        async with host.open() as driver:
            hanging = []
            for _ in range(MANY):
                desired = with_disk(defined(host), cdrom)
                await driver.define(desired)
                hanging.append(asyncio.create_task(driver.start(desired.uid)))
            other = await started(driver, host)
            assert (await driver.observe(other.uid)).power is PowerState.RUNNING
            await driver.power_off(other.uid)
            await driver.destroy(other.uid)
            assert not any(start.done() for start in hanging)
            answer(host.folder / "cdrom.iso")
            await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_start_that_hangs_is_told_of_is_not_begun_again_and_ends_when_the_disk_answers(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ACT_TIMEOUT_S", 0.2)
    with hung_cdrom(host.folder) as cdrom:
        async with host.open() as driver:
            desired = with_disk(defined(host), cdrom)
            await driver.define(desired)
            for _ in range(3):
                with pytest.raises(Unavailable, match="its storage is slow, or hangs"):
                    await driver.start(desired.uid)
            assert (await driver.observe(desired.uid)).power is not PowerState.RUNNING
            monkeypatch.undo()
            answer(host.folder / "cdrom.iso")
            # The FIFO itself is no image: what was opened is refused by QEMU, and the next start has a file.
            async with asyncio.timeout(30):
                while (await driver.observe(desired.uid)).power is not PowerState.RUNNING:
                    await asyncio.gather(driver.start(desired.uid), return_exceptions=True)
            assert len(guest_processes(host.folder)) == 1


async def test_a_driver_is_left_while_a_start_hangs(host: QemuHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk never answers: an agent's process ends with the thread that waits for it, as this one does."""
    monkeypatch.setattr(following, "_LEAVE_TIMEOUT_S", 0.2)
    fifo = host.folder / "cdrom.iso"
    os.mkfifo(fifo)
    async with host.open() as driver:
        other = await started(driver, host)
        cdrom = Disk("tools", FileAttachment(fifo, DiskFormat.RAW), DiskType.CDROM)
        desired = with_disk(defined(host), cdrom)
        await driver.define(desired)
        starting = asyncio.create_task(driver.start(desired.uid))
        await asyncio.sleep(0)
    async with host.open() as following_driver:
        assert (await following_driver.observe(other.uid)).power is PowerState.RUNNING
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def test_a_driver_is_entered_while_a_suspended_memory_s_pool_hangs(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing the memory of a machine that died while it woke takes its pool. That hangs here by a double's hand."""
    async with host.open() as driver:
        hung, other = await started(driver, host), await started(driver, host)
    record = record_file(host, hung.uid)
    memory = host.folder / "pool" / f"{hung.uid}.0.memory"
    record.write_text(record.read_text().replace('"memory": ""', f'"memory": "{memory}"'))
    fifo = host.folder / "pool-that-hangs"
    os.mkfifo(fifo)
    monkeypatch.setattr("virtplane_drivers.hypervisor.qemu.suspension.MemoryFile.discard", lambda _: fifo.read_bytes())
    monkeypatch.setattr(qemu_driver, "_ADOPT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(following, "_LEAVE_TIMEOUT_S", 0.2)
    async with host.open() as driver:
        assert (await driver.observe(other.uid)).power is PowerState.RUNNING
        assert (await driver.observe(hung.uid)).power is PowerState.RUNNING
        await driver.pause(other.uid)
        await asyncio.to_thread(lambda: fifo.open("wb").close())
        await driver.pause(hung.uid)
