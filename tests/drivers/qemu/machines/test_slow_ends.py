"""A QEMU that is slow to end, or cannot: h6, h17, h34 and h40 of the hazards. All real, by SIGSTOP and the freezer."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.guest_processes import groups_named, guest_processes
from tests.cluster.waiting import eventually
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until, until_stopped
from tests.drivers.qemu.machines.starting import pid_of, record_file, started, ticks
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.errors import Unavailable, Unresponsive
from virtplane_drivers.host.process import GuestProcess
from virtplane_drivers.hypervisor.qemu import run as qemu_run
from virtplane_drivers.hypervisor.qemu.monitor import Monitor

FREEZER = Path("/sys/fs/cgroup/freezer/virtplane")


@contextmanager
def frozen(uid: str) -> Iterator[None]:
    """Within the block the machine's process waits in the kernel (state D), and SIGKILL does not end it.

    So does a frozen task of cgroup v1 (cgroup-v1/freezer-subsystem.rst); v2 lets it die. A shell thaws it, also when
    this process is killed: nobody could end the guest otherwise.
    """
    state = FREEZER / uid / "freezer.state"
    script = f"echo FROZEN >{state}; until grep -q FROZEN {state}; do :; done; echo; read _; echo THAWED >{state}"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as thawing:
        assert thawing.stdin is not None
        assert thawing.stdout is not None
        thawing.stdout.readline()
        try:
            yield
        finally:
            thawing.stdin.close()
            thawing.wait()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pids that the driver sends SIGKILL to."""
    pids: list[int] = []
    kill = GuestProcess.kill

    def noting(process: GuestProcess) -> None:
        pids.append(process.identity.pid)
        kill(process)

    monkeypatch.setattr(GuestProcess, "kill", noting)
    return pids


@pytest.mark.skipif(not Path("/sys/fs/cgroup/freezer").exists() or os.geteuid() != 0, reason="the freezer of cgroup v1")
async def test_h40_a_process_that_sigkill_does_not_end_is_known_until_it_is_dead(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch, killed: list[int]
) -> None:
    monkeypatch.setattr(qemu_run, "QUIT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(qemu_run, "DEATH_TIMEOUT_S", 0.1)
    async with host.open() as driver:
        desired = await started(driver, host)
        pid = pid_of(host, desired)
    with frozen(desired.uid):
        for verb in ("power_off", "destroy"):  # each by a driver of its own: it is not forgotten in between either
            async with host.open() as driver:
                with pytest.raises(Unavailable) as stuck:
                    await getattr(driver, verb)(desired.uid)
                assert (stuck.value.reason, str(pid) in str(stuck.value)) == (Reason.PROCESS_STUCK, True)
                assert (await driver.observe(desired.uid)).power is PowerState.UNKNOWN
                assert record_file(host, desired.uid).exists()
        assert killed
        assert state_of(pid) == "D"
    async with host.open() as driver:
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.POWERED_OFF
        await driver.destroy(desired.uid)
    assert not record_file(host, desired.uid).exists()
    assert not (FREEZER / desired.uid).exists()


async def test_h34_a_qemu_that_is_slow_to_quit_is_not_killed(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch, killed: list[int]
) -> None:
    """After its guest's shutdown; it stands still from the moment that it is told to quit, as if it wrote."""
    stopped: list[int] = []
    quit_ = Monitor.quit

    async def slow_quit(monitor: Monitor, *, timeout_s: float) -> None:
        pid = pid_of(host, desired)
        stopped.append(pid)
        os.kill(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(qemu_run.QUIT_TIMEOUT_S / 3, os.kill, pid, signal.SIGCONT)
        await quit_(monitor, timeout_s=timeout_s)

    monkeypatch.setattr(Monitor, "quit", slow_quit)
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await driver.shut_down(desired.uid)
        run = driver._machines[desired.uid]._run
        assert run is not None
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.STOPPED
        assert len(stopped) == 1
        assert (run.process.exit_status, killed) == (0, [])


async def test_a_guest_that_ends_as_its_driver_ends_leaves_nothing_behind_the_next_one(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit is written, and nobody sees its process go."""
    told = asyncio.Event()

    async def endless_quit(_monitor: Monitor, *, timeout_s: float) -> None:
        assert timeout_s > 0
        told.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Monitor, "quit", endless_quit)
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await driver.shut_down(desired.uid)
        await asyncio.wait_for(told.wait(), 10)
    os.kill(pid_of(host, desired), signal.SIGKILL)
    eventually(lambda: not guest_processes(host.folder))
    run_folder = host.folder / "run" / desired.uid
    assert (bool(groups_named(desired.uid)), run_folder.exists()) == (os.geteuid() == 0, True)
    async with host.open() as driver:
        assert (await driver.observe(desired.uid)).power is PowerState.STOPPED
        assert (groups_named(desired.uid), run_folder.exists()) == ([], False)


async def test_h6_a_command_that_takes_effect_after_its_deadline_is_seen_and_can_be_undone(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        pid = pid_of(host, desired)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Unresponsive):
            await driver.pause(desired.uid)
        os.kill(pid, signal.SIGCONT)
        await until(lambda: driver.observe(desired.uid), lambda seen: seen.power is PowerState.PAUSED)
        await driver.resume(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING


async def test_h17_a_look_that_began_with_an_earlier_run_ends_with_what_the_present_one_does(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu_run, "QUIT_TIMEOUT_S", 0.1)
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        os.kill(pid_of(host, desired), signal.SIGSTOP)
        looks = [asyncio.create_task(driver.observe(desired.uid)) for _ in range(20)]
        await driver.power_off(desired.uid)
        await driver.start(desired.uid)
        for seen in await asyncio.gather(*looks):
            assert seen.power in (PowerState.STOPPED, PowerState.RUNNING)
            assert seen.last_exit is not None
            assert seen.last_exit.reason is ExitReason.POWERED_OFF
        seen = await driver.observe(desired.uid)
        assert seen.power is PowerState.RUNNING
        assert len(guest_processes(host.folder)) == 1
