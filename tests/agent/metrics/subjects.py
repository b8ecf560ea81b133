"""What is measured, made by hand: an agent in memory, and a Lease that is ours when a test says so."""

from tests.agent.doubles import InMemoryClient
from tests.agent.machines.agent_in_memory import AgentInMemory
from virtplane_agent.metrics.subject import Work
from virtplane_api.kube.lease import Lease
from virtplane_api.reconcile import ReconcileLoop


class LeaseDouble(Lease):
    """Held or not."""

    def __init__(self, *, held: bool) -> None:
        super().__init__(
            InMemoryClient(), name="agent-host-a", namespace="virtplane-system", identity="me", duration_s=15,
            renew_every_s=5.0, field_manager="test", clock=lambda: 0.0,
        )  # fmt: skip
        self._renewed_at = 0.0 if held else None


def work_of(agent: AgentInMemory, *loops: ReconcileLoop[str]) -> Work:
    """What it has."""
    needed = (agent.machines.informer, agent.volumes.informer)
    return Work(agent.endpoints, loops, agent.machines, agent.networks, needed)
