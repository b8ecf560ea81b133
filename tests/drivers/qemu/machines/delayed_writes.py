"""`python -m tests.drivers.qemu.machines.delayed_writes SCENE FOLDER`: a guest's disk does not answer."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cluster.guest_processes import end_machines
from tests.cluster.guests.boot_sector import BootSectorKind
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until_stopped
from tests.drivers.qemu.machines.slow_disk import SlowDisk
from tests.drivers.qemu.machines.starting import defined, record_file, ticks
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hypervisor.contract import Desired
from virtplane_drivers.hypervisor.qemu import run as qemu_run
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver


@asynccontextmanager
async def writing(host: QemuHost) -> AsyncIterator[tuple[Desired, SlowDisk]]:
    """A machine whose guest waits for the end of a write. With the block it is let go, and then ended."""
    desired = defined(host, BootSectorKind.WRITES, ticks=1)
    attachment = desired.disks[0].attachment
    assert isinstance(attachment, FileAttachment)
    disk = SlowDisk(attachment.path)
    try:
        async with host.open() as driver:
            await driver.define(desired)
            await driver.start(desired.uid)
            await ticks(driver, desired.uid, 2)
        disk.holds_writes = True
        async with asyncio.timeout(15):
            while not disk.waiting:
                await asyncio.sleep(0.01)
        yield desired, disk
    finally:
        disk.let_go()
        async with host.open() as driver:
            await driver.destroy(desired.uid)


async def is_powered_off(host: QemuHost) -> None:
    """QEMU ends by itself once the disk has answered."""
    qemu_run.QUIT_TIMEOUT_S = 30.0
    async with writing(host) as (desired, disk), host.open() as driver:
        run = driver._machines[desired.uid]._run
        assert run is not None
        ending = asyncio.create_task(driver.power_off(desired.uid))
        async with asyncio.timeout(15):
            while run.cause != "host-qmp-quit":
                await asyncio.sleep(0.01)
        assert not await run.process.wait(1.0)
        assert not ending.done()
        say("waits")
        disk.let_go()
        await ending
        say(f"ended-with-{run.process.exit_status}")


async def is_killed(host: QemuHost) -> None:
    """SIGKILL ends all of its threads but the one that writes."""
    qemu_run.QUIT_TIMEOUT_S = qemu_run.DEATH_TIMEOUT_S = 0.2
    async with writing(host) as (desired, disk):
        async with host.open() as driver:
            await assert_stuck(driver, host, desired)
            say("stuck")
        async with host.open() as driver:
            await assert_stuck(driver, host, desired)
            say("stuck-for-the-next-driver")
            disk.let_go()
            await until_stopped(driver, desired.uid)
            say("dead")
            await driver.destroy(desired.uid)
            assert list((host.folder / "state").iterdir()) == []
            say("gone")


async def assert_stuck(driver: QemuDriver, host: QemuHost, desired: Desired) -> None:
    for verb in (driver.power_off, driver.destroy):
        with pytest.raises(Unavailable) as stuck:
            await verb(desired.uid)
        assert stuck.value.reason == Reason.PROCESS_STUCK
    assert (await driver.observe(desired.uid)).power is PowerState.UNKNOWN
    assert record_file(host, desired.uid).exists()


def say(word: str) -> None:
    print(word, flush=True)


SCENES = {"is-powered-off": is_powered_off, "is-killed": is_killed}

if __name__ == "__main__":
    where = Path(sys.argv[2])
    try:
        asyncio.run(SCENES[sys.argv[1]](QemuHost(where)))
    finally:
        end_machines(where)
