"""Memory that goes to the disk and comes back, and the deaths in between. Real QEMU, real guests that count."""

import asyncio
import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.guest_processes import end_guests, guest_processes
from tests.cluster.guests.boot_sector import GREETING
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until, until_suspended
from tests.drivers.qemu.machines.starting import pid_of, record_file, started, ticks
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.errors import LaunchFailed, Unavailable
from virtplane_drivers.hypervisor.contract import Desired
from virtplane_drivers.hypervisor.qemu import suspension
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver
from virtplane_drivers.hypervisor.qemu.monitor import Monitor


def incarnation(host: QemuHost, uid: str) -> str:
    return str(json.loads(record_file(host, uid).read_text())["incarnation"])


def memory_files(host: QemuHost) -> list[str]:
    return sorted(path.name for path in (host.folder / "pool").glob("*.memory*"))


async def counted(driver: QemuDriver, uid: str) -> list[int]:
    console = (await driver.serial_log(uid, 65536)).decode()
    return [int(word) for word in console.replace("tick ", "").split() if word.isdigit()]


async def goes_on(driver: QemuDriver, desired: Desired) -> None:
    """The guest counts on from where it was, without a second greeting."""
    last = (await counted(driver, desired.uid))[-1]
    console = await ticks(driver, desired.uid, last + 2)
    assert console.count(GREETING) == 1
    numbers = await counted(driver, desired.uid)
    assert numbers == list(range(1, numbers[-1] + 1))


async def test_a_suspended_guest_counts_on_after_a_reboot_of_the_host(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 2)
        await until_suspended(driver, desired.uid)
        assert guest_processes(host.folder) == []
        assert memory_files(host) == [f"{desired.uid}.{incarnation(host, desired.uid)}.memory"]
        assert (host.folder / "pool" / memory_files(host)[0]).stat().st_mode & 0o777 == 0o600
    path = record_file(host, desired.uid)
    record = json.loads(path.read_text())
    assert record["process"] is None, "nothing of another boot is left to compare with"
    async with host.open() as driver:
        await driver.start(desired.uid)
        assert memory_files(host) == []
        await goes_on(driver, desired)


