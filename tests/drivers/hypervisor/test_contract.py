"""What every hypervisor driver keeps, tried on each of them. QEMU's guests are real."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.drivers.hypervisor.hosts import Host, machine
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import (
    ABSENT,
    CAPABILITIES,
    CanPause,
    CanShutDown,
    CanSuspend,
    Cpu,
    HypervisorDriver,
    Observed,
    Owner,
)


async def until(look: Callable[[], Awaitable[Observed]], holds: Callable[[Observed], bool]) -> Observed:
    async with asyncio.timeout(15):
        while not holds(observed := await look()):
            await asyncio.sleep(0.02)
    return observed


async def until_stopped(driver: HypervisorDriver, uid: str) -> Observed:
    return await until(lambda: driver.observe(uid), lambda seen: seen.power is PowerState.STOPPED)


async def test_a_machine_that_nobody_defined_is_absent(driver: HypervisorDriver) -> None:
    assert await driver.observe("nobody") == ABSENT
    assert await driver.inventory() == ()
    await driver.power_off("nobody")
    await driver.destroy("nobody")
    with pytest.raises(Refused):
        await driver.start("nobody")


async def test_a_defined_machine_is_stopped_and_tells_what_it_is(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host, cores=2)
    await driver.define(desired)
    await driver.define(desired)
    seen = await driver.observe(desired.uid)
    assert (seen.power, seen.namespace, seen.name, seen.owner) == (PowerState.STOPPED, "shop", "web", desired.owner)
    assert seen.effective is not None
    assert (seen.effective.cpu.cores, seen.effective.memory_mib) == (2, 32)
    assert seen.effective.machine_type
    assert await driver.inventory() == (desired.uid,)


async def test_starting_twice_is_one_run(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    first = await driver.observe(desired.uid)
    await driver.start(desired.uid)
    assert first.power is PowerState.RUNNING
    assert (await driver.observe(desired.uid)).started_at == first.started_at


async def test_a_new_definition_does_not_touch_what_runs_and_holds_at_the_next_start(
    host: Host, driver: HypervisorDriver
) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    before = await driver.observe(desired.uid)
    await driver.define(replace(desired, cpu=Cpu(2)))
    running = await driver.observe(desired.uid)
    assert (running.effective, running.started_at) == (before.effective, before.started_at)
    await driver.power_off(desired.uid)
    await driver.start(desired.uid)
    after = await driver.observe(desired.uid)
    assert after.effective is not None
    assert before.effective is not None
    assert after.effective.cpu.cores == 2
    assert after.effective.machine_type == before.effective.machine_type


async def test_power_off_ends_the_run_keeps_the_definition_and_may_be_repeated(
    host: Host, driver: HypervisorDriver
) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.power_off(desired.uid)
    await driver.start(desired.uid)
    await driver.power_off(desired.uid)
    await driver.power_off(desired.uid)
    seen = await driver.observe(desired.uid)
    assert seen.power is PowerState.STOPPED
    assert seen.last_exit is not None
    assert seen.last_exit.reason is ExitReason.POWERED_OFF


async def test_a_guest_that_is_asked_shuts_down(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    assert isinstance(driver, CanShutDown)
    async with asyncio.timeout(15):  # asked again: the guest hears nothing before it is up
        while (seen := await driver.observe(desired.uid)).power is not PowerState.STOPPED:
            await driver.shut_down(desired.uid)
            await asyncio.sleep(0.2)
    assert seen.last_exit is not None
    assert seen.last_exit.reason is ExitReason.STOPPED


async def test_when_a_guest_was_first_asked_is_known_to_the_next_driver_too(host: Host) -> None:
    async with host.open() as driver:
        desired = machine(host, obedient=False)
        await driver.define(desired)
        await driver.start(desired.uid)
        assert isinstance(driver, CanShutDown)
        await driver.shut_down(desired.uid)
        asked = (await driver.observe(desired.uid)).shut_down_asked_at
        await driver.shut_down(desired.uid)
        assert asked is not None
    async with host.open() as driver:
        seen = await driver.observe(desired.uid)
        assert (seen.power, seen.shut_down_asked_at) == (PowerState.RUNNING, asked)


async def test_the_next_driver_finds_the_same_run(host: Host) -> None:
    async with host.open() as driver:
        running, stopped = machine(host), machine(host, token=3)
        await driver.define(running)
        await driver.define(stopped)
        await driver.start(running.uid)
        before = await driver.observe(running.uid)
    async with host.open() as driver:
        assert sorted(await driver.inventory()) == sorted([running.uid, stopped.uid])
        after = await driver.observe(running.uid)
        assert (after.power, after.started_at, after.owner) == (PowerState.RUNNING, before.started_at, running.owner)
        assert after.effective == before.effective
        assert (await driver.observe(stopped.uid)).owner == stopped.owner


async def test_a_greater_token_is_taken_without_touching_the_run(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    before = await driver.observe(desired.uid)
    await driver.define(replace(desired, owner=Owner("cluster-1", 2)))
    after = await driver.observe(desired.uid)
    assert (after.owner, after.started_at) == (Owner("cluster-1", 2), before.started_at)


async def test_destroy_leaves_nothing_of_a_running_machine(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    await driver.destroy(desired.uid)
    await driver.destroy(desired.uid)
    assert await driver.observe(desired.uid) == ABSENT
    assert await driver.inventory() == ()


async def test_a_destroyed_machine_can_be_made_again_under_its_uid(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    for _ in range(2):
        await driver.define(desired)
        await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING
        await driver.destroy(desired.uid)


async def test_a_machine_that_dies_is_hinted_at_and_seen_as_crashed(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    hints = driver.events()
    host.end_guest(desired.uid)
    async with asyncio.timeout(10):
        async for uid in hints:
            if uid == desired.uid and (await driver.observe(uid)).power is PowerState.STOPPED:
                break
    seen = await until_stopped(driver, desired.uid)
    assert seen.last_exit is not None
    assert seen.last_exit.reason is ExitReason.CRASHED


async def test_verbs_of_two_machines_do_not_meet(host: Host, driver: HypervisorDriver) -> None:
    machines = [machine(host) for _ in range(4)]
    await asyncio.gather(*(driver.define(desired) for desired in machines))
    await asyncio.gather(*(driver.start(desired.uid) for desired in machines))
    await asyncio.gather(*(driver.destroy(desired.uid) for desired in machines[:2]))
    powers = [(await driver.observe(desired.uid)).power for desired in machines]
    assert powers == [None, None, PowerState.RUNNING, PowerState.RUNNING]


async def test_a_start_whose_caller_went_away_is_still_one_start(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    await driver.define(desired)
    starting = asyncio.create_task(driver.start(desired.uid))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await driver.start(desired.uid)
    first = await until(lambda: driver.observe(desired.uid), lambda seen: seen.power is PowerState.RUNNING)
    await driver.start(desired.uid)
    assert (await driver.observe(desired.uid)).started_at == first.started_at


async def test_what_it_says_it_can_do_it_has_the_methods_for(driver: HypervisorDriver) -> None:
    facts = await driver.probe()
    for name, protocol in CAPABILITIES.items():
        # What a driver can do, this very host may still lack, and then it says why.
        assert (name in facts.capabilities or name in facts.missing) == isinstance(driver, protocol)
    assert not facts.capabilities & set(facts.missing)
    assert 0 < facts.allocatable_memory_mib <= facts.memory_mib
    assert facts.cpu_cores > 0
    assert facts.attachments


async def test_a_paused_machine_stays_so_over_drivers_until_it_is_resumed(host: Host) -> None:
    async with host.open() as driver:
        assert isinstance(driver, CanPause)
        desired = machine(host)
        await driver.define(desired)
        await driver.start(desired.uid)
        await driver.pause(desired.uid)
        await driver.pause(desired.uid)
        seen = await driver.observe(desired.uid)
        assert (seen.power, seen.has_io_error) == (PowerState.PAUSED, False)
    async with host.open() as driver:
        assert isinstance(driver, CanPause)
        assert (await driver.observe(desired.uid)).power is PowerState.PAUSED
        await driver.resume(desired.uid)
        await driver.resume(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING


async def test_a_suspended_machine_goes_on_where_it_was_with_the_definition_of_then(host: Host) -> None:
    async with host.open() as driver:
        desired = machine(host)
        await driver.define(desired)
        await driver.start(desired.uid)
        before = await driver.observe(desired.uid)
        suspended = await until_suspended(driver, desired.uid)
        assert suspended.effective == before.effective
        await driver.define(replace(desired, cpu=Cpu(2)))
    async with host.open() as driver:
        assert (await driver.observe(desired.uid)).power is PowerState.SUSPENDED
        await driver.start(desired.uid)
        awake = await driver.observe(desired.uid)
        assert (awake.power, awake.effective, awake.last_exit) == (PowerState.RUNNING, before.effective, None)
        await driver.power_off(desired.uid)
        await driver.start(desired.uid)
        fresh = await driver.observe(desired.uid)
        assert fresh.effective is not None
        assert fresh.effective.cpu.cores == 2


async def until_suspended(driver: HypervisorDriver, uid: str) -> Observed:
    assert isinstance(driver, CanSuspend)
    async with asyncio.timeout(30):
        while (seen := await driver.observe(uid)).power is not PowerState.SUSPENDED:
            assert seen.power is PowerState.RUNNING
            await driver.suspend(uid)
            await asyncio.sleep(0.05)
    return seen


async def test_power_off_gives_a_suspended_machine_s_memory_up(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    await until_suspended(driver, desired.uid)
    await driver.power_off(desired.uid)
    seen = await driver.observe(desired.uid)
    assert seen.power is PowerState.STOPPED
    assert seen.last_exit is not None
    assert (seen.last_exit.reason, seen.ended_by_itself) == (ExitReason.POWERED_OFF, False)


async def test_destroy_leaves_nothing_of_a_suspended_machine(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    await until_suspended(driver, desired.uid)
    await driver.destroy(desired.uid)
    assert await driver.observe(desired.uid) == ABSENT


async def test_an_end_that_nobody_asked_for_is_remembered_until_a_start_or_a_power_off(host: Host) -> None:
    async with host.open() as driver:
        desired = machine(host)
        await driver.define(desired)
        await driver.start(desired.uid)
        host.end_guest(desired.uid)
        assert (await until_stopped(driver, desired.uid)).ended_by_itself
    async with host.open() as driver:
        assert (await driver.observe(desired.uid)).ended_by_itself
        await driver.start(desired.uid)
        again = await driver.observe(desired.uid)
        assert (again.ended_by_itself, again.restarts) == (False, 1)
        host.end_guest(desired.uid)
        assert (await until_stopped(driver, desired.uid)).ended_by_itself
        await driver.power_off(desired.uid)
        settled = await driver.observe(desired.uid)
        assert (settled.power, settled.ended_by_itself) == (PowerState.STOPPED, False)
        assert settled.last_exit is not None
        assert settled.last_exit.reason is ExitReason.CRASHED
        await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).restarts == 1


async def test_which_restart_a_run_answers_is_known_to_the_next_driver_too(host: Host) -> None:
    async with host.open() as driver:
        desired = replace(machine(host), restarted_at="2026-11-24T10:00:00Z")
        await driver.define(desired)
        assert (await driver.observe(desired.uid)).restarted_at is None
        await driver.start(desired.uid)
        await driver.define(replace(desired, restarted_at="2026-11-24T11:00:00Z"))
    async with host.open() as driver:
        assert (await driver.observe(desired.uid)).restarted_at == "2026-11-24T10:00:00Z"
        await driver.power_off(desired.uid)
        await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).restarted_at == "2026-11-24T11:00:00Z"


async def test_a_withdrawn_request_to_shut_down_leaves_no_trace(host: Host, driver: HypervisorDriver) -> None:
    desired = machine(host, obedient=False)
    await driver.define(desired)
    await driver.start(desired.uid)
    assert isinstance(driver, CanShutDown)
    await driver.shut_down(desired.uid)
    await driver.withdraw_shut_down(desired.uid)
    seen = await driver.observe(desired.uid)
    assert (seen.power, seen.shut_down_asked_at) == (PowerState.RUNNING, None)
