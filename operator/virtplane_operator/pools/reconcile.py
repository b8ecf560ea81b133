"""A StoragePool's status is the operator's alone: agents report in their Hypervisors, here it is summed up."""

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import HYPERVISORS, STORAGE_POOLS, VOLUMES, Key, Object, is_being_deleted, uid_of
from virtplane_api.names import OPERATOR_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Outcome
from virtplane_operator.lifetime import ensure_finalizer, release
from virtplane_operator.pools.summary import OWNED, OWNED_CONDITIONS, pool_status
from virtplane_operator.volumes.status import placement_of
from virtplane_operator.world import AgentHealth, Store

_SHOWN = 3


class PoolReconciler:
    """One pass over one StoragePool."""

    def __init__(self, client: KubeClient, store: Store, health: AgentHealth, events: EventRecorder) -> None:
        self._client = client
        self._store = store
        self._health = health
        self._events = events

    async def reconcile(self, key: Key) -> Outcome:
        """Finalizer, end, sum: a pool that went before its volumes would leave them where nobody can find them."""
        pool = self._store.get(STORAGE_POOLS, key)
        if pool is None:
            return Done()
        if is_being_deleted(pool):
            return await self._end(pool)
        pool = await ensure_finalizer(self._client, self._store, STORAGE_POOLS, pool)
        hypervisors = self._store.all(HYPERVISORS).values()
        agents = {hypervisor["spec"]["agentName"] for hypervisor in hypervisors}
        status = pool_status(pool, hypervisors, {agent for agent in agents if self._health.is_silent(agent)})
        if differs(pool, status, owned=OWNED, owned_conditions=OWNED_CONDITIONS):
            written = await self._client.apply_status(STORAGE_POOLS, pool, status, field_manager=OPERATOR_FIELD_MANAGER)
            self._store.put_written(STORAGE_POOLS, written)
        return Done()

    async def _end(self, pool: Object) -> Outcome:
        users = [
            str(key)
            for key, volume in self._store.all(VOLUMES).items()
            if placement_of(volume).get("poolUID") == uid_of(pool)
        ]
        if users:
            shown = ", ".join(sorted(users)[:_SHOWN]) + (", ..." if len(users) > _SHOWN else "")
            note = f"deletion waits for {len(users)} volumes: {shown}"
            self._events.record(pool, reason=Reason.IN_USE, action="Deleting", note=note, type_="Warning")
        else:
            await release(self._client, self._store, STORAGE_POOLS, pool)
        return Done()