async def test_a_driver_that_left_while_memory_was_written_is_followed_by_one_that_finishes(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await driver.suspend(desired.uid)
    async with host.open() as driver:
        await until(lambda: driver.observe(desired.uid), lambda seen: seen.power is PowerState.SUSPENDED)
        await driver.start(desired.uid)
        await goes_on(driver, desired)


@pytest.mark.parametrize("memory", ["whole", "partial", "none"])
async def test_a_process_that_dies_while_its_memory_is_written_is_suspended_only_if_that_was_whole(
    host: QemuHost, memory: str
) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await until_suspended(driver, desired.uid)
    # As after a crash of the host between the last byte and the word in the record.
    path = record_file(host, desired.uid)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intent": "Suspending"}))
    [file] = (host.folder / "pool").glob(f"{desired.uid}.*.memory")
    match memory:
        case "whole":
            pass
        case "partial":
            file.rename(file.with_name(f"{file.name}.partial"))
        case "none":
            file.unlink()
    async with host.open() as driver:
        seen = await driver.observe(desired.uid)
        if memory == "whole":
            assert seen.power is PowerState.SUSPENDED
            await driver.start(desired.uid)
            await goes_on(driver, desired)
        else:
            assert (seen.power, seen.ended_by_itself) == (PowerState.STOPPED, True)
            assert memory_files(host) == []


async def test_memory_that_cannot_be_read_leaves_the_machine_suspended_and_says_what_to_do(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await until_suspended(driver, desired.uid)
        [file] = (host.folder / "pool").glob(f"{desired.uid}.*.memory")
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(LaunchFailed, match="terminationGracePeriodSeconds 0"):
            await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.SUSPENDED
        assert guest_processes(host.folder) == []
        file.write_bytes(content)
        await driver.start(desired.uid)
        await goes_on(driver, desired)


async def test_a_process_that_dies_while_it_reads_its_memory_leaves_the_machine_suspended(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await until_suspended(driver, desired.uid)
        waking = asyncio.create_task(driver.start(desired.uid))
        async with asyncio.timeout(10):
            while not (pids := guest_processes(host.folder / "state" / desired.uid)):
                await asyncio.sleep(0)
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(LaunchFailed):
            await waking
        assert (await driver.observe(desired.uid)).power is PowerState.SUSPENDED
        await driver.start(desired.uid)
        await goes_on(driver, desired)


async def test_a_folder_that_takes_no_memory_is_a_failure_and_the_guest_runs_on(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        obstacle = host.folder / "pool" / f"{desired.uid}.{incarnation(host, desired.uid)}.memory.partial"
        obstacle.mkdir()
        pid = pid_of(host, desired)
        with pytest.raises(Unavailable, match=r"its memory cannot be written: .*\.memory\.partial"):
            await driver.suspend(desired.uid)
        obstacle.rmdir()
        assert pid_of(host, desired) == pid
        await goes_on(driver, desired)


async def test_a_host_that_crashes_while_suspended_machines_lie_on_its_disk_loses_none(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await until_suspended(driver, desired.uid)
    end_guests(host.folder)
    async with host.open() as driver:
        seen = await driver.observe(desired.uid)
        assert (seen.power, seen.last_exit) == (PowerState.SUSPENDED, None)
        await driver.power_off(desired.uid)
        given_up = await driver.observe(desired.uid)
        assert given_up.last_exit is not None
        assert given_up.last_exit.reason is ExitReason.POWERED_OFF
        assert memory_files(host) == []


def test_a_folder_of_records_is_the_memory_s_place_without_a_disk(tmp_path: Path) -> None:
    from virtplane_drivers.hypervisor.qemu.definition import Definition  # noqa: PLC0415
    from virtplane_drivers.hypervisor.qemu.suspension import memory_file  # noqa: PLC0415

    definition = Definition("shop", "web", "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11", 1, "max", 32, "pc-q35-7.2", "tcg")
    assert memory_file(definition, "uid-1", "run-1", tmp_path).path == tmp_path / "uid-1.run-1.memory"


async def test_a_machine_that_woke_is_suspended_again_and_wakes_again(host: QemuHost) -> None:
    """Its disk's lock, and so its memory, go by the run that booted."""
    async with host.open() as driver:
        desired = await started(driver, host)
        for _ in range(2):
            await ticks(driver, desired.uid, 1)
            await until_suspended(driver, desired.uid)
            await driver.start(desired.uid)
            await goes_on(driver, desired)
        assert memory_files(host) == []


@pytest.mark.parametrize("partial", [None, b""])
async def test_a_driver_killed_before_a_second_suspension_began_does_not_take_the_first_for_it(
    host: QemuHost, partial: bytes | None
) -> None:
    """QEMU says "completed" of the memory that it has read."""
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await until_suspended(driver, desired.uid)
        path = record_file(host, desired.uid)
        memory = Path(json.loads(path.read_text())["memory"])
        await driver.start(desired.uid)
        await goes_on(driver, desired)
        pid = pid_of(host, desired)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intent": "Suspending", "memory": str(memory)}))
    if partial is not None:
        memory.with_name(f"{memory.name}.partial").write_bytes(partial)
    async with host.open() as driver:
        await until(lambda: driver.observe(desired.uid), lambda seen: seen.power is PowerState.RUNNING)
        await goes_on(driver, desired)
        assert (pid_of(host, desired), memory_files(host)) == (pid, [])


async def test_a_memory_whose_last_bytes_may_not_be_on_the_disk_is_given_up_and_the_guest_runs_on(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the kernel has dropped what it could not write: a second one would succeed for nothing."""
    synced: list[Path] = []

    def failing(path: Path, _flags: int) -> None:
        synced.append(path)
        if path.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")

    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        pid = pid_of(host, desired)
        monkeypatch.setattr(suspension, "_sync", failing)
        await driver.suspend(desired.uid)
        async with asyncio.timeout(15):
            while not any(path.name.endswith(".partial") for path in synced):
                await asyncio.sleep(0.01)
        with pytest.raises(Unavailable, match="its memory cannot be written"):
            await driver.suspend(desired.uid)
        assert len([path for path in synced if path.name.endswith(".partial")]) == 1
        assert (pid_of(host, desired), memory_files(host)) == (pid, [])
        monkeypatch.undo()
        await goes_on(driver, desired)


async def test_h36_verbs_that_come_while_memory_is_read_leave_a_real_qemu_to_read_it(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe in the place of the file: QEMU is in state `inmigrate` for as long as half of it is missing."""
    sent: list[str] = []
    execute = Monitor.execute

    def noting(monitor: Monitor, command: str, *arguments: Any, **options: Any) -> Any:
        sent.append(command)
        return execute(monitor, command, *arguments, **options)

    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        await until_suspended(driver, desired.uid)
        memory = host.folder / "pool" / memory_files(host)[0]
        content = memory.read_bytes()
        memory.unlink()
        os.mkfifo(memory)
        monkeypatch.setattr(Monitor, "execute", noting)
        waking = asyncio.create_task(driver.start(desired.uid))
        pipe = await asyncio.to_thread(memory.open, "wb", 0)
        try:
            await asyncio.to_thread(pipe.write, content[: len(content) // 2])
            run = driver._machines[desired.uid]._run
            assert run is not None
            assert await run.state() == "inmigrate"
            verbs = [asyncio.create_task(driver.resume(desired.uid)) for _ in range(3)]
            assert (await driver.observe(desired.uid)).message == "Waking"
            assert await run.state() == "inmigrate"
            assert not {"cont", "stop", "quit"} & set(sent)
            rest = memoryview(content)[len(content) // 2 :]
            while rest:
                rest = rest[await asyncio.to_thread(pipe.write, rest) :]
        finally:
            pipe.close()
        await waking
        await asyncio.gather(*verbs)
        assert sent.index("migrate-incoming") < sent.index("cont")
        await goes_on(driver, desired)
