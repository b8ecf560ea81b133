"""What the operator knows of the cluster: a copy of its objects, what is used of each Hypervisor, who is silent."""

from virtplane_operator.world.health import AgentHealth
from virtplane_operator.world.store import Store
from virtplane_operator.world.usage import Demand, Usage, demand_of

__all__ = ["AgentHealth", "Demand", "Store", "Usage", "demand_of"]
