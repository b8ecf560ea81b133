"""Interfaces whose network lost what joins them to it: when they are plugged anew, who is told, and how often."""

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory, WatchedHypervisor, endpoint_of
from tests.agent.machines.test_interface_changes import ETH0, LAN, has, pending, uid
from tests.agent.objects import conditions, vm
from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable

__all__ = ["uid"]
LOST, BACK = Reason.INTERFACE_CUT_OFF, Reason.INTERFACE_RECONNECTED


@pytest.fixture
def cut_off(agent: AgentInMemory, uid: str) -> str:  # the fixture
    """The machine, whose interface was cut off."""
    agent.world.cut_off(uid, "eth0")
    agent.events.said.clear()
    agent.client.applied.clear()
    return uid


def told(agent: AgentInMemory) -> list[str]:
    """Of what Events told of interfaces since the last time that this was asked."""
    reasons = [reason for _type, reason, _note in agent.events.said if reason in (LOST, BACK)]
    agent.events.said.clear()
    return reasons


async def test_one_is_plugged_anew_at_once_with_two_events_and_no_other_write(
    agent: AgentInMemory, cut_off: str
) -> None:
    await agent.look(cut_off)
    assert agent.hypervisor.verbs_since() == ["change_nics"]
    assert has(agent, cut_off) == [("eth0", "lan-uid")]
    assert [(type_, note.split(":")[0]) for type_, _reason, note in agent.events.said] == [
        ("Warning", "interface eth0"),
        ("Normal", "interface eth0"),
    ]
    assert told(agent) == [LOST, BACK]
    await agent.look(cut_off)
    assert (agent.hypervisor.verbs_since(), told(agent), agent.client.applied) == ([], [], [])


async def test_its_network_is_in_force_before_the_guest_is_asked_for_it(agent: AgentInMemory, cut_off: str) -> None:
    agent.fake_networks.faults.refuse("apply", Unavailable("no passt today", reason=Reason.NETWORK_ERROR))
    await agent.look(cut_off)
    assert agent.hypervisor.verbs_since() == []
    assert conditions({"status": await agent.status()})["Ready"] == ("False", "NetworkError")
    await agent.look(cut_off)
    assert agent.hypervisor.verbs_since() == ["change_nics"]
    assert conditions({"status": await agent.status()})["Ready"] == ("True", "Running")
    assert told(agent) == [LOST, BACK]


async def test_a_guest_that_does_not_let_it_go_is_asked_again_and_its_status_says_so(
    agent: AgentInMemory, cut_off: str
) -> None:
    agent.hypervisor.faults.keeps_nics = True
    assert await agent.verbs_by_second(cut_off, seconds=40) == {0: ["change_nics"], 30: ["change_nics"]}
    assert pending(await agent.status()) == ["spec.interfaces[eth0]"]
    assert (told(agent), len(agent.client.applied)) == ([LOST], 1)
    agent.hypervisor.faults.keeps_nics = False
    agent.clock.advance(30)
    await agent.look(cut_off)
    assert (told(agent), pending(await agent.status())) == ([BACK], [])


async def test_what_ends_over_and_over_keeps_its_guest_less_and_less_busy(agent: AgentInMemory, cut_off: str) -> None:
    asked = []
    for second in range(100):
        agent.world.cut_off(cut_off, "eth0")
        await agent.look(cut_off)
        if agent.hypervisor.verbs_since():
            asked.append(second)
        agent.clock.advance(1)
    assert asked == [0, 5, 15, 35, 75]
    agent.clock.advance(600)
    await agent.look(cut_off)
    agent.clock.advance(600)
    agent.world.cut_off(cut_off, "eth0")
    await agent.look(cut_off)
    assert agent.hypervisor.verbs_since() == ["change_nics"] * 2


class WithoutPlugs(WatchedHypervisor):
    """Its guests keep the adapters that they started with."""

    change_nics = None  # type: ignore[assignment]


async def test_where_nothing_can_be_plugged_it_is_said_until_the_next_start(agent: AgentInMemory) -> None:
    async with WithoutPlugs(agent.clock) as hypervisor:
        agent.drive(await endpoint_of(hypervisor))
        agent.given_network(LAN)
        uid = agent.given(vm(interfaces=[ETH0]))
        await agent.look(uid)
        agent.world.cut_off(uid, "eth0")
        for _ in range(2):
            await agent.look(uid)
            agent.clock.advance(60)
        status = await agent.status()
        assert (told(agent), pending(status)) == ([LOST], ["spec.interfaces[eth0]"])
        assert conditions({"status": status})["Ready"] == ("True", "Running")
        del status["placement"]
        agent.given(vm(interfaces=[ETH0], status=status, restartedAt="2030-01-01T00:00:00Z"))
        await agent.look(uid)
        await agent.is_off(uid)
        await agent.look(uid)
        await agent.look(uid)
        assert agent.world.machines[uid].restarted_at == "2030-01-01T00:00:00Z"
        assert (told(agent), pending(await agent.status())) == ([], [])
