"""The status of a Hypervisor, as a pure function of what its driver and its pools say."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from virtplane_api.host_networks import GivenNetwork, IpNetwork, host_networks_json, routed_json
from virtplane_api.kube.conditions import Condition, conditions_of, merged
from virtplane_api.kube.resources import Object
from virtplane_api.quantity import format_bytes
from virtplane_api.reasons import Reason
from virtplane_drivers.hypervisor.contract import Facts
from virtplane_drivers.network.overlay import Underlay

OWNED = (
    "observedGeneration",
    "version",
    "agentVersion",
    "capacity",
    "capabilities",
    "missingCapabilities",
    "poolTypes",
    "pools",
    "networkModes",
    "underlay",
    "hostNetworks",
    "routedCIDRs",
    "networks",
    "orphans",
)
OWNED_CONDITIONS = ("Ready",)
_MIB = 1 << 20


def hypervisor_status(
    hypervisor: Object,
    facts: Facts,
    *,
    agent_version: str,
    pool_types: Iterable[str],
    pools: Sequence[Mapping[str, Any]],
    network_modes: Iterable[str],
    underlay: Underlay | None = None,
    host_networks: Iterable[GivenNetwork] | None = None,
    routed: Iterable[IpNetwork] | None = None,
    networks: Sequence[Mapping[str, Any]],
    orphans: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All that the agent says of one of its hypervisors.

    Empty lists are left out, but for those of what the host gives: left out they say that the agent does not know.
    """
    generation = hypervisor["metadata"]["generation"]
    missing = [{"name": name, "message": why} for name, why in sorted(facts.missing.items())]
    status = {
        "observedGeneration": generation,
        "version": facts.version,
        "agentVersion": agent_version,
        "capacity": {
            "cpuCores": facts.cpu_cores,
            "memory": format_bytes(facts.memory_mib * _MIB),
            "allocatableMemory": format_bytes(facts.allocatable_memory_mib * _MIB),
        },
        "capabilities": sorted(facts.capabilities),
        "missingCapabilities": missing,
        "poolTypes": sorted(pool_types),
        "pools": list(pools),
        "networkModes": sorted(network_modes),
        "underlay": {"address": str(underlay.address), "mtu": underlay.mtu} if underlay is not None else {},
        "networks": list(networks),
        "orphans": list(orphans),
        "conditions": merged(
            conditions_of(hypervisor), [Condition("Ready", "True", Reason.RUNNING, "")], generation=generation
        ),
    }
    said = {field: value for field, value in status.items() if value}
    if host_networks is not None:
        said["hostNetworks"] = host_networks_json(host_networks)
    if routed is not None:
        said["routedCIDRs"] = routed_json(routed)
    return said
