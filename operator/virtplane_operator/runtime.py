"""The operator at work: one store, one loop per kind, and who is to be looked at again when something changes.

kopf (see `chassis`) feeds the store with what changes rarely, informers with machines and volumes.
"""

import asyncio
import logging
import random

from virtplane_api.actions import without_results
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiError
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.passes import outcome_of
from virtplane_api.kube.resources import (
    ACTIONS,
    HYPERVISORS,
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
from virtplane_api.reconcile import ReconcileLoop
from virtplane_operator.actions.reconcile import ActionReconciler
from virtplane_operator.hypervisors.candidates import Candidates
from virtplane_operator.hypervisors.reconcile import HypervisorReconciler
from virtplane_operator.machines.reconcile import MachineReconciler
from virtplane_operator.machines.status import concerns_the_operator
from virtplane_operator.pools.reconcile import PoolReconciler
from virtplane_operator.volumes.reconcile import VolumeReconciler
from virtplane_operator.world import AgentHealth, Store, Usage
from virtplane_operator.world.usage import hypervisor_of

_log = logging.getLogger(__name__)

KINDS = (HYPERVISORS, STORAGE_POOLS, VOLUMES, VIRTUAL_MACHINES, ACTIONS)
HOT_KINDS = (VOLUMES, VIRTUAL_MACHINES, ACTIONS)
"""Watched by informers of ours: kopf spends 1 ms of CPU per event, three times what the decision takes."""
KOPF_KINDS = (HYPERVISORS, STORAGE_POOLS)
RESYNC_EVERY_S = 600.0


class Operator:
    """Everything that decides. `run` works until it is cancelled."""

    def __init__(
        self, client: KubeClient, *, system_namespace: str, identity: str, resync_every_s: float = RESYNC_EVERY_S
    ) -> None:
        self.store = Store()
        self._client = client
        self._resync_every_s = resync_every_s
        self._usage = Usage()
        self._events = EventRecorder(client, controller=OPERATOR_FIELD_MANAGER, instance=identity)
        self._health = AgentHealth(client, system_namespace, self._agent_flipped)
        candidates = Candidates(self.store, self._usage, self._health)
        self._machines = MachineReconciler(client, self.store, self._usage, candidates, self._health, self._events)
        self._volumes = VolumeReconciler(client, self.store, candidates, self._events)
        actions = ActionReconciler(client, self.store, self._health, self._events)
        pools = PoolReconciler(client, self.store, self._health, self._events)
        hypervisors = HypervisorReconciler(client, self.store, self._health)
        self._loops: dict[str, ReconcileLoop[Key]] = {
            VIRTUAL_MACHINES.plural: _loop("VirtualMachine", self._machines, concurrency=32),
            VOLUMES.plural: _loop("Volume", self._volumes, concurrency=16),
            ACTIONS.plural: _loop("VirtualMachineAction", actions, concurrency=8),
            STORAGE_POOLS.plural: _loop("StoragePool", pools, concurrency=4),
            HYPERVISORS.plural: _loop("Hypervisor", hypervisors, concurrency=4),
        }
        self._informers = [self._informer(resource) for resource in HOT_KINDS]
        self.store.listen(self._usage.observe)
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
            if old is not None and hypervisor_of(old) and (new is None or not hypervisor_of(new)):
                self._room_may_have_come()
            if new is None:
                self._wake_pending_in(key.namespace)
        elif resource is VOLUMES:
            self._wake_pending_in(key.namespace)
            if new is None:
                self._wake_ending_pools()
        elif resource is STORAGE_POOLS:
            self._room_may_have_come()
        elif resource is HYPERVISORS:
            self._sum_up_pools(old, new)
            self._room_may_have_come()

    def _agent_flipped(self, agent: str) -> None:
        for key, hypervisor in self.store.all(HYPERVISORS).items():
            if hypervisor["spec"]["agentName"] == agent:
                self._loops[HYPERVISORS.plural].enqueue(key)
        for key, machine in self.store.all(VIRTUAL_MACHINES).items():
            if (machine.get("status", {}).get("placement") or {}).get("agentName") == agent:
                self._loops[VIRTUAL_MACHINES.plural].enqueue(key)
        for key in self.store.all(STORAGE_POOLS):
            self._loops[STORAGE_POOLS.plural].enqueue(key)
        self._room_may_have_come()

    def _room_may_have_come(self) -> None:
        for key in self._machines.pending:
            self._loops[VIRTUAL_MACHINES.plural].enqueue(key)
        for key in self._volumes.pending:
            self._loops[VOLUMES.plural].enqueue(key)

    def _wake_pending_in(self, namespace: str) -> None:
        for key in self._machines.pending:
            if key.namespace == namespace:
                self._loops[VIRTUAL_MACHINES.plural].enqueue(key)
        for key in self._volumes.pending:
            if key.namespace == namespace:
                self._loops[VOLUMES.plural].enqueue(key)

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


def _loop(
    name: str,
    reconciler: MachineReconciler | VolumeReconciler | ActionReconciler | PoolReconciler | HypervisorReconciler,
    *,
    concurrency: int,
) -> ReconcileLoop[Key]:
    return ReconcileLoop(name, outcome_of(name, reconciler.reconcile), concurrency=concurrency)
