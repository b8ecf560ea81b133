"""What every driver keeps of the acts that are no state, tried on each of them. QEMU's guests are real."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.drivers.hypervisor.hosts import Host, machine
from virtplane_api.keys import KeyName
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DisplayType, PowerState
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import (
    CanInjectNmi,
    CanPause,
    CanReset,
    CanRunGuestCommands,
    CanSendKeys,
    CanTakeScreenshots,
    Desired,
    GuestCommand,
    HasSerialLog,
    HypervisorDriver,
)

PNG = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 512 << 10


async def reset(driver: HypervisorDriver, uid: str) -> None:
    assert isinstance(driver, CanReset)
    await driver.reset(uid)


async def inject_nmi(driver: HypervisorDriver, uid: str) -> None:
    assert isinstance(driver, CanInjectNmi)
    await driver.inject_nmi(uid)


async def send_keys(driver: HypervisorDriver, uid: str) -> None:
    assert isinstance(driver, CanSendKeys)
    await driver.send_keys(uid, [KeyName.KEY_LEFTCTRL, KeyName.KEY_LEFTALT, KeyName.KEY_F1])


async def screenshot(driver: HypervisorDriver, uid: str) -> None:
    assert isinstance(driver, CanTakeScreenshots)
    assert (await driver.screenshot(uid, MAX_BYTES)).startswith(PNG)


async def run_guest_command(driver: HypervisorDriver, uid: str) -> None:
    assert isinstance(driver, CanRunGuestCommands)
    await driver.run_guest_command(uid, GuestCommand(("true",), timeout_s=1.0, max_output_bytes=100))


ACTS: list[Callable[[HypervisorDriver, str], Awaitable[None]]] = [
    reset,
    inject_nmi,
    send_keys,
    screenshot,
    run_guest_command,
]
HARMLESS = [reset, inject_nmi, send_keys, screenshot]
"""Those that need nothing of the guest."""


async def started(driver: HypervisorDriver, host: Host) -> Desired:
    desired = machine(host, display=DisplayType.VGA)
    await driver.define(desired)
    await driver.start(desired.uid)
    return desired


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
async def test_nothing_is_done_to_a_machine_that_does_not_run(
    host: Host, driver: HypervisorDriver, act: Callable[[HypervisorDriver, str], Awaitable[None]]
) -> None:
    desired = machine(host, display=DisplayType.VGA)
    await driver.define(desired)
    with pytest.raises(Refused) as refused:
        await act(driver, desired.uid)
    assert refused.value.reason == Reason.NOT_RUNNING
    assert (await driver.observe(desired.uid)).power is PowerState.STOPPED


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
async def test_nothing_is_done_to_a_machine_that_is_not_known(
    driver: HypervisorDriver, act: Callable[[HypervisorDriver, str], Awaitable[None]]
) -> None:
    with pytest.raises(Refused) as refused:
        await act(driver, "nobody")
    assert refused.value.reason == Reason.NOT_DEFINED


@pytest.mark.parametrize("act", HARMLESS, ids=lambda act: act.__name__)
async def test_an_act_changes_no_state_and_the_run_is_the_same(
    host: Host, driver: HypervisorDriver, act: Callable[[HypervisorDriver, str], Awaitable[None]]
) -> None:
    desired = await started(driver, host)
    before = await driver.observe(desired.uid)
    await act(driver, desired.uid)
    after = await driver.observe(desired.uid)
    assert (after.power, after.started_at, after.restarts) == (PowerState.RUNNING, before.started_at, 0)
    assert after.last_exit is None


async def test_a_guest_that_is_reset_boots_again(host: Host, driver: HypervisorDriver) -> None:
    assert isinstance(driver, HasSerialLog)
    desired = await started(driver, host)
    for boots in (1, 2):
        async with asyncio.timeout(20):
            while host.boots((await driver.serial_log(desired.uid, 1 << 20)).decode()) < boots:
                await asyncio.sleep(0.05)
        await reset(driver, desired.uid)


async def test_a_paused_guest_that_is_reset_stays_paused(host: Host, driver: HypervisorDriver) -> None:
    assert isinstance(driver, CanPause)
    desired = await started(driver, host)
    await driver.pause(desired.uid)
    await reset(driver, desired.uid)
    assert (await driver.observe(desired.uid)).power is PowerState.PAUSED


async def test_a_machine_without_a_display_says_what_to_do_for_a_screenshot(
    host: Host, driver: HypervisorDriver
) -> None:
    assert isinstance(driver, CanTakeScreenshots)
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    with pytest.raises(Refused, match=r"set spec\.display") as refused:
        await driver.screenshot(desired.uid, MAX_BYTES)
    assert refused.value.reason == Reason.NO_DISPLAY


async def test_a_screenshot_that_is_too_large_is_refused_and_the_next_one_comes(
    host: Host, driver: HypervisorDriver
) -> None:
    assert isinstance(driver, CanTakeScreenshots)
    desired = await started(driver, host)
    for _ in range(3):
        with pytest.raises(Refused) as refused:
            await driver.screenshot(desired.uid, 40)
        assert refused.value.reason == Reason.TOO_LARGE
        await screenshot(driver, desired.uid)


async def test_what_a_machine_shows_on_is_part_of_what_it_is(host: Host, driver: HypervisorDriver) -> None:
    desired = await started(driver, host)
    seen = await driver.observe(desired.uid)
    assert seen.effective is not None
    assert seen.effective.display is DisplayType.VGA
