"""One pass over one network at a time, on the real API server, with a clock by hand."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.operator.objects import claimed, hypervisor, placed, vm
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import NotFound
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import HYPERVISORS, NETWORKS, VIRTUAL_MACHINES, Key, Object
from virtplane_api.names import NETWORK_IN_USE_FINALIZER, OPERATOR_FIELD_MANAGER
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_operator.hypervisors.candidates import Candidates
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.networks.reconcile import COUNT_EVERY_S, NetworkReconciler
from virtplane_operator.world import AgentHealth, Store, Usage

SYSTEM_NAMESPACE = "virtplane-system"


class World:
    """A network on the API server; machines and Hypervisors are in the store alone."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.now = 1000.0
        self.store, self.claims = Store(), Claims()
        catalog = Catalog(self.store, self.claims)
        self.store.listen(self.claims.observe)
        self.store.listen(catalog.observe)
        health = AgentHealth(client, SYSTEM_NAMESPACE, lambda _agent: None)
        events = EventRecorder(client, controller=OPERATOR_FIELD_MANAGER, instance="test")
        candidates = Candidates(self.store, Usage(), self.claims, health)
        self._reconciler = NetworkReconciler(
            client, self.store, catalog, self.claims, health, events, candidates.reported, clock=lambda: self.now
        )
        self._version = 0

    async def reconcile(self) -> Outcome:
        return await self._reconciler.reconcile(Key(self.namespace, "lan"))

    async def read(self) -> Object:
        """The network as the API server has it, taken in by the store."""
        network = await self.client.get(NETWORKS, "lan", self.namespace)
        self.store.put(NETWORKS, network)
        return network

    async def place(self, name: str, last: int) -> None:
        uid = str((await self.read())["metadata"]["uid"])
        row = claimed("lan", "lan", f"52:54:00:00:00:{last:02x}", f"10.20.0.{last}") | {"networkUID": uid}
        where = {"namespace": self.namespace}
        self.store.put(VIRTUAL_MACHINES, vm(name, uid=name, metadata=where, placement=placed(interfaces=[row])))

    def end(self, name: str) -> None:
        self.store.remove(VIRTUAL_MACHINES, vm(name, uid=name, metadata={"namespace": self.namespace}))

    async def report(self, **report: Any) -> None:
        self._version += 1
        uid = str((await self.read())["metadata"]["uid"])
        self.store.put(HYPERVISORS, hypervisor(version=self._version, networks=[{"uid": uid} | report]))


@pytest.fixture
async def world(installed: ControlPlane, namespace: str) -> AsyncIterator[World]:
    made = {"mode": "NAT", "ipv4": {"cidr": "10.20.0.0/24"}}
    body = {"apiVersion": NETWORKS.api_version, "kind": "VirtualNetwork", "metadata": {"name": "lan"}, "spec": made}
    installed.request("POST", NETWORKS.path(namespace), body)
    kubeconfig = installed.service_account_kubeconfig(SYSTEM_NAMESPACE, "virtplane-operator")
    async with KubeClient.connect(kubeconfig) as client:
        world = World(client, namespace)
        await world.read()
        yield world
        if any(network["metadata"]["name"] == "lan" for network in (await client.list_all(NETWORKS, namespace))[0]):
            installed.request(
                "PATCH", NETWORKS.path(namespace, "lan"), {"metadata": {"finalizers": None}},
                content_type="application/merge-patch+json",
            )  # fmt: skip


def ready(network: Object) -> tuple[str, str]:
    [condition] = network["status"]["conditions"]
    return condition["status"], condition["reason"]


async def test_a_finalizer_that_a_user_dropped_is_put_back(world: World, installed: ControlPlane) -> None:
    path = NETWORKS.path(world.namespace, "lan")
    dropped = {"metadata": {"finalizers": ["example.dev/own"]}}
    installed.request("PATCH", path, dropped, content_type="application/merge-patch+json")
    await world.read()
    await world.reconcile()
    assert json.loads(installed.request("GET", path))["metadata"]["finalizers"] == [
        "example.dev/own",
        NETWORK_IN_USE_FINALIZER,
    ]
    installed.request(
        "PATCH", path, {"metadata": {"finalizers": [NETWORK_IN_USE_FINALIZER]}},
        content_type="application/merge-patch+json",
    )  # fmt: skip


