"""The Hypervisors as candidates for a placement: what they report, less what is given away."""

from collections.abc import Iterator
from dataclasses import replace

from virtplane_api.host_networks import host_networks_of, routed_of
from virtplane_api.kube.conditions import is_true
from virtplane_api.kube.resources import HYPERVISORS, Key, Object, is_being_deleted
from virtplane_api.models.hypervisor import DEFAULT_CPU_ALLOCATION_RATIO, PoolState
from virtplane_api.quantity import quantity_mib
from virtplane_operator.networks.claims import Claims
from virtplane_operator.networks.overlays import mtu_by
from virtplane_operator.networks.summary import is_full
from virtplane_operator.placement import Candidate
from virtplane_operator.world import AgentHealth, Store, Usage
from virtplane_operator.world.store import version_of


class Candidates:
    """Reads the store; what a Hypervisor reports is parsed once per version of it."""

    def __init__(self, store: Store, usage: Usage, claims: Claims, health: AgentHealth) -> None:
        self._store = store
        self._usage = usage
        self._claims = claims
        self._health = health
        self._parsed: dict[Key, tuple[int, Candidate]] = {}

    def all(self) -> list[Candidate]:
        """Every Hypervisor that there is, with what is free on it now."""
        found = []
        for key, hypervisor in self._store.all(HYPERVISORS).items():
            reported = self._reported(key, hypervisor)
            used = self._usage.used(reported.name)
            found.append(
                replace(
                    reported,
                    healthy=reported.healthy and self._health.takes_work(reported.agent_name),
                    used_cores=used.cores,
                    used_memory_mib=used.memory_mib,
                    host_ports=self._claims.ports(reported.agent_name),
                )
            )
        return found

    def reported(self) -> Iterator[Candidate]:
        """Every Hypervisor that stays and whose agent has spoken, silent now or not, as if it was empty."""
        for key, hypervisor in self._store.all(HYPERVISORS).items():
            if _may_have_networks(hypervisor):
                yield self._reported(key, hypervisor)

    def _reported(self, key: Key, hypervisor: Object) -> Candidate:
        version = version_of(hypervisor)
        known = self._parsed.get(key)
        if known is None or known[0] != version:
            known = self._parsed[key] = (version, _candidate(hypervisor))
        return known[1]


def _candidate(hypervisor: Object) -> Candidate:
    metadata, spec, status = hypervisor["metadata"], hypervisor["spec"], hypervisor.get("status", {})
    capacity = status.get("capacity", {})
    ratio = spec.get("cpuAllocationRatio", DEFAULT_CPU_ALLOCATION_RATIO)
    pools = status.get("pools") or []
    return Candidate(
        name=metadata["name"],
        agent_name=spec["agentName"],
        driver=spec["driver"],
        labels=metadata.get("labels") or {},
        unschedulable=bool(spec.get("unschedulable", False)) or "deletionTimestamp" in metadata,
        healthy=is_true(hypervisor, "Ready"),
        allocatable_cores=capacity.get("cpuCores", 0) * ratio,
        allocatable_memory_mib=quantity_mib(capacity.get("allocatableMemory", 0)),
        pool_types=frozenset(status.get("poolTypes") or ()),
        ready_pool_uids=frozenset(pool["uid"] for pool in pools if pool["state"] == PoolState.READY),
        network_modes=frozenset(status.get("networkModes") or ()),
        tunnel_mtu=mtu_by(hypervisor),
        missing_capabilities={one["name"]: one["message"] for one in status.get("missingCapabilities") or ()},
        host_networks=host_networks_of(status),
        routed=routed_of(status),
        networks=frozenset(report["uid"] for report in status.get("networks") or ()),
    )


def networks_facts_of(hypervisor: Object | None) -> tuple[object, ...]:
    """What of a Hypervisor it follows from whether networks can be there."""
    if hypervisor is None or not _may_have_networks(hypervisor):
        return ()
    status = hypervisor["status"]
    said = (status.get(field) for field in ("networkModes", "missingCapabilities", "hostNetworks", "routedCIDRs"))
    return mtu_by(hypervisor), is_full(hypervisor), *said


def _may_have_networks(hypervisor: Object) -> bool:
    """Whether its agent has reported what the host is, and it is to stay."""
    return "capacity" in hypervisor.get("status", {}) and not is_being_deleted(hypervisor)
