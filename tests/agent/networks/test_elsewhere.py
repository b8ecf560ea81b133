"""Machines of other hosts: watched where a network of mode Overlay needs it, known by name and address alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Any

import pytest

from tests.agent.doubles import InMemoryClient
from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import network, placed_interface, vm
from tests.cluster.control_plane import ControlPlane
from virtplane_agent.networks.desired import network_value, overlay_value
from virtplane_agent.networks.elsewhere import Elsewhere, names_and_addresses, rows_of
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object, Resource
from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.overlay import Overlay, RemoteMachine, Underlay

STATUS = {
    "vni": 5000,
    "mtu": 1450,
    "peers": [{"agentName": "host-a", "address": "192.0.2.11"}, {"agentName": "host-b", "address": "192.0.2.12"}],
}
_MERGE = "application/merge-patch+json"
UNDERLAY = Underlay(ip_address("192.0.2.11"), 1500)


# --- what a driver is told ---


def test_an_overlay_has_all_other_hosts_as_peers_and_the_mtu_that_was_claimed() -> None:
    wide = network("wide", mode="Overlay", mtu=1400) | {"status": STATUS}
    remote = RemoteMachine("db", (ip_address("10.20.0.9"),))
    overlay = overlay_value(wide, UNDERLAY, [remote])
    assert overlay == Overlay(5000, ip_address("192.0.2.11"), (ip_address("192.0.2.12"),), (remote,))
    value = network_value(wide, (), overlay)
    assert (value.mtu, value.overlay) == (1450, overlay)


def test_an_address_that_two_hosts_have_is_told_to_the_driver() -> None:
    twice = STATUS | {"peers": [{"agentName": name, "address": "192.0.2.11"} for name in ("host-a", "host-b")]}
    overlay = overlay_value(network("wide", mode="Overlay") | {"status": twice}, UNDERLAY, ())
    assert overlay.peers == (UNDERLAY.address,)


@pytest.mark.parametrize("status", [{}, {"vni": 5000}, {"mtu": 1450}])
def test_an_overlay_that_lacks_a_claim_is_not_ready(status: Object) -> None:
    with pytest.raises(Unavailable) as refused:
        overlay_value(network("wide", mode="Overlay") | {"status": status}, UNDERLAY, ())
    assert refused.value.reason == Reason.NETWORK_NOT_READY


# --- what is kept of a machine ---


def test_of_a_machine_its_name_and_its_addresses_are_kept_and_no_more() -> None:
    wide = network("wide")
    machine = vm(agent="host-b", interfaces=[placed_interface("eth0", wide, "10.20.0.9", "fd00::9")])
    kept = names_and_addresses(machine)
    assert kept["metadata"].keys() <= {"name", "namespace", "uid", "resourceVersion"}
    assert kept.keys() == {"metadata", "status"}
    assert rows_of(kept) == rows_of(machine) == {("wide-uid", ("10.20.0.9", "fd00::9"))}


def test_a_machine_of_which_nothing_is_left_has_no_name() -> None:
    gone = vm(interfaces=[placed_interface()], status={"host": {"state": "Removed", "token": 1}})
    assert rows_of(names_and_addresses(gone)) == frozenset()


# --- the watch ---


class Cluster:
    """Machines on the API server, and what an agent hears of them."""

    def __init__(self, server: ControlPlane, client: KubeClient, namespace: str) -> None:
        self.server, self.namespace = server, namespace
        self.changed: list[str] = []
        self.made: list[str] = []
        self.elsewhere = Elsewhere(client, self.changed.append)

    def put(self, name: str, *addresses: str) -> str:
        """A machine with these addresses on the network of UID `wide-uid`; returns its own."""
        made = {
            "apiVersion": "virtplane.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": {"name": name},
            "spec": {"powerState": "Stopped", "cpu": {"cores": 1}, "memory": {"size": "32Mi"}},
        }
        path = VIRTUAL_MACHINES.path(self.namespace)
        self.server.request("POST", path, made)
        row = placed_interface("lan", network("wide"), *addresses)
        place = {"hypervisor": "host-b-qemu", "agentName": "host-b", "token": 1}
        self.patch(name, placement=place | {"interfaces": [row]})
        self.made.append(name)
        return str(self.get(name)["metadata"]["uid"])

    def patch(self, name: str, **status: Any) -> None:
        path = f"{VIRTUAL_MACHINES.path(self.namespace, name)}/status"
        self.server.request("PATCH", path, {"status": status}, content_type=_MERGE)

    def get(self, name: str) -> Object:
        found: Object = json.loads(self.server.request("GET", VIRTUAL_MACHINES.path(self.namespace, name)))
        return found

    def end(self) -> None:
        """No operator takes the finalizers off."""
        for name in self.made:
            body = {"metadata": {"finalizers": None}}
            path = VIRTUAL_MACHINES.path(self.namespace, name)
            self.server.request("DELETE", path)
            self.server.request("PATCH", path, body, content_type=_MERGE)

    def names(self, *here: str) -> dict[str, tuple[str, ...]]:
        found = self.elsewhere.machines(self.namespace, "wide-uid", here)
        return {one.name: tuple(map(str, one.addresses)) for one in found}


@pytest.fixture
async def cluster(installed: ControlPlane, namespace: str) -> AsyncIterator[Cluster]:
    agent = installed.client_kubeconfig("virtplane:agent:host-a", ["virtplane:agents"])
    async with KubeClient.connect(agent) as client:
        one = Cluster(installed, client, namespace)
        yield one
        await one.elsewhere.stop()
        one.end()


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_names_and_addresses_of_a_namespace_come_and_go(cluster: Cluster) -> None:
    first = cluster.put("first", "10.20.0.9")
    await cluster.elsewhere.know(cluster.namespace)
    assert cluster.names() == {"first": ("10.20.0.9",)}
    assert cluster.names(first) == {}
    cluster.put("second", "10.20.0.10", "fd00::10")
    await becomes(lambda: cluster.names() == {"first": ("10.20.0.9",), "second": ("10.20.0.10", "fd00::10")})
    cluster.changed.clear()
    cluster.patch("second", powerState="Stopped")  # no news for DNS
    cluster.patch("second", host={"hypervisor": "host-b-qemu", "token": 1, "state": "Removed"})
    await becomes(lambda: cluster.names() == {"first": ("10.20.0.9",)})
    assert cluster.changed == ["wide-uid"]


async def test_a_namespace_is_watched_from_the_first_question_until_nobody_needs_it(cluster: Cluster) -> None:
    cluster.put("first", "10.20.0.9")
    assert cluster.elsewhere.namespaces == frozenset()
    await cluster.elsewhere.know(cluster.namespace)
    await cluster.elsewhere.know(cluster.namespace)
    assert cluster.elsewhere.namespaces == {cluster.namespace}
    cluster.elsewhere.keep({cluster.namespace, "other"})
    assert cluster.names() == {"first": ("10.20.0.9",)}
    cluster.elsewhere.keep(())
    assert cluster.elsewhere.namespaces == frozenset()
    assert cluster.names() == {}


class Mute(InMemoryClient):
    """An API server that does not answer a list."""

    async def list_all(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> tuple[list[Object], str]:
        await asyncio.Event().wait()
        raise AssertionError


async def test_an_api_server_that_is_away_is_not_waited_for_without_end() -> None:
    elsewhere = Elsewhere(Mute(), lambda _uid: None, sync_timeout_s=0.05)
    await elsewhere.know("shop")
    assert elsewhere.machines("shop", "wide-uid", ()) == ()
    await elsewhere.stop()


async def test_an_agent_without_overlays_watches_nobody_else_s_machines(agent: AgentInMemory) -> None:
    lan = network()
    agent.given_network(lan)
    await agent.look(agent.given(vm(interfaces=[placed_interface("eth0", lan, "10.20.0.9")])))
    assert agent.networks._elsewhere.namespaces == frozenset()
