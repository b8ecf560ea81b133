"""What an agent tells of machines, networks and interfaces follows what it drives, and is there while it drives it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.metrics.subjects import work_of
from tests.agent.objects import HYPERVISOR, network, placed_interface, tell, vm
from virtplane_agent.metrics import snapshot
from virtplane_agent.metrics.snapshot import InterfaceRow, Snapshot, take
from virtplane_agent.metrics.subject import Subject
from virtplane_agent.networks.serving import NetworkKey
from virtplane_api.kube.resources import Object
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import Network, PortCounters, Traffic
from virtplane_drivers.network.fake import FakeNetworks
from virtplane_drivers.network.fake.driver import counters_of

LAN, DMZ = network(), network("dmz")


def on_both() -> Object:
    return vm(
        interfaces=[placed_interface("eth0", LAN), placed_interface("eth1", DMZ, mac="52:54:00:00:00:02")],
        power_state="Stopped",
    )


async def told(agent: AgentInMemory) -> Snapshot:
    return await take(Subject(work=work_of(agent)))


async def test_an_agent_that_has_not_begun_says_so_little_and_nothing_wrong() -> None:
    assert await take(Subject()) == Snapshot()


async def test_each_interface_is_told_by_the_names_that_its_user_gave(agent: AgentInMemory) -> None:
    for joined in (LAN, DMZ):
        agent.given_network(joined)
    agent.given(on_both())
    for uid in ("lan-uid", "dmz-uid"):
        await agent.networks.reconcile(NetworkKey("fake", uid))
    assert (await told(agent)).interfaces == (
        InterfaceRow("shop", "web", "eth0", "lan", counters_of(("vm-1", "eth0"))),
        InterfaceRow("shop", "web", "eth1", "dmz", counters_of(("vm-1", "eth1"))),
    )


async def test_the_counters_of_an_interface_go_with_it(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    machine = vm(interfaces=[placed_interface()], power_state="Stopped")
    agent.given(machine)
    await agent.networks.reconcile(NetworkKey("fake", "lan-uid"))
    assert len((await told(agent)).interfaces) == 1
    tell(agent.machines.informer, machine, "DELETED")
    await agent.networks.reconcile(NetworkKey("fake", "lan-uid"))
    after = await told(agent)
    assert after.interfaces == ()
    assert after.machines[HYPERVISOR, "Stopped"] == 0
    assert after.networks["fake", "Ready"] == 0


def moved(now: Object, before: Object) -> Object:
    """A machine whose interface is claimed for another network, and whose guest has not let go of it."""
    left = {"host": {"state": "Present"}, "interfaces": [placed_interface("eth0", before)]}
    return vm(interfaces=[placed_interface("eth0", now)], status=left)


def counters(first: int) -> PortCounters:
    return PortCounters(Traffic(*range(first, first + 4)), Traffic(*range(first + 4, first + 8)))


async def test_an_interface_that_goes_to_another_network_is_told_in_both_until_its_guest_has_let_go(
    agent: AgentInMemory,
) -> None:
    beside(agent, {"lan-uid": {("vm-1", "eth0"): counters(10)}, "dmz-uid": {("vm-1", "eth0"): counters(20)}})
    agent.given(moved(DMZ, before=LAN))
    assert set((await told(agent)).interfaces) == {
        InterfaceRow("shop", "web", "eth0", "dmz", counters(20)),
        InterfaceRow("shop", "web", "eth0", "lan", counters(10)),
    }


async def test_of_a_network_that_was_made_again_under_its_name_the_one_of_now_is_told(agent: AgentInMemory) -> None:
    """The old one's port is there still: Prometheus refuses two values of the same labels."""
    again = network(uid="lan-uid-2")
    beside(agent, {"lan-uid": {("vm-1", "eth0"): counters(10)}, "lan-uid-2": {("vm-1", "eth0"): counters(20)}})
    agent.given(moved(again, before=LAN))
    assert (await told(agent)).interfaces == (InterfaceRow("shop", "web", "eth0", "lan", counters(20)),)


async def test_machines_are_counted_by_what_was_seen_of_them_and_not_by_what_is_asked(agent: AgentInMemory) -> None:
    await agent.look(agent.given(vm("a", uid="vm-a")))
    await agent.look(agent.given(vm("b", uid="vm-b", power_state="Stopped")))
    agent.given(vm("c", uid="vm-c"))
    agent.given(vm("d", uid="vm-d", status={"host": {"state": "Removed", "token": 1}}))
    machines = (await told(agent)).machines
    assert machines == {
        (HYPERVISOR, "Running"): 1,
        (HYPERVISOR, "Stopped"): 1,
        (HYPERVISOR, "Unknown"): 1,
        (HYPERVISOR, "Paused"): 0,
        (HYPERVISOR, "Suspended"): 0,
    }


async def test_networks_are_counted_by_what_their_driver_says(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    agent.given_network(DMZ)
    agent.given(on_both())
    await agent.networks.reconcile(NetworkKey("fake", "lan-uid"))
    agent.fake_networks.faults.failed = ("ForwardingBlocked", "table ip filter drops it")
    await agent.networks.reconcile(NetworkKey("fake", "dmz-uid"))
    assert (await told(agent)).networks == {("fake", "Ready"): 1, ("fake", "Failed"): 1}


class Other(FakeNetworks):
    """A driver beside the fake one, with counters of its own, or none."""

    name = "other"

    def __init__(self, told: Any) -> None:
        super().__init__()
        self._told = told

    async def counters(self) -> Any:
        return await self._told() if callable(self._told) else self._told

    async def apply(self, network: Network) -> None:
        raise AssertionError("only measured here")

    def events(self) -> AsyncIterator[str]:
        raise AssertionError("only measured here")


def beside(agent: AgentInMemory, other: Any) -> None:
    networks = {"other": Other(other), **agent.endpoints.networks}
    agent.endpoints = type(agent.endpoints)(agent.endpoints.hypervisors, agent.endpoints.storage, networks)


async def test_a_driver_without_counters_is_not_said_to_have_failed(agent: AgentInMemory) -> None:
    beside(agent, None)
    assert (await told(agent)).counters_read == {"fake": True}


async def test_a_driver_that_cannot_tell_now_is_said_so_and_the_others_are_told(agent: AgentInMemory) -> None:
    beside(agent, {"lan-uid": {("vm-1", "eth0"): counters(1)}})
    agent.fake_networks.faults.refuse("counters", Unavailable("no /proc today"))
    agent.given(vm(interfaces=[placed_interface()]))
    seen = await told(agent)
    assert seen.counters_read == {"fake": False, "other": True}
    assert seen.interfaces == (InterfaceRow("shop", "web", "eth0", "lan", counters(1)),)
    assert (await told(agent)).counters_read == {"fake": True, "other": True}


async def test_a_driver_that_never_answers_does_not_hold_up_a_scrape(agent: AgentInMemory, monkeypatch: Any) -> None:
    monkeypatch.setattr(snapshot, "COUNTERS_TIMEOUT_S", 0.01)
    beside(agent, asyncio.Event().wait)
    assert (await told(agent)).counters_read == {"fake": True, "other": False}
