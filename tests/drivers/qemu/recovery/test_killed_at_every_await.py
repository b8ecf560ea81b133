"""The agent's process is killed at each point where it can stand still, and the next one finds what it must find.

After every kill: at most one process runs the machine. After the next driver has finished the verb: the state that was
asked for, no second boot where there must be none, and after a destroy nothing at all. A tap is there if a process is.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cluster.guest_processes import guest_processes
from tests.cluster.guests.boot_sector import GREETING, BootSectorKind
from tests.cluster.waiting import eventually
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.qemu.machines.lan import Lan, new_lan
from tests.drivers.qemu.machines.starting import defined
from tests.drivers.qemu.recovery.killed import VERBS
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Desired
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver

EVERY = int(os.environ.get("VIRTPLANE_EVERY_AWAIT", "23"))
"""Each how many-th point is tried: `pytest` alone takes a sample, `make test-long` takes all (1)."""


@dataclass(frozen=True)
class Case:
    """A verb, from where it begins, where it ends, and how many boots it costs."""

    verb: str
    before: PowerState
    after: PowerState | None
    boots: int


CASES = (
    Case("start", PowerState.STOPPED, PowerState.RUNNING, 1),
    Case("shut_down", PowerState.RUNNING, PowerState.STOPPED, 0),
    Case("restart", PowerState.RUNNING, PowerState.RUNNING, 1),
    Case("suspend", PowerState.RUNNING, PowerState.SUSPENDED, 0),
    Case("start", PowerState.SUSPENDED, PowerState.RUNNING, 0),
    Case("power_off", PowerState.RUNNING, PowerState.STOPPED, 0),
    Case("destroy", PowerState.RUNNING, None, 0),
    Case("destroy", PowerState.SUSPENDED, None, 0),
)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan | None]:
    """What the machine's adapter is joined to; only root makes networks."""
    with new_lan(tmp_path / "lan") if os.geteuid() == 0 else contextlib.nullcontext() as one:
        yield one


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.verb} from {case.before}")
async def test_the_next_driver_finds_one_machine_and_finishes(host: QemuHost, lan: Lan | None, case: Case) -> None:
    desired = defined(host, BootSectorKind.OBEDIENT)
    if lan is not None:
        desired = replace(desired, nics=(lan.nic(),))
    fatal, points = 1, 0
    while True:
        boots = await _brought_to(host, desired, case.before)
        status = await killed(host, case.verb, desired.uid, fatal)
        assert len(guest_processes(host.folder)) <= 1
        _taps_are_held(host, lan)
        async with host.open() as driver:
            await _finished(driver, desired, case)
            assert len(guest_processes(host.folder)) == (case.after is PowerState.RUNNING)
            _taps_are_held(host, lan)
            if case.after is PowerState.RUNNING:
                await _booted(driver, desired, boots + case.boots)
        if case.after is None:
            assert _left(host, desired) == []
        if status == 0:
            break
        assert status == -signal.SIGKILL
        fatal, points = fatal + EVERY, points + 1
    assert points > 0
    async with host.open() as driver:
        await driver.destroy(desired.uid)
    assert _left(host, desired) == []


def _taps_are_held(host: QemuHost, lan: Lan | None) -> None:
    """Soon: what was killed may have been about to execute a shell."""
    if lan is not None:
        eventually(lambda: len(lan.taps()) == len(guest_processes(host.folder)), interval_s=0.01)


async def killed(host: QemuHost, verb: str, uid: str, fatal: int) -> int:
    argv = [sys.executable, "-m", "tests.drivers.qemu.recovery.killed", str(host.folder), verb, uid, str(fatal)]
    process = await asyncio.create_subprocess_exec(*argv)
    return await process.wait()


async def _brought_to(host: QemuHost, desired: Desired, power: PowerState) -> int:
    """The state that the verb begins from; how often the guest has booted by then."""
    async with host.open() as driver:
        if (await driver.observe(desired.uid)).power is not power:
            await driver.power_off(desired.uid)
            await driver.define(desired)
        if power is PowerState.STOPPED:
            return await _boots(driver, desired)
        before = await _boots(driver, desired)
        if (await driver.observe(desired.uid)).power is PowerState.STOPPED:
            await driver.start(desired.uid)
            await _booted(driver, desired, before + 1)
        if power is PowerState.SUSPENDED:
            await VERBS["suspend"](driver, desired.uid)
        return await _boots(driver, desired)


async def _finished(driver: QemuDriver, desired: Desired, case: Case) -> None:
    """As the next pass of an agent: the same verb again, unless all of it was done."""
    seen = await driver.observe(desired.uid)
    if case.verb == "restart":
        if seen.shut_down_asked_at is not None:
            await VERBS["shut_down"](driver, desired.uid)
        await driver.start(desired.uid)
    elif case.verb == "start":
        await _runs(driver, desired.uid)
    elif seen.power is not case.after:
        await VERBS[case.verb](driver, desired.uid)
    assert (await driver.observe(desired.uid)).power is case.after


async def _runs(driver: QemuDriver, uid: str) -> None:
    """As an agent's passes do: by what is seen, and nothing that was remembered."""
    async with asyncio.timeout(30):
        while (seen := await driver.observe(uid)).power is not PowerState.RUNNING or seen.message:
            if seen.power in (PowerState.STOPPED, PowerState.SUSPENDED):
                await driver.start(uid)
            elif seen.power is PowerState.PAUSED:
                await driver.resume(uid)
            await asyncio.sleep(0.05)


async def _boots(driver: QemuDriver, desired: Desired) -> int:
    return (await driver.serial_log(desired.uid, 1 << 20)).decode().count(GREETING)


async def _booted(driver: QemuDriver, desired: Desired, at_most: int) -> None:
    """The guest ticks, and has greeted no more often than it may have."""
    before = (await driver.serial_log(desired.uid, 1 << 20)).count(b"tick ")
    async with asyncio.timeout(20):
        while (await driver.serial_log(desired.uid, 1 << 20)).count(b"tick ") == before:
            await asyncio.sleep(0.05)
    assert await _boots(driver, desired) <= at_most


def _left(host: QemuHost, desired: Desired) -> list[str]:
    """All that there is of the machine but its disk."""
    disk = (f"{desired.uid}.img", f"{desired.uid}.img.lock")
    files = [path for path in host.folder.rglob("*") if desired.uid in str(path) and path.name not in disk]
    groups = Path("/sys/fs/cgroup").glob(f"*/virtplane/{desired.uid}")
    return [*map(str, files), *map(str, groups), *map(str, guest_processes(host.folder))]
