"""How machines end that are asked to: in their time, by force, or not, when the user thinks again."""

from dataclasses import replace
from typing import Any

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory, WatchedHypervisor, endpoint_of
from tests.agent.objects import conditions, vm
from virtplane_api.reconcile import Done, Wait
from virtplane_api.vocabulary import ExitReason
from virtplane_drivers.hypervisor.contract import Observed

GRACE_S = 60


async def a_deaf_guest(agent: AgentInMemory, **spec: Any) -> str:
    """It runs, is to be stopped, and hears nothing."""
    machine = vm(power_state="Stopped", **spec)
    agent.hypervisor.faults.shut_down_s = None
    await agent.running(machine)
    return agent.given(machine)


async def test_a_guest_that_obeys_is_asked_once(agent: AgentInMemory) -> None:
    machine = vm(power_state="Stopped")
    await agent.running(machine)
    uid = agent.given(machine)
    await agent.look(uid)
    await agent.is_off(uid)
    assert await agent.look(uid) == Done()
    assert agent.hypervisor.verbs_since() == ["shut_down"]
    assert conditions(await agent.status()) == {"Ready": ("True", "Stopped")}
    assert (await agent.status())["lastExit"]["reason"] == "Stopped"


async def test_a_deaf_guest_is_asked_every_ten_seconds_and_powered_off_when_its_time_is_over(
    agent: AgentInMemory,
) -> None:
    uid = await a_deaf_guest(agent)
    verbs = await agent.verbs_by_second(uid, seconds=GRACE_S + 1)
    assert verbs == {second: ["shut_down"] for second in range(0, GRACE_S, 10)} | {GRACE_S: ["power_off"]}
    assert (await agent.status())["lastExit"]["reason"] == "PoweredOff"


async def test_an_agent_that_restarts_does_not_give_the_guest_its_time_anew(agent: AgentInMemory) -> None:
    uid = await a_deaf_guest(agent)
    await agent.look(uid)
    agent.clock.advance(GRACE_S - 1)
    agent.restart()
    await agent.look(uid)
    assert "power_off" not in agent.hypervisor.verbs_since()
    agent.clock.advance(1)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["power_off"]


async def test_no_grace_period_means_no_waiting(agent: AgentInMemory) -> None:
    uid = await a_deaf_guest(agent, terminationGracePeriodSeconds=0)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["power_off"]


async def test_a_grace_period_that_is_made_shorter_counts_at_once(agent: AgentInMemory) -> None:
    uid = await a_deaf_guest(agent)
    await agent.look(uid)
    agent.clock.advance(5)
    agent.given(vm(power_state="Stopped", terminationGracePeriodSeconds=5))
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["shut_down", "power_off"]


async def test_a_deleted_machine_shuts_down_is_destroyed_and_then_said_to_be_removed(agent: AgentInMemory) -> None:
    machine = vm(being_deleted=True)
    await agent.running(machine)
    uid = agent.given(machine)
    await agent.look(uid)
    await agent.is_off(uid)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["shut_down", "destroy"]
    assert (await agent.status())["host"]["state"] == "Removed"
    assert await agent.look(uid) == Done()
    assert agent.hypervisor.verbs_since() == []


class Forgetful(WatchedHypervisor):
    """Its host keeps no note of a guest's having been asked."""

    async def observe(self, uid: str) -> Observed:
        return replace(await super().observe(uid), shut_down_asked_at=None)


@pytest.mark.parametrize("wanted", [{"power_state": "Stopped"}, {"being_deleted": True}], ids=["stopped", "deleted"])
async def test_a_hung_machine_that_is_to_stop_is_powered_off_when_its_time_is_over(
    agent: AgentInMemory, wanted: dict[str, Any]
) -> None:
    """That it was asked is noted by nobody but us: the request fails."""
    machine = vm(terminationGracePeriodSeconds=25, **wanted)
    uid = agent.given(machine)
    await agent.running(machine)
    agent.world.hang(uid)
    assert await agent.verbs_by_second(uid, seconds=26) == {
        **{second: ["shut_down"] for second in (0, 10, 20)},
        25: ["power_off"],
    }
    await agent.look(uid)
    said = {"Ready": ("False", "Removed")} if "being_deleted" in wanted else {"Ready": ("True", "Stopped")}
    assert conditions(await agent.status()) == said


async def test_a_grace_period_ends_also_where_the_host_does_not_note_its_beginning(agent: AgentInMemory) -> None:
    async with Forgetful(agent.clock) as forgetful:
        agent.drive(await endpoint_of(forgetful))
        forgetful.faults.shut_down_s = None
        machine = vm(power_state="Stopped", terminationGracePeriodSeconds=25)
        uid = agent.given(machine)
        await agent.running(machine)
        assert await agent.verbs_by_second(uid, seconds=26) == {
            **{second: ["shut_down"] for second in (0, 10, 20)},
            25: ["power_off"],
        }


# --- a change of mind -------------------------------------------------------------------------------------------------


async def test_a_guest_that_was_asked_to_stop_and_is_then_wanted_is_left_its_time_and_then_believed(
    agent: AgentInMemory,
) -> None:
    """An end within the grace period is still the one that was asked for; a later one is the guest's own."""
    uid = await a_deaf_guest(agent)
    await agent.look(uid)
    agent.given(vm())
    agent.clock.advance(GRACE_S - 1)
    agent.hypervisor.verbs_since()
    assert await agent.look(uid) == Wait(1.0, "look again")
    assert agent.hypervisor.verbs_since() == []
    agent.clock.advance(1)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["withdraw_shut_down"]
    agent.world.guest_shuts_down(uid)
    assert agent.world.machines[uid].ended_by_itself


async def test_a_guest_that_is_to_stop_again_later_has_its_whole_time_anew(agent: AgentInMemory) -> None:
    uid = await a_deaf_guest(agent)
    await agent.look(uid)
    agent.given(vm())
    agent.clock.advance(GRACE_S)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["shut_down", "withdraw_shut_down"]
    agent.clock.advance(5)
    agent.given(vm(power_state="Stopped"))
    verbs = await agent.verbs_by_second(uid, seconds=GRACE_S + 1)
    assert verbs == {second: ["shut_down"] for second in range(0, GRACE_S, 10)} | {GRACE_S: ["power_off"]}


async def test_a_guest_that_is_to_stop_again_at_once_has_what_is_left_of_its_time(agent: AgentInMemory) -> None:
    uid = await a_deaf_guest(agent)
    await agent.look(uid)
    agent.given(vm())
    agent.clock.advance(GRACE_S - 15)
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    agent.given(vm(power_state="Stopped"))
    assert await agent.verbs_by_second(uid, seconds=16) == {0: ["shut_down"], 10: ["shut_down"], 15: ["power_off"]}


async def test_a_guest_that_is_wanted_again_is_withdrawn_from_once(agent: AgentInMemory) -> None:
    uid = await a_deaf_guest(agent)
    await agent.look(uid)
    agent.given(vm())
    agent.hypervisor.verbs_since()
    assert await agent.verbs_by_second(uid, seconds=GRACE_S + 30) == {GRACE_S: ["withdraw_shut_down"]}
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}


async def test_a_guest_that_obeys_after_all_is_started_again(agent: AgentInMemory) -> None:
    uid = await a_deaf_guest(agent)
    await agent.look(uid)
    agent.given(vm())
    agent.world.end(uid, ExitReason.STOPPED)
    agent.hypervisor.verbs_since()
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]
