"""One pass over one pool at a time, on the real API server, with a clock by hand."""

from collections.abc import AsyncIterator

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.operator.objects import hypervisor, placed, volume
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import NotFound
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import HYPERVISORS, STORAGE_POOLS, VOLUMES, Key, Object
from virtplane_api.names import OPERATOR_FIELD_MANAGER
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_operator.pools.reconcile import TELL_EVERY_S, PoolReconciler
from virtplane_operator.world import AgentHealth, Store

SYSTEM_NAMESPACE = "virtplane-system"


class World:
    """A pool on the API server; its volumes and its Hypervisor are in the store alone."""

    def __init__(self, client: KubeClient, installed: ControlPlane, name: str) -> None:
        self.client, self.installed, self.name = client, installed, name
        self.now = 1000.0
        self.store = Store()
        health = AgentHealth(client, SYSTEM_NAMESPACE, lambda _agent: None)
        events = EventRecorder(client, controller=OPERATOR_FIELD_MANAGER, instance="test")
        self._reconciler = PoolReconciler(client, self.store, health, events, clock=lambda: self.now)

    async def reconcile(self) -> Outcome:
        return await self._reconciler.reconcile(Key("", self.name))

    async def read(self) -> Object:
        """The pool as the API server has it, taken in by the store."""
        pool = await self.client.get(STORAGE_POOLS, self.name)
        self.store.put(STORAGE_POOLS, pool)
        return pool

    async def given(self, *volumes: str) -> None:
        """Volumes of the pool, and a Hypervisor that reaches it."""
        uid = (await self.read())["metadata"]["uid"]
        for name in volumes:
            here = placed(poolName=self.name, poolUID=uid)
            self.store.put(VOLUMES, volume(name, uid=name, placement=here))
        self.store.put(HYPERVISORS, hypervisor(pools=[{"name": self.name, "uid": uid, "state": "Ready"}]))

    def end(self, name: str) -> None:
        self.store.remove(VOLUMES, volume(name, uid=name))

    async def delete(self) -> None:
        self.installed.request("DELETE", STORAGE_POOLS.path(name=self.name))
        await self.read()


@pytest.fixture
async def world(installed: ControlPlane, namespace: str) -> AsyncIterator[World]:
    name = f"brief-{namespace}"
    body = {"apiVersion": STORAGE_POOLS.api_version, "kind": "StoragePool", "metadata": {"name": name},
            "spec": {"fake": {}, "access": "Local"}}  # fmt: skip
    installed.request("POST", STORAGE_POOLS.path(), body)
    kubeconfig = installed.service_account_kubeconfig(SYSTEM_NAMESPACE, "virtplane-operator")
    async with KubeClient.connect(kubeconfig) as client:
        yield World(client, installed, name)
        if any(pool["metadata"]["name"] == name for pool in (await client.list_all(STORAGE_POOLS))[0]):
            path, merge = STORAGE_POOLS.path(name=name), "application/merge-patch+json"
            installed.request("DELETE", path)
            installed.request("PATCH", path, {"metadata": {"finalizers": None}}, content_type=merge)


def ready(pool: Object) -> tuple[str, str]:
    [condition] = pool["status"]["conditions"]
    return condition["status"], condition["reason"]


def users(pool: Object) -> str:
    """Who keeps a pool that is to go."""
    assert ready(pool) == ("False", "InUse")
    message: str = pool["status"]["conditions"][0]["message"]
    return message.removeprefix("deletion waits for ").partition(";")[0]


async def test_a_pool_that_is_deleted_in_use_says_so_once_and_goes_with_its_last_volume(world: World) -> None:
    await world.given("data", "logs")
    await world.reconcile()
    assert ready(await world.read()) == ("True", "Reachable")
    await world.delete()
    assert await world.reconcile() == Done()
    seen = await world.read()
    assert users(seen) == "2 volumes: shop/data, shop/logs"
    world.now += 3600
    assert await world.reconcile() == Done()
    assert (await world.read())["metadata"]["resourceVersion"] == seen["metadata"]["resourceVersion"]

    world.end("data")
    await world.reconcile()
    assert users(await world.read()) == "1 volume: shop/logs"
    world.end("logs")
    assert await world.reconcile() == Done()
    with pytest.raises(NotFound):
        await world.read()


async def test_volumes_that_leave_a_pool_that_is_to_go_are_not_told_one_by_one(world: World) -> None:
    await world.given("data", "logs", "mail")
    await world.reconcile()
    await world.read()
    await world.delete()
    await world.reconcile()
    told = users(await world.read())
    world.now += 1
    world.end("data")
    outcome = await world.reconcile()
    assert isinstance(outcome, Wait)
    assert outcome.after_s == pytest.approx(TELL_EVERY_S - 1)
    assert users(await world.read()) == told == "3 volumes: shop/data, shop/logs, shop/mail"
    world.now += TELL_EVERY_S - 1
    assert await world.reconcile() == Done()
    assert users(await world.read()) == "2 volumes: shop/logs, shop/mail"


async def test_a_host_that_reaches_a_pool_no_more_is_told_at_once_also_when_it_is_to_go(world: World) -> None:
    await world.given("data")
    await world.delete()
    await world.reconcile()
    await world.read()
    failed = {"name": world.name, "uid": (await world.read())["metadata"]["uid"], "state": "Failed", "message": "gone"}
    world.store.put(HYPERVISORS, hypervisor(version=2, pools=[failed]))
    assert await world.reconcile() == Done()
    seen = await world.read()
    assert seen["status"]["hypervisors"] == [{"name": "host-a-qemu", "state": "Failed", "message": "gone"}]
    assert users(seen) == "1 volume: shop/data"
