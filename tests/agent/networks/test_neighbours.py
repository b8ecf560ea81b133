"""Machines of other hosts: watched where a network needs to know them, by name, labels and addresses alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import network, placed_interface, vm
from tests.cluster.control_plane import ControlPlane
from tests.cluster.namespaces import nobody_serves
from virtplane_agent.networks.desired import remote_machines
from virtplane_agent.networks.neighbours import Neighbours, as_neighbour, rows_of
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object

_MERGE = "application/merge-patch+json"
MAC = "52:54:00:00:00:01"

# --- what is kept of a machine ---


def test_of_a_machine_its_name_its_labels_and_its_addresses_are_kept_and_no_more() -> None:
    wide = network("wide")
    machine = vm(agent="host-b", interfaces=[placed_interface("eth0", wide, "10.20.0.9", "fd00::9")])
    kept = as_neighbour(machine)
    assert kept["metadata"].keys() == {"name", "namespace", "uid", "resourceVersion", "labels"}
    assert kept.keys() == {"metadata", "status"}
    assert rows_of(kept) == rows_of(machine) == {("wide-uid", MAC, ("10.20.0.9", "fd00::9"), ())}


def test_a_machine_of_which_nothing_is_left_is_nobody_s_neighbour() -> None:
    gone = vm(interfaces=[placed_interface()], status={"host": {"state": "Removed", "token": 1}})
    assert rows_of(as_neighbour(gone)) == frozenset()


# --- the watch ---


class Cluster:
    """Machines on the API server, and what an agent hears of them."""

    def __init__(self, server: ControlPlane, client: KubeClient, namespace: str) -> None:
        self.server, self.namespace = server, namespace
        self.changed: list[str] = []
        self.neighbours = Neighbours(client, self.changed.append)

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
        return str(self.get(name)["metadata"]["uid"])

    def patch(self, name: str, **status: Any) -> None:
        path = f"{VIRTUAL_MACHINES.path(self.namespace, name)}/status"
        self.server.request("PATCH", path, {"status": status}, content_type=_MERGE)

    def get(self, name: str) -> Object:
        found: Object = json.loads(self.server.request("GET", VIRTUAL_MACHINES.path(self.namespace, name)))
        return found

    def names(self, *here: str) -> dict[str, tuple[str, ...]]:
        found = remote_machines(self.neighbours.machines(self.namespace), "wide-uid", here)
        return {one.name: tuple(map(str, one.addresses)) for one in found}


@pytest.fixture
async def cluster(installed: ControlPlane, namespace: str) -> AsyncIterator[Cluster]:
    agent = installed.client_kubeconfig("virtplane:agent:host-a", ["virtplane:agents"])
    async with KubeClient.connect(agent) as client:
        one = Cluster(installed, client, namespace)
        yield one
        await one.neighbours.stop()
        nobody_serves(installed, namespace)


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_machines_of_a_namespace_come_and_go(cluster: Cluster) -> None:
    first = cluster.put("first", "10.20.0.9")
    cluster.neighbours.watch({cluster.namespace})
    assert await cluster.neighbours.ready(cluster.namespace)
    assert cluster.names() == {"first": ("10.20.0.9",)}
    assert cluster.names(first) == {}
    cluster.put("second", "10.20.0.10", "fd00::10")
    await becomes(lambda: cluster.names() == {"first": ("10.20.0.9",), "second": ("10.20.0.10", "fd00::10")})
    cluster.changed.clear()
    cluster.patch("second", powerState="Stopped")  # no news for DNS
    cluster.patch("second", host={"hypervisor": "host-b-qemu", "token": 1, "state": "Removed"})
    await becomes(lambda: cluster.names() == {"first": ("10.20.0.9",)})
    assert cluster.changed == ["wide-uid"]


async def test_a_namespace_is_watched_for_as_long_as_it_is_asked_for(cluster: Cluster) -> None:
    cluster.put("first", "10.20.0.9")
    assert cluster.neighbours.namespaces == frozenset()
    for namespaces in ({cluster.namespace}, {cluster.namespace, "other"}):
        cluster.neighbours.watch(namespaces)
        assert cluster.neighbours.namespaces == namespaces
        assert await cluster.neighbours.ready(cluster.namespace)
        assert cluster.names() == {"first": ("10.20.0.9",)}
    cluster.neighbours.watch(())
    assert cluster.neighbours.namespaces == frozenset()
    assert cluster.names() == {}


async def test_an_agent_whose_networks_need_nobody_else_s_machines_watches_none(agent: AgentInMemory) -> None:
    lan = network()
    agent.given_network(lan)
    await agent.look(agent.given(vm(interfaces=[placed_interface("eth0", lan, "10.20.0.9")])))
    assert agent.networks._neighbours.namespaces == frozenset()
