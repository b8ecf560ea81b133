"""The names that the system's parts know each other by. Free of pydantic: what runs beside guests imports little."""

GROUP = "virtplane.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "virtplane"

OPERATOR_FIELD_MANAGER = "virtplane-operator"
AGENT_FIELD_MANAGER = "virtplane-agent"
"""One name for all agents: a new owner of an object then takes over what the old one left in its status."""

HOST_STATE_FINALIZER = f"{GROUP}/host-state"
NETWORK_IN_USE_FINALIZER = f"{GROUP}/network-in-use"
MACHINE_LABEL = f"{GROUP}/machine"
MACHINE_UID_LABEL = f"{GROUP}/machine-uid"
"""On Volumes that a machine's disks describe: for whom they were made."""
DEFAULT_POOL_ANNOTATION = f"{GROUP}/is-default-pool"

SYSTEM_NAMESPACE = "virtplane-system"
"""Where Leases and everything of the system itself live, unless a flag says otherwise."""

OPERATOR_LEASE = "virtplane-operator"
AGENT_USER_PREFIX = f"{GROUP.split('.', maxsplit=1)[0]}:agent:"
AGENT_GROUP = "virtplane:agents"

LEASE_DURATION_S = 40
"""An agent whose Lease did not change for this long is silent."""
LEASE_RENEW_EVERY_S = 10.0


def agent_lease_name(agent_name: str) -> str:
    """Name of the Lease that is the agent's sign of life, in the system namespace."""
    return f"virtplane-agent-{agent_name}"


def local_hypervisor_name(agent_name: str, driver: str) -> str:
    """Name of the Hypervisor that an agent makes for a driver of its own host."""
    return f"{agent_name}-{driver}"
