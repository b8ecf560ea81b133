"""What is measured: the parts of a running agent, as far as they are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from virtplane_agent.endpoints import Endpoints
from virtplane_agent.networks.serving import Networks
from virtplane_agent.placed import Placed
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.lease import Lease
from virtplane_api.reconcile import ReconcileLoop


@dataclass(frozen=True, slots=True)
class Work:
    """Of an agent at work."""

    endpoints: Endpoints
    loops: Sequence[ReconcileLoop[Any]]
    machines: Placed
    networks: Networks
    needed: Sequence[Informer]
    """Without whose first listing nothing is done."""


@dataclass(slots=True)
class Subject:
    """Its parts come one after the other while the agent starts; None: not yet."""

    client: KubeClient | None = None
    lease: Lease | None = None
    work: Work | None = None

    def hindrances(self) -> list[str]:
        """Why the agent is not ready to serve; of one that is: nothing."""
        found = []
        if self.lease is None or not self.lease.is_held:
            found.append("its Lease is not held" if self.lease is None else f"its Lease {self.lease.name} is not held")
        if self.work is None:
            found.append("its drivers are not open, or its Hypervisors not registered")
        else:
            unlisted = [informer.resource.plural for informer in self.work.needed if not informer.synced.is_set()]
            if unlisted:
                found.append(f"not listed yet: {', '.join(unlisted)}")
        return found