async def test_a_pass_that_finds_nothing_new_writes_nothing(world: World) -> None:
    assert await world.reconcile() == Done()
    first = await world.read()
    assert (first["status"]["used"], first["status"]["free"], ready(first)) == (0, 253, ("True", "NoMachines"))
    world.now += 3600
    assert await world.reconcile() == Done()
    assert (await world.read())["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_figures_are_written_once_in_a_while(world: World) -> None:
    await world.place("web", 5)
    await world.report(state="Ready")
    assert await world.reconcile() == Done()
    assert (await world.read())["status"]["used"] == 1

    await world.place("db", 6)
    world.now += 1
    outcome = await world.reconcile()
    assert isinstance(outcome, Wait)
    assert outcome.after_s == pytest.approx(COUNT_EVERY_S - 1)
    seen = await world.read()
    assert (seen["status"]["used"], seen["status"]["free"]) == (1, 252)

    world.now += COUNT_EVERY_S - 1
    assert await world.reconcile() == Done()
    seen = await world.read()
    assert (seen["status"]["used"], seen["status"]["free"]) == (2, 251)


async def test_a_condition_is_written_at_once_and_the_figures_with_it(world: World) -> None:
    await world.place("web", 5)
    await world.report(state="Ready")
    await world.reconcile()
    await world.place("db", 6)
    await world.report(state="Failed", reason="ForwardingBlocked")
    world.now += 1
    assert await world.reconcile() == Done()
    seen = await world.read()
    assert (seen["status"]["used"], seen["status"]["free"], ready(seen)) == (2, 251, ("False", "ForwardingBlocked"))


async def test_the_first_machine_is_counted_at_once(world: World) -> None:
    """From then on the API server keeps mode and addresses of the network as they are."""
    await world.reconcile()
    await world.place("web", 5)
    world.now += 0.1
    assert await world.reconcile() == Done()
    assert (await world.read())["status"]["used"] == 1


def users(network: Object) -> str:
    """Who keeps a network that is to go."""
    assert ready(network) == ("False", "InUse")
    message: str = network["status"]["conditions"][0]["message"]
    return message.removeprefix("deletion waits for ")


async def test_a_network_that_is_deleted_in_use_says_so_and_goes_with_its_last_user(
    world: World, installed: ControlPlane
) -> None:
    for last, name in enumerate(("web", "db", "cache", "mail"), 5):
        await world.place(name, last)
    await world.report(state="Ready")
    await world.reconcile()
    assert ready(await world.read()) == ("True", "Served")
    installed.request("DELETE", NETWORKS.path(world.namespace, "lan"))
    await world.read()
    assert await world.reconcile() == Done()
    seen = await world.read()
    cache, db, mail = (f"{world.namespace}/{name}" for name in ("cache", "db", "mail"))
    assert users(seen) == f"4 machines: {cache}, {db}, {mail}, ... and 1 hypervisor: host-a-qemu"
    world.now += 3600
    assert await world.reconcile() == Done()
    assert (await world.read())["metadata"]["resourceVersion"] == seen["metadata"]["resourceVersion"]

    for name in ("web", "db", "cache", "mail"):
        world.end(name)
    await world.reconcile()
    assert users(await world.read()) == "1 hypervisor: host-a-qemu"
    world.store.put(HYPERVISORS, hypervisor(version=9))
    await world.reconcile()
    with pytest.raises(NotFound):
        await world.read()


async def test_machines_that_leave_a_network_that_is_to_go_are_not_told_one_by_one(
    world: World, installed: ControlPlane
) -> None:
    for last, name in enumerate(("web", "db", "cache"), 5):
        await world.place(name, last)
    installed.request("DELETE", NETWORKS.path(world.namespace, "lan"))
    await world.read()
    await world.reconcile()
    told = await world.read()
    world.now += 1
    world.end("web")
    outcome = await world.reconcile()
    assert isinstance(outcome, Wait)
    assert outcome.after_s == pytest.approx(COUNT_EVERY_S - 1)
    assert users(await world.read()) == users(told)
    world.now += COUNT_EVERY_S - 1
    assert await world.reconcile() == Done()
    seen = await world.read()
    assert (users(seen), seen["status"]["used"]) == (f"2 machines: {world.namespace}/cache, {world.namespace}/db", 2)


async def test_the_first_figures_of_a_network_made_again_do_not_wait(world: World, installed: ControlPlane) -> None:
    await world.reconcile()
    earlier = await world.read()
    path = NETWORKS.path(world.namespace, "lan")
    installed.request("DELETE", path)
    await world.read()
    assert await world.reconcile() == Done()
    body = {name: earlier[name] for name in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "lan"}}
    installed.request("POST", NETWORKS.path(world.namespace), body)
    await world.read()
    await world.place("web", 5)
    await world.reconcile()
    assert (await world.read())["status"]["used"] == 1
