"""Real QEMU processes, and what happens to them while somebody looks, and while nobody does."""

import asyncio
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.guest_processes import end_guests, guest_processes
from tests.cluster.guests.boot_sector import GREETING, BootSectorKind
from tests.drivers.hypervisor.hosts import QemuHost, machine
from tests.drivers.hypervisor.test_contract import until, until_stopped
from tests.drivers.qemu.machines.starting import pid_of, record_file, started, ticks
from virtplane_api.vocabulary import DiskFormat, DiskType, ExitReason, PowerState
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import LaunchFailed
from virtplane_drivers.hypervisor.contract import Desired, Disk
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver
from virtplane_drivers.hypervisor.qemu.output import cap_serial, read_serial


async def test_a_driver_that_comes_back_adopts_the_process_and_the_guest_ticks_on(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        pid = pid_of(host, desired)
    async with host.open() as driver:
        console = await ticks(driver, desired.uid, 3)
        assert console.count(GREETING) == 1
        assert pid_of(host, desired) == pid
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING


async def test_a_crash_names_the_signal(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        os.kill(pid_of(host, desired), signal.SIGKILL)
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert (seen.last_exit.reason, seen.last_exit.message) == (
            ExitReason.CRASHED,
            "QEMU was ended by signal 9",
        )


async def test_a_guest_that_shut_itself_down_while_nobody_looked_is_known_for_it(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host, BootSectorKind.POWERS_OFF)
    await asyncio.sleep(0)
    deadline = time.monotonic() + 15
    log = host.folder / "state" / desired.uid / "serial.log"
    while b"tick 3" not in (log.read_bytes() if log.exists() else b""):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    async with host.open() as driver:
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.GUEST_SHUTDOWN
        assert guest_processes(host.folder) == []


async def test_a_process_that_died_while_nobody_looked_has_crashed(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
    end_guests(host.folder)
    async with host.open() as driver:
        seen = await driver.observe(desired.uid)
        assert seen.power is PowerState.STOPPED
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.CRASHED


async def test_a_record_of_another_boot_says_that_the_host_was_rebooted(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
    end_guests(host.folder)
    change_record(host, desired.uid, boot_id="11111111-2222-3333-4444-555555555555")
    async with host.open() as driver:
        seen = await driver.observe(desired.uid)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.HOST_REBOOTED


def change_record(host: QemuHost, uid: str, **process: object) -> None:
    path = record_file(host, uid)
    record = json.loads(path.read_text())
    record["process"] |= process
    path.write_text(json.dumps(record))


async def test_a_pid_that_belongs_to_another_process_by_now_is_never_touched(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
    end_guests(host.folder)
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        change_record(host, desired.uid, pid=bystander.pid)
        async with host.open() as driver:
            assert (await driver.observe(desired.uid)).power is PowerState.STOPPED
            await driver.power_off(desired.uid)
            await driver.destroy(desired.uid)
        assert bystander.returncode is None
    finally:
        bystander.kill()
        await bystander.wait()


@pytest.mark.parametrize("damage", ["lost", "torn", "empty"])
async def test_a_machine_whose_record_is_damaged_is_known_by_its_command_line(host: QemuHost, damage: str) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        pid = pid_of(host, desired)
    path = record_file(host, desired.uid)
    match damage:
        case "lost":
            path.unlink()
        case "torn":
            path.write_bytes(path.read_bytes()[:100])
        case "empty":
            path.write_bytes(b"")
    async with host.open() as driver:
        seen = await until(lambda: driver.observe(desired.uid), lambda seen: seen.power is PowerState.RUNNING)
        assert (seen.owner, seen.namespace, seen.name) == (desired.owner, "shop", "web")
        await driver.define(desired)
        await driver.start(desired.uid)
        assert pid_of(host, desired) == pid


async def test_a_process_whose_start_was_not_written_down_to_the_end_is_adopted(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        pid = pid_of(host, desired)
    path = record_file(host, desired.uid)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"intent": "Starting", "process": None, "started_at": None}))
    async with host.open() as driver:
        await driver.start(desired.uid)
        assert pid_of(host, desired) == pid
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING


async def test_a_hung_machine_is_unknown_delays_nobody_and_can_be_destroyed(host: QemuHost) -> None:
    async with host.open() as driver:
        hung, lively = await started(driver, host), await started(driver, host)
        os.kill(pid_of(host, hung), signal.SIGSTOP)
        looking = asyncio.create_task(driver.observe(hung.uid))
        assert (await driver.observe(lively.uid)).power is PowerState.RUNNING
        assert not looking.done()
        seen = await looking
        assert seen.power is PowerState.UNKNOWN
        assert str(pid_of(host, hung)) in seen.message
        await driver.destroy(hung.uid)
        assert len(guest_processes(host.folder)) == 1


async def test_a_hung_machine_that_answers_again_is_running_again(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        pid = pid_of(host, desired)
        os.kill(pid, signal.SIGSTOP)
        assert (await driver.observe(desired.uid)).power is PowerState.UNKNOWN
        os.kill(pid, signal.SIGCONT)
        await until(lambda: driver.observe(desired.uid), lambda seen: seen.power is PowerState.RUNNING)


async def test_a_machine_that_qemu_refuses_stays_stopped_and_says_why(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = machine(host)
        (host.folder / "raw.qcow2").write_bytes(b"no qcow2" * 512)
        damaged = FileAttachment(host.folder / "raw.qcow2", DiskFormat.QCOW2)
        desired = replace(desired, disks=(Disk("root", damaged),))
        await driver.define(desired)
        with pytest.raises(LaunchFailed, match="Image is not in qcow2 format") as refused:
            await driver.start(desired.uid)
        assert refused.value.exit_status == 1
        assert "-blockdev" in refused.value.argv
        seen = await driver.observe(desired.uid)
        assert (seen.power, seen.last_exit) == (PowerState.STOPPED, None)
    assert cgroups_of(desired) == []


async def test_destroy_leaves_no_file_no_socket_and_no_cgroup(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        assert list((host.folder / "run").rglob("monitor"))
        await driver.destroy(desired.uid)
    assert list((host.folder / "run").iterdir()) == []
    assert list((host.folder / "state").iterdir()) == []
    assert cgroups_of(desired) == []


def cgroups_of(desired: Desired) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"*/virtplane/{desired.uid}"))


async def test_a_long_runtime_folder_is_no_hindrance(host: QemuHost) -> None:
    folder = host.folder / ("x" * 90)
    async with QemuDriver(host.folder / "state", folder, accelerator="tcg") as driver:
        desired = await started(driver, host)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING


async def test_the_most_disks_that_are_accepted_do_start(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = machine(host)
        disks = [Disk(f"disk-{n}", host.disk(obedient=True)) for n in range(24)]
        disks += [Disk(f"cd-{n}", host.disk(obedient=True), type=DiskType.CDROM) for n in range(6)]
        await driver.define(replace(desired, disks=tuple(disks)))
        await driver.start(desired.uid)
        async with asyncio.timeout(30):
            while GREETING.encode() not in await driver.serial_log(desired.uid, 4096):
                await asyncio.sleep(0.1)


def test_a_console_that_grows_too_long_keeps_its_end(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_bytes(b"old " * 1000 + b"the end\n")
    cap_serial(tmp_path, 1000)
    assert log.stat().st_size == 0
    with log.open("ab") as file:
        file.write(b"and on\n")
    assert read_serial(tmp_path, 100).endswith(b"the end\nand on\n")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1000
