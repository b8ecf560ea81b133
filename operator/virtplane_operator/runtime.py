"""The operator at work: one store, one loop per kind, and who is to be looked at again when something changes.

kopf (see `chassis`) feeds the store with what changes rarely, informers with machines and volumes.
"""

import asyncio
import logging
import random
from typing import Protocol

from virtplane_api.actions import without_results
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiError
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.passes import outcome_of
from virtplane_api.kube.resources import (
    ACTIONS,
    HYPERVISORS,
    NETWORKS,
    STORAGE_POOLS,
    VIRTUAL_MACHINES,
    VOLUMES,
    Key,
    Object,
    Resource,
    is_being_deleted,
    uid_of,
)
from virtplane_api.names import OPERATOR_FIELD_MANAGER
from virtplane_api.reconcile import Outcome, ReconcileLoop
from virtplane_api.vocabulary import NetworkMode
from virtplane_operator.actions.reconcile import ActionReconciler
from virtplane_operator.hypervisors.candidates import Candidates, networks_facts_of
from virtplane_operator.hypervisors.reconcile import HypervisorReconciler
from virtplane_operator.machines.reconcile import MachineReconciler, Networks
from virtplane_operator.machines.status import concerns_the_operator, gives_up_claims, networks_of, placement_of
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.networks.overlays import facts_of, is_overlay
from virtplane_operator.networks.reconcile import COUNT_EVERY_S, NetworkReconciler
from virtplane_operator.pools.reconcile import PoolReconciler
from virtplane_operator.volumes.reconcile import VolumeReconciler
from virtplane_operator.world import AgentHealth, Store, Usage
from virtplane_operator.world.usage import hypervisor_of

_log = logging.getLogger(__name__)

KINDS = (HYPERVISORS, STORAGE_POOLS, NETWORKS, VOLUMES, VIRTUAL_MACHINES, ACTIONS)
HOT_KINDS = (VOLUMES, VIRTUAL_MACHINES, ACTIONS)
"""Watched by informers of ours: kopf spends 1 ms of CPU per event, three times what the decision takes."""
KOPF_KINDS = (HYPERVISORS, STORAGE_POOLS, NETWORKS)
RESYNC_EVERY_S = 600.0


