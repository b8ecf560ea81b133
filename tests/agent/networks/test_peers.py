"""Peers of firewalls: watched while a rule here names machines, and not longer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.agent.doubles import Clock, InMemoryClient
from tests.agent.machines.agent_in_memory import AgentInMemory, in_memory
from tests.agent.objects import network, placed_interface, tell, vm
from virtplane_agent.networks import neighbours
from virtplane_agent.networks.serving import NetworkKey
from virtplane_api.kube.errors import ApiUnavailable
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object, Resource
from virtplane_api.reconcile import Failed, Wait

KEY = NetworkKey("fake", "lan-uid")
RULE = {"name": "web", "direction": "Ingress", "action": "Allow", "peers": {"matchLabels": {"role": "front"}}}
LAN = network(firewall={"rules": [RULE]})


class WatchableClient(InMemoryClient):
    """With one list, and one watch that tells of what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []
        """Namespaces, in order."""
        self.watching: list[str] = []
        """Those of now."""
        self.is_silent = False
        self.asked: Callable[[], object] = lambda: None
        """Called when it is asked for a list."""
        self.events: asyncio.Queue[Object] = asyncio.Queue()

    async def list_all(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> tuple[list[Object], str]:
        self.listed.append(namespace)
        self.asked()
        if self.is_silent:
            raise ApiUnavailable("no answer", status=503)
        found = [
            one for (kind, key), one in self._objects.items() if (kind, key.namespace) == (resource.plural, namespace)
        ]
        return found, "1"

    @asynccontextmanager
    async def watch(
        self, resource: Resource, resource_version: str, *, namespace: str = "", **_: Any
    ) -> AsyncIterator[AsyncIterator[Object]]:
        self.watching.append(namespace)
        try:
            yield self._told()
        finally:
            self.watching.remove(namespace)

    async def _told(self) -> AsyncIterator[Object]:
        while True:
            yield await self.events.get()
            self.events.task_done()


@pytest.fixture
def client() -> WatchableClient:
    return WatchableClient()


@pytest.fixture
async def agent(client: WatchableClient, clock: Clock) -> AsyncIterator[AgentInMemory]:
    async with in_memory(client, clock) as agent:
        yield agent
        await agent.networks.stop()


def elsewhere(number: int, *, role: str = "front", version: str = "7", mac: str = "") -> Object:
    """A machine of another agent's."""
    placed = placed_interface("eth0", LAN, f"10.20.0.{number}", mac=mac or f"52:54:00:00:00:0{number}")
    made = vm(f"web-{number}", uid=f"vm-{number}", agent="host-b", interfaces=[placed])
    return made | {"metadata": made["metadata"] | {"labels": {"role": role}, "resourceVersion": version}}


def let_in(agent: AgentInMemory) -> list[str]:
    value = agent.networks.value(KEY)
    assert value is not None
    return [str(address) for group in value.groups for address in group.addresses]


async def tells(client: WatchableClient, obj: Object, event: str = "MODIFIED") -> None:
    """The watch does; returns when it was read."""
    client.events.put_nowait({"type": event, "object": obj})
    await client.events.join()


async def test_machines_of_the_namespace_are_known_before_a_firewall_that_names_them_is_in_force(
    agent: AgentInMemory, client: WatchableClient
) -> None:
    client.put(VIRTUAL_MACHINES, elsewhere(2))
    client.put(VIRTUAL_MACHINES, elsewhere(3, role="back"))
    agent.given_network(LAN)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface("eth0", LAN, "10.20.0.9")]))
    assert isinstance(await agent.networks.reconcile(KEY), Wait)
    assert let_in(agent) == ["10.20.0.2"]
    assert client.listed == ["shop"]


async def test_a_label_that_changes_is_a_reason_to_look_again_and_another_change_is_none(
    agent: AgentInMemory, client: WatchableClient
) -> None:
    client.put(VIRTUAL_MACHINES, elsewhere(2))
    agent.given_network(LAN)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface("eth0", LAN, "10.20.0.9")]))
    await agent.networks.reconcile(KEY)
    before = len(agent.enqueued_networks)
    await tells(client, elsewhere(2, version="8") | {"spec": {"powerState": "Stopped"}})
    assert len(agent.enqueued_networks) == before
    await tells(client, elsewhere(2, role="back", version="9"))
    assert agent.enqueued_networks[before:] == [KEY]
    assert let_in(agent) == []
    await tells(client, elsewhere(4), "ADDED")
    assert let_in(agent) == ["10.20.0.4"]
    await tells(client, elsewhere(4), "DELETED")
    assert let_in(agent) == []
    assert agent.enqueued_networks[before:] == [KEY] * 3


