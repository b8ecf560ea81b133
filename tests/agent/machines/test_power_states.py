"""Machines that are paused and suspended: as asked, by others, or by a disk that is full."""

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory, WatchedHypervisor, endpoint_of
from tests.agent.objects import conditions, placed_disk, vm, volume
from virtplane_api.reconcile import Failed, Wait
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import Unavailable


async def started(agent: AgentInMemory) -> str:
    """A machine that runs as asked."""
    uid = agent.given(vm())
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    return uid


async def looks(agent: AgentInMemory, uid: str, *, passes: int = 2) -> list[str]:
    """The verbs that so many passes call."""
    for _ in range(passes):
        await agent.look(uid)
    return agent.hypervisor.verbs_since()


async def test_a_machine_is_paused_and_goes_on_as_asked(agent: AgentInMemory) -> None:
    uid = await started(agent)
    agent.given(vm(power_state="Paused"))
    assert await looks(agent, uid) == ["pause"]
    assert conditions(await agent.status()) == {"Ready": ("True", "Paused")}
    agent.given(vm())
    assert await looks(agent, uid) == ["resume"]
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}


async def test_a_machine_that_others_paused_is_let_go_on(agent: AgentInMemory) -> None:
    uid = await started(agent)
    agent.world.pause(uid)
    assert await looks(agent, uid) == ["resume"]


async def test_a_machine_that_is_to_be_paused_from_its_start_is_started_first(agent: AgentInMemory) -> None:
    uid = agent.given(vm(power_state="Paused"))
    assert await looks(agent, uid, passes=3) == ["define", "start", "pause"]


async def test_a_machine_is_suspended_and_goes_on_from_there_without_a_new_start(agent: AgentInMemory) -> None:
    uid = await started(agent)
    before = agent.world.machines[uid].started_at
    agent.given(vm(power_state="Suspended"))
    assert await looks(agent, uid) == ["suspend"]
    assert conditions(await agent.status()) == {"Ready": ("True", "Suspended")}
    agent.clock.advance(3600)
    agent.given(vm())
    assert await looks(agent, uid) == ["define", "start"]  # what is defined now is of its next boot
    assert agent.world.machines[uid].started_at == before
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}


async def test_a_suspended_machine_that_is_to_be_stopped_wakes_so_that_its_guest_can_write(
    agent: AgentInMemory,
) -> None:
    uid = await started(agent)
    agent.world.suspend(uid)
    agent.given(vm(power_state="Stopped"))
    assert await looks(agent, uid) == ["define", "start", "shut_down"]


async def test_a_suspended_machine_without_a_grace_period_gives_its_memory_up_to_be_stopped(
    agent: AgentInMemory,
) -> None:
    uid = await started(agent)
    agent.world.suspend(uid)
    agent.given(vm(power_state="Stopped", terminationGracePeriodSeconds=0))
    assert await looks(agent, uid) == ["power_off"]
    assert not agent.world.machines[uid].suspended
    status = await agent.status()
    assert (conditions(status), status["lastExit"]["reason"]) == ({"Ready": ("True", "Stopped")}, "PoweredOff")
    agent.given(vm())
    assert await looks(agent, uid) == ["define", "start"]  # from its beginning


async def test_without_a_grace_period_a_suspended_machine_still_wakes_to_run(agent: AgentInMemory) -> None:
    uid = await started(agent)
    agent.world.suspend(uid)
    agent.given(vm(terminationGracePeriodSeconds=0))
    assert await looks(agent, uid) == ["define", "start"]
    assert agent.world.machines[uid].power is PowerState.RUNNING


async def test_a_suspended_machine_that_is_to_be_deleted_is_not_woken_for_it(agent: AgentInMemory) -> None:
    uid = await started(agent)
    agent.world.suspend(uid)
    agent.given(vm(being_deleted=True))
    assert await looks(agent, uid) == ["destroy"]


async def test_a_suspended_machine_does_not_wake_without_its_disks(agent: AgentInMemory) -> None:
    uid = await started(agent)
    agent.world.suspend(uid)
    agent.given(vm(disks=[placed_disk("root", volume())]))
    assert await looks(agent, uid) == []
    assert conditions(await agent.status())["Ready"] == ("False", "VolumeNotFound")


@pytest.mark.parametrize("runs_first", [True, False], ids=["it ended by itself", "it never ran"])
async def test_what_does_not_run_cannot_be_suspended_and_is_told_so(
    agent: AgentInMemory,
    runs_first: bool,  # noqa: FBT001
) -> None:
    if runs_first:
        agent.world.crash(await started(agent))
    uid = agent.given(vm(power_state="Suspended"))
    assert await looks(agent, uid) == []
    status = await agent.status()
    assert conditions(status) == {"Ready": ("False", "NotRunning"), "Stalled": ("True", "NotRunning")}
    assert "set powerState Running first" in status["conditions"][0]["message"]


