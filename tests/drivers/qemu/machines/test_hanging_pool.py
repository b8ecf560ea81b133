"""Machines whose disks lie on a real file system that hangs, beside machines whose disks do not."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.cluster.guest_processes import guest_processes
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until_suspended
from tests.drivers.qemu.machines.starting import defined, record_file, started
from tests.drivers.storage.hanging_pool import HangingPool, hanging_pool, needs_fuse
from virtplane_api.vocabulary import DiskFormat, PowerState
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hypervisor.contract import Desired, Disk
from virtplane_drivers.hypervisor.qemu import driver as qemu_driver
from virtplane_drivers.hypervisor.qemu import following

pytestmark = needs_fuse
MANY = 20


@pytest.fixture
async def hanging(host: QemuHost) -> AsyncIterator[HangingPool]:
    with hanging_pool(host.folder) as pool:
        yield pool


def on(hanging: HangingPool, host: QemuHost) -> Desired:
    """A machine whose disk lies there."""
    desired = defined(host)
    image = host.folder / "pool" / f"{desired.uid}.img"
    shutil.copy(image, hanging.behind / image.name)
    return replace(desired, disks=(Disk("root", FileAttachment(hanging.folder / image.name, DiskFormat.RAW)),))


async def test_a_machine_starts_while_many_others_wait_for_their_pool(host: QemuHost, hanging: HangingPool) -> None:
    async with host.open() as driver:
        waiting = [on(hanging, host) for _ in range(MANY)]
        for desired in waiting:
            await driver.define(desired)
        await asyncio.to_thread(hanging.hang)
        starts = [asyncio.create_task(driver.start(desired.uid)) for desired in waiting]
        other = await started(driver, host)
        assert (await driver.observe(other.uid)).power is PowerState.RUNNING
        await driver.destroy(other.uid)
        assert not any(start.done() for start in starts)
        for desired in waiting[1:]:  # they are not all to run on two processors
            hanging.behind.joinpath(f"{desired.uid}.img").unlink()
        await asyncio.to_thread(hanging.answer)
        ended = await asyncio.gather(*starts, return_exceptions=True)
        assert ended[0] is None
        assert (await driver.observe(waiting[0].uid)).power is PowerState.RUNNING


async def test_a_machine_whose_start_hangs_is_unknown_also_when_it_is_wanted_off_and_starts_once(
    host: QemuHost, hanging: HangingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ACT_TIMEOUT_S", 0.3)
    async with host.open() as driver:
        desired = on(hanging, host)
        await driver.define(desired)
        await asyncio.to_thread(hanging.hang)
        for verb in (driver.start, driver.start, driver.power_off):
            with pytest.raises(Unavailable, match="its storage is slow, or hangs"):
                await verb(desired.uid)
        seen = await driver.observe(desired.uid)
        assert (seen.power, "slow, or hangs" in seen.message) == (PowerState.UNKNOWN, True)
        monkeypatch.undo()
        await asyncio.to_thread(hanging.answer)
        async with asyncio.timeout(30):
            while (await driver.observe(desired.uid)).power is not PowerState.RUNNING:
                await asyncio.sleep(0.05)
        assert len(guest_processes(host.folder / "state" / desired.uid)) == 1


async def test_a_driver_is_entered_and_left_while_a_pool_hangs_and_its_machine_is_adopted_when_it_answers(
    host: QemuHost, hanging: HangingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of a machine that woke is to be removed: its agent was killed over that."""
    monkeypatch.setattr(qemu_driver, "_ADOPT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(following, "_LEAVE_TIMEOUT_S", 0.5)
    async with host.open() as driver:
        hung, other = on(hanging, host), await started(driver, host)
        await driver.define(hung)
        await driver.start(hung.uid)
    record = json.loads(record_file(host, hung.uid).read_text())
    memory = hanging.folder / f"{hung.uid}.{record['incarnation']}.memory"
    (hanging.behind / memory.name).write_bytes(b"left")
    record_file(host, hung.uid).write_text(json.dumps(record | {"memory": str(memory)}))
    await asyncio.to_thread(hanging.hang)
    async with host.open() as driver:
        assert (await driver.observe(other.uid)).power is PowerState.RUNNING
        await driver.pause(other.uid)
    async with host.open() as driver:
        await driver.resume(other.uid)
        await asyncio.to_thread(hanging.answer)
        await driver.pause(hung.uid)
        assert (await driver.observe(hung.uid)).power is PowerState.PAUSED
        assert not (hanging.behind / memory.name).exists()


async def test_the_loop_goes_on_while_the_file_of_a_memory_cannot_be_closed(host: QemuHost) -> None:
    with hanging_pool(host.folder, flushes=True) as hanging:
        async with host.open() as driver:
            hung, other = on(hanging, host), await started(driver, host)
            await driver.define(hung)
            await driver.start(hung.uid)
            suspending = asyncio.create_task(driver.suspend(hung.uid))
            async with asyncio.timeout(10):
                while not list(hanging.behind.glob("*.partial")):
                    await asyncio.sleep(0)
            await asyncio.to_thread(hanging.hang)
            async with asyncio.timeout(5):
                await driver.pause(other.uid)
                assert (await driver.observe(other.uid)).power is PowerState.PAUSED
            await asyncio.to_thread(hanging.answer)
            await suspending
            await until_suspended(driver, hung.uid)
