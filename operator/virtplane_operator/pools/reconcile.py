"""A StoragePool's status is the operator's alone: agents report in their Hypervisors, here it is summed up."""

import time
from collections.abc import Callable, Sequence

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import HYPERVISORS, STORAGE_POOLS, VOLUMES, Key, Object, is_being_deleted, uid_of
from virtplane_api.names import OPERATOR_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_operator.lifetime import ensure_finalizer, release
from virtplane_operator.pools.summary import OWNED, OWNED_CONDITIONS, pool_status, with_old_users
from virtplane_operator.volumes.status import placement_of
from virtplane_operator.world import AgentHealth, Store

TELL_EVERY_S = 5.0
"""A thousand volumes that leave a pool which is to go are a few writes, not a thousand."""


class PoolReconciler:
    """Passes over StoragePools."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        health: AgentHealth,
        events: EventRecorder,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._store = store
        self._health = health
        self._events = events
        self._clock = clock
        self._told_at: dict[Key, float] = {}
        """When it was written last who keeps a pool that is to go."""

    async def reconcile(self, key: Key) -> Outcome:
        """Finalizer, end, sum: a pool that went before its volumes would leave them where nobody can find them."""
        pool = self._store.get(STORAGE_POOLS, key)
        if pool is None:
            self._told_at.pop(key, None)
            return Done()
        if is_being_deleted(pool):
            users = self._users(pool)
            if users:
                return await self._sum_up(key, pool, users)
            await release(self._client, self._store, STORAGE_POOLS, pool)
            return Done()
        pool = await ensure_finalizer(self._client, self._store, STORAGE_POOLS, pool)
        return await self._sum_up(key, pool, [])

    async def _sum_up(self, key: Key, pool: Object, users: Sequence[str]) -> Outcome:
        hypervisors = self._store.all(HYPERVISORS).values()
        agents = {hypervisor["spec"]["agentName"] for hypervisor in hypervisors}
        silent = {agent for agent in agents if self._health.is_silent(agent)}
        status = pool_status(pool, hypervisors, silent, users)
        if not differs(pool, status, owned=OWNED, owned_conditions=OWNED_CONDITIONS):
            return Done()
        if users:
            settled = with_old_users(pool, status)
            wait_s = self._told_at.get(key, -TELL_EVERY_S) + TELL_EVERY_S - self._clock()
            if wait_s > 0 and not differs(pool, settled, owned=OWNED, owned_conditions=OWNED_CONDITIONS):
                return Wait(wait_s, "who keeps it was written a moment ago")
            self._told_at[key] = self._clock()
        written = await self._client.apply_status(STORAGE_POOLS, pool, status, field_manager=OPERATOR_FIELD_MANAGER)
        self._store.put_written(STORAGE_POOLS, written)
        if users:
            [ready] = status["conditions"]
            self._events.record(pool, reason=Reason.IN_USE, action="Deleting", note=ready["message"], type_="Warning")
        return Done()

    def _users(self, pool: Object) -> list[str]:
        """The volumes that keep a pool which is being deleted, in order."""
        return sorted(
            str(key)
            for key, volume in self._store.all(VOLUMES).items()
            if placement_of(volume).get("poolUID") == uid_of(pool)
        )
