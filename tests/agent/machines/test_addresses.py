"""Which addresses a machine's status names: claimed ones, and where nothing is claimed, those its guest uses."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import network, placed_interface, vm
from virtplane_agent.machines.addresses import with_seen
from virtplane_agent.networks.desired import left_interfaces, port_value
from virtplane_agent.networks.serving import NetworkKey
from virtplane_api.interfaces import left_behind
from virtplane_api.kube.conditions import timestamp
from virtplane_api.kube.resources import VIRTUAL_MACHINES
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.hypervisor.contract import ABSENT, Observed

STARTED = datetime(2026, 11, 24, 9, 59, 58, tzinfo=UTC)
RUNNING = Observed(PowerState.RUNNING, started_at=STARTED)
PAUSED = replace(RUNNING, power=PowerState.PAUSED)
STOPPED, SUSPENDED = Observed(PowerState.STOPPED), Observed(PowerState.SUSPENDED)
HUNG = Observed(PowerState.UNKNOWN, message="no answer")
NEXT_RUN = replace(RUNNING, started_at=STARTED + timedelta(seconds=9))
OFFICE = network("office", mode="Bridge", ipv4=None)
ROW = ("eth0", "office-uid")
OLD, NEW, OLD_6, NEW_6, CLAIM = "198.51.100.50", "198.51.100.60", "fd00::50", "fd00::60", "10.20.0.9"

SAID: list[tuple[str, tuple[str, ...], Observed, tuple[str, ...], tuple[str, ...], list[str]]] = [
    # what is claimed, what runs, what is seen, what was said of this run or another; what is said
    ("nothing is known yet", (), RUNNING, (), (), []),
    ("what is seen is said", (), RUNNING, (OLD, OLD_6), (), [OLD, OLD_6]),
    ("of a paused one too", (), PAUSED, (OLD,), (), [OLD]),
    ("what is not seen any more stays said", (), RUNNING, (), (OLD, OLD_6), [OLD, OLD_6]),
    ("another address replaces it", (), RUNNING, (NEW,), (OLD,), [NEW]),
    ("and that of its family only", (), RUNNING, (NEW_6,), (OLD, OLD_6), [OLD, NEW_6]),
    ("one more is said", (), RUNNING, (NEW, OLD), (OLD,), [NEW, OLD]),
    ("one less too", (), RUNNING, (OLD,), (NEW, OLD), [OLD]),
    ("another order is no news", (), RUNNING, (OLD, NEW), (NEW, OLD), [NEW, OLD]),
    ("IPv4 is first", (), RUNNING, (OLD_6, OLD), (), [OLD, OLD_6]),
    ("of a family with a claim nothing is said", (CLAIM,), RUNNING, (OLD,), (), []),
    ("nor what was said before of it", (CLAIM,), RUNNING, (), (OLD,), []),
    ("of the other family what is seen is", (CLAIM,), RUNNING, (OLD_6,), (), [OLD_6]),
    ("and stays", (CLAIM,), RUNNING, (), (OLD_6,), [OLD_6]),
    ("a stopped one uses none", (), STOPPED, (OLD,), (OLD,), []),
    ("one that is not there uses none", (), ABSENT, (OLD,), (OLD,), []),
    ("the next run has not been seen yet", (), NEXT_RUN, (), (OLD,), []),
    ("a suspended one will go on with it", (), SUSPENDED, (), (OLD,), [OLD]),
    ("one that hangs has it still", (), HUNG, (), (OLD,), [OLD]),
]


@pytest.mark.parametrize(
    ("claimed", "observed", "seen", "before", "expected"), [row[1:] for row in SAID], ids=[row[0] for row in SAID]
)
def test_what_is_said_of_an_interface(
    claimed: tuple[str, ...],
    observed: Observed,
    seen: tuple[str, ...],
    before: tuple[str, ...],
    expected: list[str],
) -> None:
    status: dict[str, Any] = {"powerState": "Running", "startTime": timestamp(STARTED)}
    row = placed_interface("eth0", OFFICE, *claimed)
    if before:
        status["interfaces"] = [row | {"seenAddresses": list(before)}]
    heard = {ROW: [ip_address(address) for address in seen]}
    [said] = with_seen([row], vm(interfaces=[row], status=status), observed, heard)
    assert said == row | ({"seenAddresses": expected} if expected else {})


def test_a_machine_that_goes_on_from_its_suspended_memory_has_what_it_had() -> None:
    row = placed_interface("eth0", OFFICE)
    before = {"powerState": "Suspended", "interfaces": [row | {"seenAddresses": [OLD]}]}
    assert with_seen([row], vm(interfaces=[row], status=before), NEXT_RUN, {})[0]["seenAddresses"] == [OLD]


@pytest.mark.parametrize(
    "now",
    [placed_interface("eth0", network("other")), placed_interface("eth0", OFFICE, mac="52:54:00:00:00:99")],
    ids=["network", "MAC address"],
)
def test_an_interface_of_the_same_name_that_is_another_one_has_not_been_seen_yet(now: dict[str, Any]) -> None:
    row = placed_interface("eth0", OFFICE)
    before = {"startTime": timestamp(STARTED), "interfaces": [row | {"seenAddresses": [OLD]}]}
    assert with_seen([now], vm(interfaces=[now], status=before), RUNNING, {}) == [now]
    both = with_seen([now, row | {"seenAddresses": ["198.51.100.1"]}], vm(status=before), RUNNING, {})
    assert both == [now, row | {"seenAddresses": [OLD]}]


def test_what_was_seen_is_no_claim_of_an_interface_that_the_guest_still_has_to_let_go_of() -> None:
    """A guest that says it had another's address would else keep that one from it."""
    row = placed_interface("eth0", network("half", ipv4=None, ipv6={"cidr": "fd00::/64"}), "fd00::9")
    seen = row | {"seenAddresses": [OLD]}
    assert left_behind({"interfaces": [row]}, [seen]) == []
    [left] = left_interfaces(vm(status={"host": {"state": "Present"}, "interfaces": [seen]}))
    assert left == seen
    assert [str(address) for address in port_value(vm(), left).addresses] == ["fd00::9"]


