"""Acts that meet a machine in a state that no real one can be held in, or a QEMU that a guest broke into."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_acts_contract import PNG
from tests.drivers.qemu.machines.scripted_machine import UID, scripted_machine
from tests.drivers.qemu.machines.starting import defined, pid_of, record_file, started
from virtplane_api.keys import KeyName
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DisplayType
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.hypervisor.contract import Desired, GuestCommand
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver
from virtplane_drivers.hypervisor.qemu.record import Intent

Act = Callable[[QemuDriver], Awaitable[object]]
ACTS: dict[str, Act] = {
    "reset": lambda driver: driver.reset(UID),
    "inject_nmi": lambda driver: driver.inject_nmi(UID),
    "send_keys": lambda driver: driver.send_keys(UID, [KeyName.KEY_A]),
    "screenshot": lambda driver: driver.screenshot(UID, 1 << 20),
    "run_guest_command": lambda driver: driver.run_guest_command(UID, GuestCommand(("true",), 1.0, 100)),
}
ENDED = ("shutdown", "guest-panicked", "watchdog", "internal-error")


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("state", ENDED)
async def test_nothing_is_done_to_a_guest_that_is_over_though_its_process_is_there(
    host: QemuHost, act: Act, state: str
) -> None:
    async with scripted_machine(host, display=DisplayType.VGA) as machine:
        await machine.driver.observe(UID)
        machine.state = state
        with pytest.raises(Refused) as refused:
            await act(machine.driver)
        assert refused.value.reason == Reason.NOT_RUNNING
        assert set(machine.commands) <= {"quit"}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
async def test_nothing_is_done_to_a_guest_whose_memory_is_being_written(host: QemuHost, act: Act) -> None:
    writing = {"query-migrate": {"status": "active"}}
    async with scripted_machine(host, Intent.SUSPENDING, display=DisplayType.VGA, answers=writing) as machine:
        with pytest.raises(Unavailable) as unavailable:
            await act(machine.driver)
        assert unavailable.value.reason == Reason.SUSPENDING
        assert machine.commands == []


@pytest.mark.parametrize("drawn", [b"", b"GIF89a", bytes(100)], ids=["nothing", "another format", "zeros"])
async def test_what_is_no_png_file_is_not_given_to_users(host: QemuHost, drawn: bytes) -> None:
    async with scripted_machine(host, display=DisplayType.VGA) as machine:
        machine.draws = drawn
        with pytest.raises(Refused) as refused:
            await machine.driver.screenshot(UID, 1 << 20)
        assert refused.value.reason == Reason.ACT_REFUSED
        assert machine.commands[-2:] == ["add-fd", "screendump"]


async def test_what_a_failed_picture_was_to_be_drawn_into_is_not_drawn_into_again(host: QemuHost) -> None:
    """QEMU may still be at it, in its own time."""
    async with scripted_machine(host, display=DisplayType.VGA) as machine:
        machine.draws, machine.refuses = PNG, "screendump"
        with pytest.raises(Refused):
            await machine.driver.screenshot(UID, 1 << 20)
        machine.refuses = ""
        for _ in range(2):
            assert await machine.driver.screenshot(UID, 1 << 20) == PNG
        assert machine.commands.count("add-fd") == 2


async def test_a_file_of_terabytes_is_not_read(host: QemuHost) -> None:
    """Sparse: who has the descriptor can make it as long as a file may be."""
    async with scripted_machine(host, display=DisplayType.VGA) as machine:
        machine.draws, machine.drawn_at = b"x", 1 << 42
        with pytest.raises(Refused) as refused:
            await machine.driver.screenshot(UID, 1 << 20)
        assert refused.value.reason == Reason.TOO_LARGE


# --- what screenshots leave in a real QEMU ----------------------------------------------------------------------------


def sizes_of_screens(host: QemuHost, desired: Desired) -> list[int]:
    folder = Path(f"/proc/{pid_of(host, desired)}/fd")
    return [number.stat().st_size for number in folder.iterdir() if "memfd:screen" in str(number.readlink())]


@pytest.mark.parametrize("is_paused", [False, True], ids=["running", "paused"])
async def test_many_screens_leave_no_more_in_qemu_than_one(host: QemuHost, is_paused: bool) -> None:  # noqa: FBT001
    async with host.open() as driver:
        desired = replace(defined(host), display=DisplayType.VGA)
        await driver.define(desired)
        await driver.start(desired.uid)
        if is_paused:
            await driver.pause(desired.uid)
        for _ in range(5):
            assert await driver.screenshot(desired.uid, 1 << 20)
            with pytest.raises(Refused):
                await driver.screenshot(desired.uid, 40)
        assert sizes_of_screens(host, desired) == [0]
        run = driver._machines[desired.uid]._run
        assert run is not None
        assert len(await run.command("query-fdsets")) <= 3, "its log's, its disk's, the screen's"


@pytest.mark.parametrize("is_paused", [False, True], ids=["running", "paused"])
async def test_a_screen_is_drawn_whatever_an_earlier_agent_or_connection_left(
    host: QemuHost,
    is_paused: bool,  # noqa: FBT001
) -> None:
    desired = replace(defined(host), display=DisplayType.VGA)
    async with host.open() as driver:
        await driver.define(desired)
        await driver.start(desired.uid)
        if is_paused:
            await driver.pause(desired.uid)
        assert await driver.screenshot(desired.uid, 1 << 20)
    async with host.open() as driver:
        for _ in range(3):
            assert await driver.screenshot(desired.uid, 1 << 20)
            run = driver._machines[desired.uid]._run
            assert run is not None
            (await run.monitor()).close()


async def test_of_a_machine_whose_record_was_lost_qemu_itself_says_that_it_has_no_display(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
    record_file(host, desired.uid).unlink()
    async with host.open() as driver:
        for _ in range(3):
            with pytest.raises(Refused) as refused:
                await driver.screenshot(desired.uid, 1 << 20)
            assert refused.value.reason == Reason.ACT_REFUSED
        assert len(sizes_of_screens(host, desired)) <= 1