async def test_a_peer_whose_mac_changes_under_its_address_is_a_reason_to_look_again(
    agent: AgentInMemory, client: WatchableClient
) -> None:
    client.put(VIRTUAL_MACHINES, elsewhere(2))
    denies = network(firewall={"rules": [RULE | {"action": "Deny"}]})
    agent.given_network(denies)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface("eth0", LAN, "10.20.0.9")]))
    await agent.networks.reconcile(KEY)
    before = len(agent.enqueued_networks)
    await tells(client, elsewhere(2, version="8", mac="52:54:00:00:00:22"))
    assert agent.enqueued_networks[before:] == [KEY]
    value = agent.networks.value(KEY)
    assert value is not None
    assert [group.macs for group in value.groups] == [("52:54:00:00:00:22",)]


async def test_nothing_is_watched_for_firewalls_that_name_no_machines_nor_any_more_when_they_stop(
    agent: AgentInMemory, client: WatchableClient
) -> None:
    without = network(firewall={"defaults": {"ingress": "Deny"}})
    agent.given_network(without)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface("eth0", LAN, "10.20.0.9")]))
    await agent.networks.reconcile(KEY)
    assert client.listed == []
    agent.given_network(LAN)
    await agent.networks.reconcile(KEY)
    async with asyncio.timeout(5):
        while client.watching != ["shop"]:
            await asyncio.sleep(0)
    agent.given_network(without)
    await agent.networks.reconcile(KEY)
    async with asyncio.timeout(5):
        while client.watching:
            await asyncio.sleep(0)


async def test_a_firewall_whose_peers_cannot_be_listed_is_not_in_force_without_them(
    agent: AgentInMemory, client: WatchableClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "LIST_TIMEOUT_S", 0.05)
    client.is_silent = True
    agent.given_network(LAN)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface("eth0", LAN, "10.20.0.9")]))
    outcome = await agent.networks.reconcile(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "NetworkNotReady"
    assert await agent.fake_networks.inventory() == ()


async def test_a_rule_that_comes_while_peers_are_waited_for_is_not_in_force_without_them(
    agent: AgentInMemory, client: WatchableClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "LIST_TIMEOUT_S", 0.2)
    client.is_silent = True
    # Whose names of others are waited for, though it goes without them.
    wide = network(mode="Overlay") | {"status": {"vni": 5000, "mtu": 1450}}
    denies = wide | {"spec": wide["spec"] | {"firewall": {"rules": [RULE | {"action": "Deny"}]}}}
    client.asked = lambda: agent.given_network(denies)
    agent.given_network(wide)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface("eth0", wide, "10.20.0.9")]))
    outcome = await agent.networks.reconcile(KEY)
    assert client.listed
    assert isinstance(outcome, Failed)
    assert outcome.reason == "NetworkNotReady"
    assert await agent.fake_networks.inventory() == ()


async def test_rules_of_a_machine_that_change_are_a_reason_to_look_at_its_networks(agent: AgentInMemory) -> None:
    agent.given_network(network())
    machine = vm(interfaces=[placed_interface("eth0", network(), "10.20.0.9")])
    agent.given(machine)
    before = len(agent.enqueued_networks)
    changed = machine | {"spec": machine["spec"] | {"firewall": {"defaults": {"ingress": "Deny"}}}}
    agent.given(changed)
    assert agent.enqueued_networks[before:] == [KEY]
    tell(agent.machines.informer, changed | {"metadata": changed["metadata"] | {"resourceVersion": "999"}})
    assert agent.enqueued_networks[before:] == [KEY]


async def test_an_overlay_whose_names_cannot_be_listed_is_served_without_those_of_others(
    agent: AgentInMemory, client: WatchableClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "LIST_TIMEOUT_S", 0.05)
    client.is_silent = True
    wide = network(mode="Overlay") | {"status": {"vni": 5000, "mtu": 1450}}
    agent.given_network(wide)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface("eth0", wide, "10.20.0.9")]))
    assert isinstance(await agent.networks.reconcile(KEY), Wait)
    assert client.listed == ["shop"]
    assert await agent.fake_networks.inventory() == (KEY.uid,)
