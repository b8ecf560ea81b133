"""What has gone wrong between monitors and machines elsewhere, h16 to h40 of the hazards; docs/hazards.md lists all."""

import asyncio
import itertools
import os
import signal
import socket

import pytest

from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until_stopped
from tests.drivers.qemu.machines.scripted_machine import UID, ScriptedMachine, scripted_machine
from tests.drivers.qemu.machines.starting import pid_of, started, ticks
from tests.drivers.qemu.monitor.scripted_qmp import event
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.process import GuestProcess
from virtplane_drivers.hypervisor.contract import Exit, Observed
from virtplane_drivers.hypervisor.qemu import run as qemu_run
from virtplane_drivers.hypervisor.qemu.following import BETWEEN
from virtplane_drivers.hypervisor.qemu.monitor import HungUp
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records

EVENTS = {
    "SHUTDOWN": event("SHUTDOWN", guest=True, reason="guest-shutdown"),
    "RESET": event("RESET", guest=True, reason="guest-reset"),
    "STOP": event("STOP"),
    "RESUME": event("RESUME"),
    "POWERDOWN": event("POWERDOWN"),
}


async def until(machine: ScriptedMachine, power: PowerState) -> Observed:
    async with asyncio.timeout(15):
        while (seen := await machine.driver.observe(UID)).power is not power:
            await asyncio.sleep(0.01)
    return seen


# --- events are hints -------------------------------------------------------------------------------------------------


async def test_h31_h32_h33_no_order_of_events_ends_or_pauses_a_guest_that_qemu_says_runs(host: QemuHost) -> None:
    async with scripted_machine(host) as machine:
        assert (await machine.driver.observe(UID)).power is PowerState.RUNNING
        for length in range(1, len(EVENTS) + 1):
            for order in itertools.permutations(EVENTS, length):
                await machine.server.send(*(EVENTS[name] for name in order))
                seen = await machine.driver.observe(UID)
                assert (seen.power, seen.last_exit) == (PowerState.RUNNING, None), order
        assert machine.commands == []
        assert machine.process.poll() is None


STATES = {"STOP": "paused", "RESUME": "running", "SHUTDOWN": "shutdown"}
"""What QEMU says after such an event; after others as before."""
ORDERS = [
    order for length in range(1, 6) for order in itertools.permutations(EVENTS, length) if "SHUTDOWN" in order
] + [("SHUTDOWN", "SHUTDOWN"), ("STOP", "SHUTDOWN", "SHUTDOWN", "STOP"), ("RESET", "RESET", "SHUTDOWN")]


