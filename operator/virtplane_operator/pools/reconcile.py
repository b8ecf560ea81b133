"""A StoragePool's status is the operator's alone: agents report in their Hypervisors, here it is summed up."""

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs
from virtplane_api.kube.resources import HYPERVISORS, STORAGE_POOLS, Key
from virtplane_api.names import OPERATOR_FIELD_MANAGER
from virtplane_api.reconcile import Done, Outcome
from virtplane_operator.pools.summary import OWNED, OWNED_CONDITIONS, pool_status
from virtplane_operator.world import AgentHealth, Store


class PoolReconciler:
    """One pass over one StoragePool."""

    def __init__(self, client: KubeClient, store: Store, health: AgentHealth) -> None:
        self._client = client
        self._store = store
        self._health = health

    async def reconcile(self, key: Key) -> Outcome:
        """Write the sum if it differs."""
        pool = self._store.get(STORAGE_POOLS, key)
        if pool is None or "deletionTimestamp" in pool["metadata"]:
            return Done()
        hypervisors = self._store.all(HYPERVISORS).values()
        agents = {hypervisor["spec"]["agentName"] for hypervisor in hypervisors}
        status = pool_status(pool, hypervisors, {agent for agent in agents if self._health.is_silent(agent)})
        if differs(pool, status, owned=OWNED, owned_conditions=OWNED_CONDITIONS):
            written = await self._client.apply_status(STORAGE_POOLS, pool, status, field_manager=OPERATOR_FIELD_MANAGER)
            self._store.put_written(STORAGE_POOLS, written)
        return Done()
