"""A hypervisor has as many networks as it can report: no other one is made, and whoever waits for it is told why."""

import asyncio

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import conditions, network, placed_interface, tell, vm
from virtplane_agent.networks import serving
from virtplane_agent.networks.serving import NetworkKey
from virtplane_api.reconcile import Done, Failed, Wait

NUMBERS = range(3)
NETWORKS = [network(f"lan-{number}") for number in NUMBERS]
KEYS = [NetworkKey("fake", one["metadata"]["uid"]) for one in NETWORKS]
MACHINES = [
    vm(
        f"web-{number}",
        uid=f"vm-{number}",
        interfaces=[placed_interface("eth0", NETWORKS[number], mac=f"52:54:00:00:00:0{number}")],
    )
    for number in NUMBERS
]


@pytest.fixture(autouse=True)
def room_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_NETWORKS", 2)


@pytest.fixture
async def full(agent: AgentInMemory) -> AgentInMemory:
    """Two of the networks are there."""
    for one in NETWORKS:
        agent.given_network(one)
    await agent.networks.find_networks()
    for number in (0, 1):
        await agent.look(agent.given(MACHINES[number]))
    return agent


async def test_a_machine_on_one_network_more_than_a_hypervisor_can_have_waits_and_says_why(full: AgentInMemory) -> None:
    assert isinstance(await full.look(full.given(MACHINES[2])), Wait)
    ready = next(one for one in (await full.status("web-2"))["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "TooManyNetworks")
    assert "host-a-fake has 2 networks, as many as a hypervisor can have: it comes when another" in ready["message"]
    assert await full.fake_networks.inventory() == (KEYS[0].uid, KEYS[1].uid)
    told = full.networks.reports({}, full.endpoint)
    assert [(row["uid"], row["state"]) for row in told] == [(KEYS[0].uid, "Ready"), (KEYS[1].uid, "Ready")]


async def test_it_is_made_when_another_one_has_gone(full: AgentInMemory) -> None:
    uid = full.given(MACHINES[2])
    assert isinstance(await full.networks.reconcile(KEYS[2]), Failed)
    tell(full.machines.informer, MACHINES[0], "DELETED")
    assert await full.networks.reconcile(KEYS[0]) == Done()
    await full.look(uid)
    assert conditions({"status": await full.status("web-2")})["Ready"] == ("True", "Running")
    assert await full.fake_networks.inventory() == (KEYS[1].uid, KEYS[2].uid)


async def test_those_that_are_there_are_served_as_before_also_by_an_agent_that_starts_anew(full: AgentInMemory) -> None:
    full.given(MACHINES[2])
    full.restart()
    await full.networks.find_networks()
    outcomes = [await full.networks.reconcile(key) for key in reversed(KEYS)]
    assert [type(one) for one in outcomes] == [Failed, Wait, Wait]


async def test_a_machine_that_gives_up_the_wait_leaves_nothing_to_do(full: AgentInMemory) -> None:
    full.given(MACHINES[2])
    assert isinstance(await full.networks.reconcile(KEYS[2]), Failed)
    tell(full.machines.informer, MACHINES[2], "DELETED")
    assert await full.networks.reconcile(KEYS[2]) == Done()


async def test_of_networks_that_come_at_once_no_more_are_made_than_there_is_room_for(agent: AgentInMemory) -> None:
    agent.fake_networks.faults.apply_s = 0.01
    await agent.networks.find_networks()
    for one, machine in zip(NETWORKS, MACHINES, strict=True):
        agent.given_network(one)
        agent.given(machine)
    outcomes = await asyncio.gather(*(agent.networks.reconcile(key) for key in KEYS))
    refused = [one.reason for one in outcomes if isinstance(one, Failed)]
    assert refused == ["TooManyNetworks"]
    assert len(await agent.fake_networks.inventory()) == 2
