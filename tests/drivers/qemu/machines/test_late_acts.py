"""What has to wait: an old wish never comes true later, and what is not known is not called anything else."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.qemu.machines.scripted_machine import UID, ScriptedMachine, scripted_machine
from tests.drivers.qemu.machines.starting import pid_of, record_file, started
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hypervisor.qemu import driver as qemu_driver
from virtplane_drivers.hypervisor.qemu import following, machine
from virtplane_drivers.hypervisor.qemu.suspension import MemoryFile


@asynccontextmanager
async def busy(scripted: ScriptedMachine) -> AsyncIterator[asyncio.Event]:
    """Something is being done with the machine until the event is set; it is, at the end."""
    done, begun = asyncio.Event(), asyncio.Event()

    async def verb() -> None:
        begun.set()
        await done.wait()

    task = asyncio.create_task(scripted.driver._machines[UID]._act(verb()))
    await begun.wait()
    try:
        yield done
    finally:
        done.set()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_reset_that_did_not_get_its_turn_does_not_happen_later(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_machine(host) as scripted:
        async with busy(scripted):
            monkeypatch.setattr(following, "ACT_TIMEOUT_S", 0.2)
            with pytest.raises(Unavailable, match="nothing was done"):
                await scripted.driver.reset(UID)
            monkeypatch.undo()
        # What comes behind it is served, so it would have been too.
        await scripted.driver.pause(UID)
        assert scripted.commands == ["stop"]


async def test_a_reset_whose_caller_is_cancelled_before_its_turn_does_not_happen(host: QemuHost) -> None:
    async with scripted_machine(host) as scripted:
        async with busy(scripted):
            resetting = asyncio.create_task(scripted.driver.reset(UID))
            await asyncio.sleep(0)
            resetting.cancel()
            await asyncio.gather(resetting, return_exceptions=True)
        await scripted.driver.pause(UID)
        assert scripted.commands == ["stop"]


async def test_a_verb_that_has_begun_is_done_to_its_end_though_its_caller_is_cancelled(host: QemuHost) -> None:
    async with scripted_machine(host) as scripted:
        owner: Any = scripted.driver._machines[UID]
        begun, ended = asyncio.Event(), asyncio.Event()

        async def verb() -> None:
            begun.set()
            await asyncio.sleep(0.05)
            ended.set()

        task = asyncio.create_task(owner._act(verb()))
        await begun.wait()
        task.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_machine_that_died_while_something_hangs_is_unknown_and_not_waited_for(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ANSWER_TIMEOUT_S", 0.2)
    async with scripted_machine(host) as scripted:
        async with busy(scripted):
            scripted.process.kill()
            async with asyncio.timeout(10):
                while "how is not written down yet" not in (await scripted.driver.observe(UID)).message:
                    await asyncio.sleep(0.01)
            assert (await scripted.driver.observe(UID)).power is PowerState.UNKNOWN
        async with asyncio.timeout(10):
            while (seen := await scripted.driver.observe(UID)).power is not PowerState.STOPPED:
                await asyncio.sleep(0.01)
        assert seen.last_exit is not None


async def with_memory_in_a_bad_pool(host: QemuHost, *, intent: str = "Running") -> str:
    """A machine whose record says that a memory lies in its pool; its UID."""
    async with host.open() as driver:
        desired = await started(driver, host)
    record = record_file(host, desired.uid)
    memory = host.folder / "pool" / f"{desired.uid}.0.memory"
    text = record.read_text().replace('"memory": ""', f'"memory": "{memory}"')
    record.write_text(text.replace('"intent": "Running"', f'"intent": "{intent}"'))
    if intent != "Running":
        os.kill(pid_of(host, desired), signal.SIGKILL)
    return desired.uid


async def test_a_pool_that_fails_keeps_no_driver_from_coming_up_and_its_machine_is_adopted_later(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_file: MemoryFile) -> None:
        raise OSError(5, "Input/output error")

    async with host.open() as driver:
        other = await started(driver, host)
    bad = await with_memory_in_a_bad_pool(host)
    monkeypatch.setattr(MemoryFile, "discard", fails)
    async with host.open() as driver:
        assert (await driver.observe(other.uid)).power is PowerState.RUNNING
        assert (await driver.observe(bad)).power is PowerState.RUNNING
        with pytest.raises(Unavailable, match="Input/output error"):
            await driver.pause(bad)
        monkeypatch.undo()
        await driver.pause(bad)
        assert (await driver.observe(bad)).power is PowerState.PAUSED


async def test_a_dead_machine_whose_memory_cannot_be_looked_for_is_unknown_and_then_has_its_exit(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, and not known for an end of its own, it would be started whatever its policy says."""
    real, is_bad = Path.exists, True

    def exists(path: Path) -> bool:
        if is_bad and path.name.endswith(".0.memory"):
            raise OSError(5, "Input/output error")
        return real(path)

    bad = await with_memory_in_a_bad_pool(host, intent="Suspending")
    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr(qemu_driver, "_ADOPT_TIMEOUT_S", 0.5)
    async with host.open() as driver:
        for _ in range(3):
            seen = await driver.observe(bad)
            assert (seen.power, seen.last_exit) == (PowerState.UNKNOWN, None)
            await asyncio.sleep(0)
        is_bad = False
        async with asyncio.timeout(10):
            while (seen := await driver.observe(bad)).power is PowerState.UNKNOWN:
                await asyncio.sleep(0.01)
        assert seen.power is PowerState.STOPPED
        assert seen.ended_by_itself
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.CRASHED