KEY = NetworkKey("fake", "office-uid")


async def addresses(agent: AgentInMemory) -> list[str]:
    [row] = (await agent.status())["interfaces"]
    return [*row.get("ipAddresses", []), *row.get("seenAddresses", [])]


async def on_office(agent: AgentInMemory) -> str:
    """A running machine on a network that gives no addresses."""
    agent.given_network(OFFICE)
    uid = agent.given(vm(interfaces=[placed_interface("eth0", OFFICE)]))
    await agent.look(uid)
    return uid


async def sees(agent: AgentInMemory, uid: str, *seen: str) -> None:
    """The host's networks say so, and the agent looks at who is named by that."""
    agent.fake_networks.see(KEY.uid, (uid, "eth0"), *seen)
    agent.enqueued_machines.clear()
    await agent.networks.reconcile(KEY)
    for machine in agent.enqueued_machines:
        await agent.look(machine)


async def test_an_address_that_a_guest_uses_is_in_its_status_and_written_once(agent: AgentInMemory) -> None:
    uid = await on_office(agent)
    assert await addresses(agent) == []
    await sees(agent, uid, OLD)
    assert await addresses(agent) == [OLD]
    written = len(agent.client.applied)
    for seen in ((OLD,), (), (OLD,)):
        await sees(agent, uid, *seen)
        agent.clock.advance(60)
        await agent.look(uid)
    assert len(agent.client.applied) == written
    await sees(agent, uid, NEW, OLD)
    assert await addresses(agent) == [NEW, OLD]


async def test_an_agent_that_starts_anew_says_what_was_said_until_it_sees_something_else(agent: AgentInMemory) -> None:
    uid = await on_office(agent)
    await sees(agent, uid, OLD)
    agent.fake_networks.seen.clear()
    agent.restart()
    await agent.look(uid)
    assert await addresses(agent) == [OLD]
    await sees(agent, uid, NEW)
    assert await addresses(agent) == [NEW]


async def test_a_machine_that_ended_and_runs_again_has_no_address_of_before(agent: AgentInMemory) -> None:
    uid = await on_office(agent)
    await sees(agent, uid, OLD)
    agent.fake_networks.seen.clear()  # its tap is another one
    agent.clock.advance(60)
    agent.world.end(uid, ExitReason.CRASHED)
    await agent.look(uid)
    assert (await agent.status())["powerState"] == "Running"
    assert await addresses(agent) == []


async def test_a_stopped_machine_shows_its_claims_only(agent: AgentInMemory) -> None:
    half = network("half", mode="Bridge", ipv4={"cidr": "10.20.0.0/24", "addressing": "Static"})
    agent.given_network(half)
    machine = vm(interfaces=[placed_interface("eth0", half, CLAIM)])
    uid = agent.given(machine)
    await agent.look(uid)
    agent.fake_networks.see("half-uid", (uid, "eth0"), OLD_6)
    await agent.networks.reconcile(NetworkKey("fake", "half-uid"))
    await agent.look(uid)
    assert await addresses(agent) == [CLAIM, OLD_6]
    agent.given(
        await agent.client.get(VIRTUAL_MACHINES, "web", "shop") | {"spec": machine["spec"] | {"powerState": "Stopped"}}
    )
    await agent.look(uid)
    await agent.is_off(uid)
    await agent.look(uid)
    assert (await agent.status())["powerState"] == "Stopped"
    assert await addresses(agent) == [CLAIM]


async def test_a_host_whose_networks_see_no_addresses_says_none(agent: AgentInMemory) -> None:
    await on_office(agent)
    await agent.networks.reconcile(KEY)
    assert agent.enqueued_machines == []
    assert await addresses(agent) == []
