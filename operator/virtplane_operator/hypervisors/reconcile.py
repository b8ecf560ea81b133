"""A Hypervisor is its agent's; the operator writes only that nothing is known of it while the agent is silent."""

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import Condition, conditions_of, differs, merged
from virtplane_api.kube.resources import HYPERVISORS, Key
from virtplane_api.names import OPERATOR_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Outcome
from virtplane_operator.world import AgentHealth, Store


def silent_ready(agent: str) -> Condition:
    """Ready of whatever a silent agent answers for."""
    return Condition(
        "Ready",
        "Unknown",
        Reason.AGENT_SILENT,
        f"agent {agent} has not renewed its Lease; its machines run on, but nothing is known of them",
    )


class HypervisorReconciler:
    """One pass over one Hypervisor."""

    def __init__(self, client: KubeClient, store: Store, health: AgentHealth) -> None:
        self._client = client
        self._store = store
        self._health = health

    async def reconcile(self, key: Key) -> Outcome:
        """Put Unknown over Ready while the agent is silent; the agent takes it back."""
        hypervisor = self._store.get(HYPERVISORS, key)
        if hypervisor is None:
            return Done()
        agent = hypervisor["spec"]["agentName"]
        self._health.expect(agent)
        if not self._health.is_silent(agent):
            return Done()
        generation = hypervisor["metadata"]["generation"]
        conditions = merged(conditions_of(hypervisor), [silent_ready(agent)], generation=generation)
        status = {"conditions": conditions}
        if differs(hypervisor, status, owned=(), owned_conditions=("Ready",)):
            written = await self._client.apply_status(
                HYPERVISORS, hypervisor, status, field_manager=OPERATOR_FIELD_MANAGER
            )
            self._store.put_written(HYPERVISORS, written)
        return Done()