async def test_a_memory_that_finds_no_room_leaves_the_guest_running_and_is_tried_again(agent: AgentInMemory) -> None:
    uid = await started(agent)
    full = Unavailable("no space is left in pool fast", reason="NoSpace", retry_after_s=30.0)
    agent.hypervisor.faults.refuse("suspend", full)
    agent.given(vm(power_state="Suspended"))
    assert await agent.look(uid) == Failed("NoSpace", "no space is left in pool fast", 30.0)
    status = await agent.status()
    assert (status["powerState"], conditions(status)["Ready"]) == ("Running", ("False", "NoSpace"))
    await agent.look(uid)
    assert conditions(await agent.status()) == {"Ready": ("True", "Suspended")}


# --- disks that are full ----------------------------------------------------------------------------------------------


async def test_a_guest_whose_disk_is_full_is_let_go_on_from_time_to_time_until_it_can_write(
    agent: AgentInMemory,
) -> None:
    uid = await started(agent)
    agent.world.fill_disk(uid)
    assert await agent.look(uid) == Wait(5.0, "look again")
    status = await agent.status()
    assert (status["powerState"], conditions(status)["Ready"]) == ("Paused", ("False", "IOError"))
    assert "paused until its disk can be written: no space is left for disk root" in status["conditions"][0]["message"]
    assert await agent.verbs_by_second(uid, seconds=16) == {second: ["resume"] for second in (5, 10, 15)}
    agent.world.free_disk(uid)
    agent.clock.advance(5)
    assert await looks(agent, uid) == ["resume"]
    assert agent.world.machines[uid].power is PowerState.RUNNING
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}


async def test_the_second_time_that_a_disk_is_full_has_its_own_pace(agent: AgentInMemory) -> None:
    """What was tried the first time is over: the guest ran in between."""
    uid = await started(agent)
    for _ in range(2):
        agent.world.fill_disk(uid)
        assert await agent.verbs_by_second(uid, seconds=6) == {5: ["resume"]}
        agent.world.free_disk(uid)
        agent.clock.advance(5)
        assert await looks(agent, uid) == ["resume"]


async def test_a_guest_whose_disk_is_full_and_that_is_to_be_paused_is_as_asked(agent: AgentInMemory) -> None:
    uid = await started(agent)
    agent.world.fill_disk(uid)
    agent.given(vm(power_state="Paused"))
    assert await agent.verbs_by_second(uid, seconds=11) == {}
    assert conditions(await agent.status()) == {"Ready": ("True", "Paused")}


async def test_a_guest_whose_disk_is_full_can_still_be_stopped(agent: AgentInMemory) -> None:
    uid = await started(agent)
    agent.world.fill_disk(uid)
    agent.given(vm(power_state="Stopped", terminationGracePeriodSeconds=0))
    assert await looks(agent, uid) == ["power_off"]
    assert conditions(await agent.status()) == {"Ready": ("True", "Stopped")}


# --- what the hypervisor cannot do ------------------------------------------------------------------------------------


class NoPause(WatchedHypervisor):
    """As one of those that cannot hold a guest."""

    pause = None  # type: ignore[assignment]


class NoSuspend(WatchedHypervisor):
    """As one of those that cannot put a guest's memory away."""

    suspend = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("lacks", "wanted", "capability", "runs_first"),
    [
        (NoPause, "Paused", "Pause", False),
        (NoPause, "Paused", "Pause", True),
        (NoSuspend, "Suspended", "Suspend", True),
    ],
    ids=["to be paused from its start", "to be paused", "to be suspended"],
)
async def test_what_the_hypervisor_lacks_is_said_and_the_machine_is_left_as_it_is(
    agent: AgentInMemory,
    lacks: type[WatchedHypervisor],
    wanted: str,
    capability: str,
    runs_first: bool,  # noqa: FBT001
) -> None:
    async with lacks(agent.clock) as hypervisor:
        agent.drive(await endpoint_of(hypervisor))
        if runs_first:
            await started(agent)
        uid = agent.given(vm(power_state=wanted))
        assert await looks(agent, uid) == []
        status = await agent.status()
        assert status["powerState"] == ("Running" if runs_first else "Stopped")
        assert conditions(status) == {"Ready": ("False", "NotSupported"), "Stalled": ("True", "NotSupported")}
        assert status["conditions"][0]["message"] == (
            f"spec.powerState: host-a-fake (driver fake) lacks the capability {capability}; ask for Running or Stopped"
        )


async def test_a_machine_that_ended_is_not_started_again_to_be_paused_by_a_hypervisor_that_cannot(
    agent: AgentInMemory,
) -> None:
    async with NoPause(agent.clock) as hypervisor:
        agent.drive(await endpoint_of(hypervisor))
        agent.world.crash(await started(agent))
        uid = agent.given(vm(power_state="Paused"))
        assert await looks(agent, uid) == []
        assert conditions(await agent.status())["Stalled"] == ("True", "NotSupported")
