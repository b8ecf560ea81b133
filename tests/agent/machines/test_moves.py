"""A machine that is placed on another one of its agent's hypervisors: never two copies, not for a moment."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory, WatchedHypervisor, endpoint_of
from tests.agent.objects import conditions, vm
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import Unavailable

OTHER = "host-a-other"


@pytest.fixture
async def other(agent: AgentInMemory) -> AsyncIterator[WatchedHypervisor]:
    """A second one beside the agent's first."""
    async with WatchedHypervisor(agent.clock) as made:
        made.verbs = agent.hypervisor.verbs  # of both, in their order
        agent.drive(agent.endpoint, await endpoint_of(made, OTHER))
        yield made


@pytest.mark.parametrize("is_from_before", [True, False], ids=["known from before", "started by this agent"])
async def test_a_machine_that_moves_between_them_ends_on_the_first_before_it_starts_on_the_second(
    agent: AgentInMemory,
    other: WatchedHypervisor,
    is_from_before: bool,  # noqa: FBT001
) -> None:
    uid = agent.given(vm(token=1))
    await agent.look(uid)
    if is_from_before:
        agent.restart()
        await agent.find_machines()
    agent.hypervisor.verbs_since()
    agent.given(vm(token=2, placed_on=OTHER))
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["destroy", "define", "start"]
    assert (list(agent.world.machines), list(other.world.machines)) == ([], [uid])
    assert other.world.machines[uid].power is PowerState.RUNNING
    status = await agent.status()
    assert (status["host"]["hypervisor"], conditions(status)["Ready"]) == (OTHER, ("True", "Running"))
    agent.hypervisor.verbs_since()
    agent.given(vm(token=3))
    await agent.look(uid)
    assert (list(agent.world.machines), list(other.world.machines)) == ([uid], [])


async def test_a_machine_does_not_move_between_them_by_a_placement_of_the_past(
    agent: AgentInMemory, other: WatchedHypervisor
) -> None:
    uid = await agent.running(vm(), token=5)
    await agent.find_machines()
    agent.given(vm(token=3, placed_on=OTHER))
    agent.hypervisor.verbs_since()
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    assert (list(agent.world.machines), list(other.world.machines)) == ([uid], [])
    assert conditions(await agent.status())["Stalled"] == ("True", "StaleToken")


async def test_a_copy_that_cannot_be_ended_on_the_first_keeps_the_second_from_its_start(
    agent: AgentInMemory, other: WatchedHypervisor
) -> None:
    uid = await agent.running(vm(), token=1)
    await agent.find_machines()
    agent.hypervisor.faults.refuse("destroy", Unavailable("no answer"))
    agent.given(vm(token=2, placed_on=OTHER))
    with contextlib.suppress(Unavailable):
        await agent.look(uid)
    assert list(other.world.machines) == []
    await agent.look(uid)
    assert (list(agent.world.machines), list(other.world.machines)) == ([], [uid])


async def test_a_machine_that_is_deleted_while_it_moves_is_left_on_neither(
    agent: AgentInMemory, other: WatchedHypervisor
) -> None:
    uid = await agent.running(vm(), token=1)
    await agent.find_machines()
    agent.given(vm(token=2, placed_on=OTHER, being_deleted=True))
    await agent.look(uid)
    assert (list(agent.world.machines), list(other.world.machines)) == ([], [])
    assert (await agent.status())["host"]["state"] == "Removed"