class Operator:
    """Everything that decides. `run` works until it is cancelled."""

    def __init__(
        self,
        client: KubeClient,
        *,
        system_namespace: str,
        identity: str,
        cluster_id: str,
        resync_every_s: float = RESYNC_EVERY_S,
    ) -> None:
        """`cluster_id`: uid of the namespace kube-system."""
        self.store = Store()
        self._client = client
        self._resync_every_s = resync_every_s
        self._usage = Usage()
        self._events = EventRecorder(client, controller=OPERATOR_FIELD_MANAGER, instance=identity)
        self._health = AgentHealth(client, system_namespace, self._agent_flipped)
        self._claims = Claims(self._contested, self._let_go)
        self._catalog = Catalog(self.store, self._claims)
        candidates = Candidates(self.store, self._usage, self._claims, self._health)
        self._machines = MachineReconciler(
            client,
            self.store,
            self._usage,
            candidates,
            Networks(self._catalog, self._claims, cluster_id),
            self._health,
            self._events,
        )
        self._volumes = VolumeReconciler(client, self.store, candidates, self._events)
        actions = ActionReconciler(client, self.store, self._health, self._events)
        pools = PoolReconciler(client, self.store, self._health, self._events)
        networks = NetworkReconciler(
            client, self.store, self._catalog, self._claims, self._health, self._events, candidates.reported
        )
        hypervisors = HypervisorReconciler(client, self.store, self._health)
        self._loops: dict[str, ReconcileLoop[Key]] = {
            VIRTUAL_MACHINES.plural: _loop("VirtualMachine", self._machines, concurrency=32),
            VOLUMES.plural: _loop("Volume", self._volumes, concurrency=16),
            ACTIONS.plural: _loop("VirtualMachineAction", actions, concurrency=8),
            STORAGE_POOLS.plural: _loop("StoragePool", pools, concurrency=4),
            NETWORKS.plural: _loop("VirtualNetwork", networks, concurrency=4),
            HYPERVISORS.plural: _loop("Hypervisor", hypervisors, concurrency=4),
        }
        self._informers = [self._informer(resource) for resource in HOT_KINDS]
        self.store.listen(self._usage.observe)
        self.store.listen(self._claims.observe)
        self.store.listen(self._catalog.observe)
        self.store.listen(self._route)

    async def run(self) -> None:
        """List everything, then reconcile; nothing is placed before all that is placed is known."""
        await self._list_until_it_works()
        async with asyncio.TaskGroup() as tasks:
            for loop in self._loops.values():
                tasks.create_task(loop.run(), name=f"reconcile {loop.name}")
            for informer in self._informers:
                tasks.create_task(informer.run(), name=f"watch {informer.resource.plural}")
            tasks.create_task(self._events.run(), name="events")
            tasks.create_task(self._health.run(), name="agents' leases")
            tasks.create_task(self._resync(), name="resync")

    def _informer(self, resource: Resource) -> Informer:
        uids: dict[Key, str] = {}

        def changed(key: Key) -> None:
            obj, before = informer.objects.get(key), uids.pop(key, None)
            known = self.store.get(resource, key)
            # Only what this watch had and lost is gone: under the name may be a new object that it has not heard of.
            if known is not None and uid_of(known) == before and (obj is None or uid_of(obj) != before):
                self.store.remove(resource, known)
            if obj is not None:
                uids[key] = uid_of(obj)
                self.store.put(resource, obj)

        informer = Informer(self._client, resource, changed, keep=without_results)
        return informer

    async def _list_until_it_works(self) -> None:
        while True:
            try:
                await self._list()
            except ApiError as error:
                _log.warning("the first list failed: %s", error)
                await asyncio.sleep(2.0)
            else:
                return

    async def _resync(self) -> None:
        """A full list from time to time finds what a broken watch lost, deletions above all."""
        while True:
            await asyncio.sleep(self._resync_every_s * random.uniform(0.9, 1.1))  # noqa: S311  # no secret
            try:
                await self._list()
            except ApiError as error:
                _log.warning("resync failed: %s", error)

    async def _list(self) -> None:
        for resource in KINDS:
            listed, version = await self._client.list_all(resource)
            self.store.replace_all(resource, map(without_results, listed), version)

    # --- who is to be looked at again ---------------------------------------------------------------------------------

    def _route(self, resource: Resource, key: Key, old: Object | None, new: Object | None) -> None:
        loop = self._loops[resource.plural]
        if new is None:
            loop.forget(key)
        if new is None or resource is not VIRTUAL_MACHINES or concerns_the_operator(old, new):
            loop.enqueue(key)
        if resource is VIRTUAL_MACHINES:
            self._count_in_networks(old, new)
            if old is not None and _makes_room(old, new):
                self._room_may_have_come()
            elif old is not None and new is not None and old["spec"].get("interfaces") != new["spec"].get("interfaces"):
                # It may ask for what others hold that ask for what it holds.
                self._wake_pending_in(key.namespace)
            if new is None:
                self._wake_pending_in(key.namespace)
        elif resource is VOLUMES:
            self._wake_pending_in(key.namespace)
            if new is None:
                self._wake_ending_pools()
        elif resource is STORAGE_POOLS:
            self._room_may_have_come()
        elif resource is NETWORKS:
            self._network_changed(key, old, new)
        elif resource is HYPERVISORS:
            self._sum_up_pools(old, new)
            self._sum_up_networks(old, new)
            self._room_may_have_come()

    def _agent_flipped(self, agent: str) -> None:
        for key, hypervisor in self.store.all(HYPERVISORS).items():
            if hypervisor["spec"]["agentName"] == agent:
                self._loops[HYPERVISORS.plural].enqueue(key)
        for key, machine in self.store.all(VIRTUAL_MACHINES).items():
            if (machine.get("status", {}).get("placement") or {}).get("agentName") == agent:
                self._loops[VIRTUAL_MACHINES.plural].enqueue(key)
        for resource in (STORAGE_POOLS, NETWORKS):
            for key in self.store.all(resource):
                self._loops[resource.plural].enqueue(key)
        self._room_may_have_come()

    def _contested(self, machine: Key) -> None:
        self._loops[VIRTUAL_MACHINES.plural].enqueue(machine)

    def _let_go(self, network_uid: str) -> None:
        """What no placement and no report shows: claims that end as an agent takes up a placement, or by a refusal."""
        key = self._catalog.key_of(network_uid)
        network = self.store.get(NETWORKS, key) if key is not None else None
        if network is None or key is None:
            return
        if is_being_deleted(network):
            self._loops[NETWORKS.plural].enqueue(key)
        else:
            self._loops[NETWORKS.plural].enqueue_after(key, COUNT_EVERY_S)

    def _room_may_have_come(self) -> None:
        for key in self._pending_machines():
            self._loops[VIRTUAL_MACHINES.plural].enqueue(key)
        for key in self._volumes.pending:
            self._loops[VOLUMES.plural].enqueue(key)

    def _wake_pending_in(self, namespace: str) -> None:
        for key in self._pending_machines():
            if key.namespace == namespace:
                self._loops[VIRTUAL_MACHINES.plural].enqueue(key)
        for key in self._volumes.pending:
            if key.namespace == namespace:
                self._loops[VOLUMES.plural].enqueue(key)

    def _pending_machines(self) -> list[Key]:
        """First those that have their place: what one of a cycle gave up is not to be chosen for a new machine."""

        def has_no_place(key: Key) -> bool:
            return not placement_of(self.store.get(VIRTUAL_MACHINES, key) or {}).get("hypervisor")

        return sorted(self._machines.pending, key=has_no_place)

    def _wake_ending_pools(self) -> None:
        for key, pool in self.store.all(STORAGE_POOLS).items():
            if is_being_deleted(pool):
                self._loops[STORAGE_POOLS.plural].enqueue(key)

    def _sum_up_pools(self, old: Object | None, new: Object | None) -> None:
        reported = [one.get("status", {}).get("pools") or [] for one in (old, new) if one is not None]
        names = {report["name"] for reports in reported for report in reports}
        for key in self.store.all(STORAGE_POOLS):
            if key.name in names:
                self._loops[STORAGE_POOLS.plural].enqueue(key)

    def _network_changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        """Our own writes to its status change nothing for anybody, but the first claims of mode Overlay."""
        if old is not None and new is not None and _is_the_same_network(old, new):
            return
        self._wake_pending_in(key.namespace)
        if any(one is not None and one["spec"]["mode"] == NetworkMode.ROUTED for one in (old, new)):
            # Whether it is served may depend on this one, in any namespace.
            for other, network in self.store.all(NETWORKS).items():
                if network["spec"]["mode"] == NetworkMode.ROUTED:
                    self._loops[NETWORKS.plural].enqueue(other)
            self._room_may_have_come()

    def _count_in_networks(self, old: Object | None, new: Object | None) -> None:
        """Whoever is the first on a network is counted at once, others with those that come within seconds."""
        if old is not None and new is not None and _holds_alike(old, new):
            return
        loop = self._loops[NETWORKS.plural]
        for key in {key for one in (old, new) if one is not None for key in networks_of(one)}:
            network = self.store.get(NETWORKS, key)
            if network is None:
                continue
            status = network.get("status", {})
            is_known = new is None or hypervisor_of(new) in {row["name"] for row in status.get("hypervisors") or ()}
            # Nothing gets from another host to a new one before all of them know it.
            if is_being_deleted(network) or not status.get("used") or (is_overlay(network) and not is_known):
                loop.enqueue(key)
            else:
                loop.enqueue_after(key, COUNT_EVERY_S)

    def _sum_up_networks(self, old: Object | None, new: Object | None) -> None:
        before, after = (
            {report["uid"]: report for report in (one or {}).get("status", {}).get("networks") or []}
            for one in (old, new)
        )
        for uid in before.keys() | after.keys():
            key = self._catalog.key_of(uid)
            if key is not None and before.get(uid) != after.get(uid):
                self._loops[NETWORKS.plural].enqueue(key)
        everyone, overlays = networks_facts_of(old) != networks_facts_of(new), facts_of(old) != facts_of(new)
        for key, network in self.store.all(NETWORKS).items() if everyone or overlays else ():
            if everyone or is_overlay(network):
                self._loops[NETWORKS.plural].enqueue(key)


def _makes_room(old: Object, new: Object | None) -> bool:
    if hypervisor_of(old) and (new is None or not hypervisor_of(new)):
        return True
    return new is not None and gives_up_claims(old, new)


def _holds_alike(old: Object, new: Object) -> bool:
    """A guest may let go of an interface long after the placement has given it up."""
    return placement_of(old) == placement_of(new) and networks_of(old) == networks_of(new)


def _is_the_same_network(old: Object, new: Object) -> bool:
    same_object = uid_of(old) == uid_of(new) and is_being_deleted(old) == is_being_deleted(new)
    claims = [[one.get("status", {}).get(name) for name in ("vni", "mtu")] for one in (old, new)]
    return same_object and claims[0] == claims[1] and bool(old["spec"] == new["spec"])


class _Reconciler(Protocol):
    async def reconcile(self, key: Key) -> Outcome: ...


def _loop(
    name: str,
    reconciler: _Reconciler,
    *,
    concurrency: int,
) -> ReconcileLoop[Key]:
    return ReconcileLoop(name, outcome_of(name, reconciler.reconcile), concurrency=concurrency)
