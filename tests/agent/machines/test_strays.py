"""Machines that run here and that no object placed here describes: only an object that says so ends a guest."""

from typing import Any

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import HYPERVISOR, vm
from virtplane_api.kube.errors import ApiUnavailable
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object
from virtplane_api.reconcile import Done, Wait

TOKEN = 5
ORPHAN = {"uid": "vm-1", "namespace": "shop", "name": "web", "token": TOKEN}

ELSEWHERE: dict[str, Any] = {"placed_on": "host-b-fake", "agent": "host-b"}


def unplaced(token: int) -> Object:
    machine = vm()
    machine["status"]["placement"] = {"token": token}
    return machine


def never_placed() -> Object:
    machine = vm()
    del machine["status"]["placement"]
    return machine


ORPHANS = [
    ("the object is gone", None),
    ("another object has its name", vm(uid="vm-2")),
    ("placed elsewhere under the same token", vm(token=TOKEN, **ELSEWHERE)),
    ("placed elsewhere under a lower token", vm(token=TOKEN - 1, **ELSEWHERE)),
    ("placed nowhere, under a greater token", unplaced(TOKEN + 1)),
    ("never placed", never_placed()),
]


@pytest.mark.parametrize("obj", [row[1] for row in ORPHANS], ids=[row[0] for row in ORPHANS])
async def test_what_no_object_orders_to_end_runs_on_and_is_listed(agent: AgentInMemory, obj: Object | None) -> None:
    await agent.running(vm(), token=TOKEN)
    if obj is not None:
        agent.client.put(VIRTUAL_MACHINES, obj)
    outcome = await agent.strays.reconcile("vm-1", agent.endpoint)
    assert isinstance(outcome, Wait)
    assert outcome.after_s == 60  # no watch tells of what is placed elsewhere
    assert agent.hypervisor.verbs_since() == []
    assert agent.strays.orphans(HYPERVISOR) == [ORPHAN]
    assert agent.changed_hypervisors == [HYPERVISOR]


async def test_an_orphan_that_is_seen_again_is_no_news(agent: AgentInMemory) -> None:
    await agent.running(vm(), token=TOKEN)
    for _ in range(3):
        await agent.strays.reconcile("vm-1", agent.endpoint)
    assert agent.changed_hypervisors == [HYPERVISOR]


async def test_a_copy_of_a_machine_that_is_placed_elsewhere_under_a_greater_token_is_ended(
    agent: AgentInMemory,
) -> None:
    await agent.running(vm(), token=TOKEN)
    agent.client.put(VIRTUAL_MACHINES, vm(token=TOKEN + 1, **ELSEWHERE))
    assert await agent.strays.reconcile("vm-1", agent.endpoint) == Done()
    assert agent.hypervisor.verbs_since() == ["power_off", "destroy"]
    assert agent.world.machines == {}
    assert agent.strays.orphans(HYPERVISOR) == []


@pytest.mark.parametrize("obj", [row[1] for row in ORPHANS], ids=[row[0] for row in ORPHANS])
async def test_an_orphan_that_is_placed_elsewhere_later_is_ended_then(agent: AgentInMemory, obj: Object | None) -> None:
    uid = await agent.running(vm(), token=TOKEN)
    await agent.find_machines()
    if obj is not None:
        agent.client.put(VIRTUAL_MACHINES, obj)
    outcome = await agent.look(uid)
    assert isinstance(outcome, Wait)
    agent.clock.advance(outcome.after_s)
    agent.client.put(VIRTUAL_MACHINES, vm(token=TOKEN + 2, **ELSEWHERE))
    assert await agent.look(uid) == Done()
    assert agent.world.machines == {}
    assert agent.strays.orphans(HYPERVISOR) == []


async def test_the_guests_of_another_cluster_are_neither_touched_nor_listed(agent: AgentInMemory) -> None:
    await agent.running(vm(), token=TOKEN, cluster_id="another-cluster")
    agent.client.put(VIRTUAL_MACHINES, vm(token=TOKEN + 1, **ELSEWHERE))
    assert await agent.strays.reconcile("vm-1", agent.endpoint) == Done()
    assert agent.hypervisor.verbs_since() == []
    assert agent.strays.orphans(HYPERVISOR) == []


async def test_a_machine_that_is_placed_here_waits_for_the_watch_to_say_so(agent: AgentInMemory) -> None:
    await agent.running(vm(), token=TOKEN)
    agent.client.put(VIRTUAL_MACHINES, vm(token=TOKEN + 1))
    assert isinstance(await agent.strays.reconcile("vm-1", agent.endpoint), Wait)
    assert agent.hypervisor.verbs_since() == []
    assert agent.strays.orphans(HYPERVISOR) == []


async def test_an_api_server_that_does_not_answer_orders_nothing(agent: AgentInMemory) -> None:
    await agent.running(vm(), token=TOKEN)
    agent.client.errors.append(ApiUnavailable("no answer"))
    with pytest.raises(ApiUnavailable):
        await agent.strays.reconcile("vm-1", agent.endpoint)
    assert agent.hypervisor.verbs_since() == []
    assert agent.strays.orphans(HYPERVISOR) == []


async def test_an_orphan_that_ended_is_listed_no_longer(agent: AgentInMemory) -> None:
    await agent.running(vm(), token=TOKEN)
    await agent.strays.reconcile("vm-1", agent.endpoint)
    await agent.hypervisor.destroy("vm-1")
    await agent.strays.reconcile("vm-1", agent.endpoint)
    assert agent.strays.orphans(HYPERVISOR) == []
    assert agent.changed_hypervisors == [HYPERVISOR, HYPERVISOR]


async def test_an_orphan_whose_object_comes_back_is_taken_up_again(agent: AgentInMemory) -> None:
    machine = vm(token=TOKEN)
    uid = await agent.running(machine, token=TOKEN)
    await agent.find_machines()
    await agent.look(uid)
    assert agent.strays.orphans(HYPERVISOR) == [ORPHAN]
    agent.given(machine)
    await agent.look(uid)
    assert agent.strays.orphans(HYPERVISOR) == []
    assert agent.hypervisor.verbs_since() == []