@pytest.mark.parametrize("first", EVENTS)
async def test_h33_h35_whatever_comes_before_and_after_it_an_end_is_written_once_and_is_never_shown_as_a_pause(
    host: QemuHost, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[Exit | None] = []
    write = Records.write

    def noting(records: Records, record: Record) -> None:
        exits.append(record.last_exit)
        write(records, record)

    monkeypatch.setattr(Records, "write", noting)
    for number, order in enumerate(ORDERS):
        if order[0] != first:
            continue
        exits.clear()
        async with scripted_machine(QemuHost(host.folder / str(number))) as machine:
            await machine.driver.observe(UID)
            before, after = order[: order.index("SHUTDOWN")], order[order.index("SHUTDOWN") :]
            for name in before:
                machine.state = STATES.get(name, machine.state)
                await machine.server.send(EVENTS[name])
                shown = PowerState.PAUSED if machine.state == "paused" else PowerState.RUNNING
                assert (await machine.driver.observe(UID)).power is shown, order
            machine.state = "shutdown"
            await machine.server.send(*(EVENTS[name] for name in after))
            seen: list[Observed] = []
            async with asyncio.timeout(15):
                while not seen or seen[-1].power is not PowerState.STOPPED:
                    seen.append(await machine.driver.observe(UID))
            assert {one.power for one in seen} <= {PowerState.RUNNING, PowerState.STOPPED}, order
            assert machine.commands == ["quit"]
            written = [one for one in exits if one is not None]
            assert {one.reason for one in written} == {ExitReason.GUEST_SHUTDOWN}
            assert set(written) == {seen[-1].last_exit}, order


async def test_h33_a_guest_that_is_reset_after_it_shut_down_goes_on_and_its_later_end_is_another(
    host: QemuHost,
) -> None:
    """A reset that was under way as the guest shut down: QEMU holds it, ready to boot."""
    async with host.open() as driver:
        desired = await started(driver, host)
        await ticks(driver, desired.uid, 1)
        machine = driver._machines[desired.uid]
        run = machine._run
        assert run is not None
        async with machine._acting:  # nobody looks in between
            await run.command("system_powerdown")
            async with asyncio.timeout(15):
                while await run.state() != "shutdown":
                    await asyncio.sleep(0.01)
            await run.command("system_reset")
        seen = await driver.observe(desired.uid)
        assert (seen.power, seen.last_exit) == (PowerState.PAUSED, None)
        await driver.resume(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING
        os.kill(pid_of(host, desired), signal.SIGKILL)
        seen = await until_stopped(driver, desired.uid)
        assert seen.last_exit is not None
        assert (seen.last_exit.reason, seen.last_exit.message) == (ExitReason.CRASHED, "QEMU was ended by signal 9")


async def test_h31_an_error_that_is_told_late_holds_nothing(host: QemuHost) -> None:
    """QEMU keeps some events back for a second: what they speak of is over."""
    async with scripted_machine(host) as machine:
        await machine.driver.observe(UID)
        await machine.server.send(event("BLOCK_IO_ERROR", device="", operation="write", action="stop"), EVENTS["STOP"])
        seen = await machine.driver.observe(UID)
        assert (seen.power, seen.has_io_error) == (PowerState.RUNNING, False)
        machine.state = "io-error"
        assert (await machine.driver.observe(UID)).has_io_error


async def test_h32_a_reset_right_after_the_start_is_no_end(host: QemuHost) -> None:
    async with host.open() as driver:
        for _ in range(5):
            desired = await started(driver, host)
            pid = pid_of(host, desired)
            for _ in range(3):
                await driver.reset(desired.uid)
            seen = await driver.observe(desired.uid)
            assert (seen.power, seen.last_exit, pid_of(host, desired)) == (PowerState.RUNNING, None, pid)
            await driver.destroy(desired.uid)


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_h16_a_monitor_that_is_lost_is_no_end_of_its_machine(host: QemuHost) -> None:
    async with scripted_machine(host) as machine:
        for _ in range(3):
            seen = await until(machine, PowerState.RUNNING)
            assert seen.last_exit is None
            machine.server.client.shutdown(socket.SHUT_RDWR)
            assert (await machine.driver.observe(UID)).power is not PowerState.STOPPED
        await until(machine, PowerState.RUNNING)
        machine.process.kill()
        seen = await until(machine, PowerState.STOPPED)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.CRASHED


async def test_h16_the_last_event_says_why_also_when_the_kernel_tells_of_the_death_before_it_is_read(
    host: QemuHost,
) -> None:
    async with scripted_machine(host) as machine:
        await machine.driver.observe(UID)
        run = machine.driver._machines[UID]._run
        assert run is not None
        machine.process.kill()
        assert await run.process.wait(5.0)
        await machine.server.send(EVENTS["SHUTDOWN"])
        machine.server.hang_up()
        seen = await until(machine, PowerState.STOPPED)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.GUEST_SHUTDOWN


async def test_h17_what_is_heard_of_an_earlier_run_does_not_touch_the_present_one(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        earlier = driver._machines[desired.uid]._run
        assert earlier is not None
        await driver.power_off(desired.uid)
        await driver.start(desired.uid)
        before = await driver.observe(desired.uid)
        earlier._heard(EVENTS["SHUTDOWN"])
        earlier._link._lost(HungUp("QEMU closed the connection"))
        present = driver._machines[desired.uid]._run
        assert present is not None
        async with asyncio.timeout(5):
            while driver._machines[desired.uid]._wake.is_set():
                await asyncio.sleep(0)
        assert present.cause == ""
        assert await driver.observe(desired.uid) == before


async def test_h18_the_death_of_one_machine_is_seen_while_another_one_hangs(host: QemuHost) -> None:
    async with host.open() as driver:
        hung, other = await started(driver, host), await started(driver, host)
        os.kill(pid_of(host, hung), signal.SIGSTOP)
        looking = asyncio.create_task(driver.observe(hung.uid))
        ending = asyncio.create_task(driver.power_off(hung.uid))
        os.kill(pid_of(host, other), signal.SIGKILL)
        async with asyncio.timeout(15):
            while (seen := await driver.observe(other.uid)).power is not PowerState.STOPPED:
                await asyncio.sleep(0.01)
        assert seen.last_exit is not None
        assert not ending.done()
        await asyncio.gather(looking, ending)


async def test_h34_a_qemu_that_still_writes_is_asked_to_quit_and_not_killed(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(GuestProcess, "kill", lambda _: killed.append("killed"))
    async with scripted_machine(host) as machine:
        await machine.driver.observe(UID)
        machine.state, machine.quits_after_s = "shutdown", qemu_run.QUIT_TIMEOUT_S / 3
        await machine.server.send(EVENTS["SHUTDOWN"])
        await until(machine, PowerState.STOPPED)
        assert machine.driver._machines[UID].record.last_exit is not None
        assert (machine.commands, killed) == (["quit"], [])


async def test_h36_a_guest_whose_memory_is_read_is_never_told_to_go_on(host: QemuHost) -> None:
    """An agent was killed over the reading. The process goes, and the memory is read anew by another."""
    async with scripted_machine(host, Intent.WAKING) as machine:
        machine.state = "inmigrate"
        await asyncio.gather(machine.driver.resume(UID), return_exceptions=True)
        await until(machine, PowerState.SUSPENDED)
        assert machine.commands == ["quit"]


@pytest.mark.parametrize("intent", sorted(BETWEEN))
async def test_h36_no_verb_lets_a_guest_go_on_whose_memory_is_on_its_way(host: QemuHost, intent: Intent) -> None:
    """Also while the worker looks how far it is: here without the lock that keeps them apart."""
    async with scripted_machine(host, intent) as machine:
        asleep = machine.driver._machines[UID]
        await asleep._resume()
        await asleep._pause()
        with pytest.raises(Unavailable):
            await asleep._shut_down()
        assert not {"cont", "stop", "system_powerdown"} & set(machine.commands)


async def test_h36_a_guest_that_woke_as_its_record_was_lost_is_over_and_not_shown_as_running(host: QemuHost) -> None:
    """It would wait for ever. It has not run: what is on the disk is whole, and the next start says where it lies."""
    async with scripted_machine(host) as machine:
        machine.state = "inmigrate"
        seen = await until(machine, PowerState.STOPPED)
        assert seen.last_exit is not None
        assert (seen.last_exit.reason, seen.ended_by_itself) == (ExitReason.CRASHED, True)
        assert machine.commands == ["quit"]


async def test_h40_a_process_that_does_not_die_is_not_called_stopped_and_its_record_stays(
    host: QemuHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL that does nothing is a double's: a real one waits for a device in the kernel."""
    monkeypatch.setattr(GuestProcess, "kill", lambda _: None)
    monkeypatch.setattr(qemu_run, "QUIT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(qemu_run, "DEATH_TIMEOUT_S", 0.1)
    async with scripted_machine(host) as machine:
        machine.quits_after_s = 600.0
        for verb in (machine.driver.power_off, machine.driver.destroy):
            with pytest.raises(Unavailable) as stuck:
                await verb(UID)
            assert stuck.value.reason == Reason.PROCESS_STUCK
            assert (await machine.driver.observe(UID)).power is not PowerState.STOPPED
            assert (host.folder / "state" / UID / "record.json").exists()
        machine.process.kill()
        await machine.driver.destroy(UID)
        assert not (host.folder / "state" / UID).exists()
