"""What guests do to themselves, and what is done to them short of ending them, on real QEMU."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.guest_processes import guest_processes
from tests.cluster.guests.boot_sector import GREETING, BootSectorKind
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until_stopped
from tests.drivers.qemu.machines.starting import pid_of, started, ticks
from virtplane_api.vocabulary import ExitReason, PowerState

ENDS = {
    BootSectorKind.POWERS_OFF: (ExitReason.GUEST_SHUTDOWN, "the guest shut itself down"),
    BootSectorKind.PANICS: (ExitReason.GUEST_PANICKED, "the guest's kernel panicked"),
    BootSectorKind.UNFED: (ExitReason.WATCHDOG_EXPIRED, "the guest stopped feeding its watchdog"),
}


@pytest.mark.parametrize("kind", ENDS)
async def test_how_a_guest_ended_by_itself_is_told(host: QemuHost, kind: BootSectorKind) -> None:
    async with host.open() as driver:
        desired = await started(driver, host, kind, ticks=1)
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert (seen.last_exit.reason, seen.last_exit.message) == ENDS[kind]
        assert seen.ended_by_itself
        assert guest_processes(host.folder) == []


@pytest.mark.parametrize("kind", ENDS)
async def test_how_a_guest_ended_while_nobody_looked_is_told_later(host: QemuHost, kind: BootSectorKind) -> None:
    async with host.open() as driver:
        desired = await started(driver, host, kind, ticks=1)
        monitor_free = (await driver.observe(desired.uid)).power
        assert monitor_free is PowerState.RUNNING
    # The guest's own clock tells that its time is over; the process stays, and waits for somebody to learn of it.
    log = host.folder / "state" / desired.uid / "serial.log"
    async with asyncio.timeout(15):
        while b"tick 1" not in (log.read_bytes() if log.exists() else b""):
            await asyncio.sleep(0.05)
    await asyncio.sleep(3.5 if kind is BootSectorKind.UNFED else 0.1)  # two periods of the watchdog
    assert len(guest_processes(host.folder)) == 1
    async with host.open() as driver:
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ENDS[kind][0]


async def test_a_guest_that_resets_itself_goes_on_as_the_same_run(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host, BootSectorKind.CRASHES, ticks=1)
        before, pid = await driver.observe(desired.uid), pid_of(host, desired)
        async with asyncio.timeout(15):
            while (await driver.serial_log(desired.uid, 65536)).decode().count(GREETING) < 3:
                seen = await driver.observe(desired.uid)
                assert (seen.power, seen.started_at) == (PowerState.RUNNING, before.started_at)
                await asyncio.sleep(0.05)
        assert pid_of(host, desired) == pid


async def test_a_process_that_somebody_else_ends_was_killed(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        os.kill(pid_of(host, desired), signal.SIGTERM)
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert (seen.last_exit.reason, seen.ended_by_itself) == (ExitReason.KILLED, True)


async def test_a_paused_guest_does_not_tick_and_goes_on_with_the_next_tick(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await driver.pause(desired.uid)
        held = await driver.serial_log(desired.uid, 65536)
        await asyncio.sleep(1.3)  # longer than a tick: what must not happen has its time
        assert await driver.serial_log(desired.uid, 65536) == held
        await driver.resume(desired.uid)
        console = await ticks(driver, desired.uid, 3)
        assert console.count(GREETING) == 1


async def test_a_paused_guest_that_is_asked_to_shut_down_hears_it(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await driver.pause(desired.uid)
        await driver.shut_down(desired.uid)
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.STOPPED


async def test_a_full_disk_holds_the_guest_and_room_lets_it_go_on(tmp_path: Path) -> None:
    """In a mount namespace of its own, as a file system of a megabyte is mounted: it goes with the process."""
    program = [sys.executable, "-m", "tests.drivers.qemu.machines.full_disk", str(tmp_path)]
    done = await asyncio.create_subprocess_exec("unshare", "--mount", *program, stdout=subprocess.PIPE)
    output, _ = await done.communicate()
    assert (done.returncode, output.decode().split()) == (0, ["held", "still-held", "running", "ticking"])
