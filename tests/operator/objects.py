"""What the operator reads: objects as the API server would hold them, built from what a test is about."""

from collections.abc import Mapping, Sequence
from typing import Any

from virtplane_api.kube.resources import (
    ACTIONS,
    HYPERVISORS,
    LEASES,
    NETWORKS,
    STORAGE_POOLS,
    VIRTUAL_MACHINES,
    VOLUMES,
    Object,
    Resource,
)
from virtplane_api.names import HOST_STATE_FINALIZER, MACHINE_UID_LABEL
from virtplane_operator.world import Store

CREATED_AT = "2026-11-24T09:00:00Z"
DELETED_AT = "2026-11-24T10:00:00Z"
NAMESPACE = "shop"


def vm(
    name: str = "web",
    *,
    uid: str = "vm-1",
    version: int = 1,
    placement: Mapping[str, Any] | None = None,
    disks: Sequence[Mapping[str, Any]] = (),
    interfaces: Sequence[Mapping[str, Any]] = (),
    status: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Object:
    """A machine of two CPUs and 1 GiB, without a place unless it is given one."""
    wanted = {"powerState": "Running", "cpu": {"cores": 2}, "memory": {"size": "1Gi"}} | spec
    if disks:
        wanted["disks"] = list(disks)
    if interfaces:
        wanted["interfaces"] = list(interfaces)
    seen = dict(status or {}) | ({"placement": dict(placement)} if placement is not None else {})
    return _object(VIRTUAL_MACHINES, name, uid, version, wanted, {"observedGeneration": -1} | seen, metadata)


def placed(hypervisor: str = "host-a-qemu", *, token: int = 1, **more: Any) -> dict[str, Any]:
    """A placement on a Hypervisor, by its agent `host-a`."""
    return {"hypervisor": hypervisor, "agentName": hypervisor.rpartition("-")[0], "token": token} | more


def volume(
    name: str = "data",
    *,
    uid: str = "vol-1",
    version: int = 1,
    placement: Mapping[str, Any] | None = None,
    claimed_by: str = "",
    made_for: str = "",
    status: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Object:
    """A volume of 1 GiB; `claimed_by` and `made_for` are UIDs of machines."""
    seen = dict(status or {}) | ({"placement": dict(placement)} if placement is not None else {})
    if claimed_by:
        seen["claim"] = {"vmName": claimed_by.replace("vm", "web"), "vmUID": claimed_by}
    labels = {"labels": {MACHINE_UID_LABEL: made_for}} if made_for else {}
    more = labels | dict(metadata or {})
    return _object(VOLUMES, name, uid, version, {"size": "1Gi"} | spec, {"observedGeneration": -1} | seen, more)


def action(name: str = "reset-1", *, version: int = 1, status: Mapping[str, Any] | None = None, **spec: Any) -> Object:
    """A reset of the machine `web`."""
    seen = {"observedGeneration": -1} | dict(status or {})
    return _object(ACTIONS, name, f"{name}-uid", version, {"vmName": "web", "type": "Reset"} | spec, seen, None)


def pool(
    name: str = "fast",
    *,
    uid: str = "",
    version: int = 1,
    status: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Object:
    """A directory on each host."""
    wanted = {"directory": {"path": f"/srv/{name}"}, "access": "Local"} | spec
    return _object(STORAGE_POOLS, name, uid or f"{name}-uid", version, wanted, dict(status or {}), metadata)


def network(
    name: str = "lan",
    *,
    uid: str = "",
    version: int = 1,
    status: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Object:
    """A network of mode NAT, with the addresses of 10.20.0.0/24 unless `spec` says which it has."""
    wanted = {"mode": "NAT"} | spec
    if not {"ipv4", "ipv6", "bridge"} & set(spec):
        wanted["ipv4"] = {"cidr": "10.20.0.0/24"}
    return _object(NETWORKS, name, uid or f"{name}-uid", version, wanted, dict(status or {}), metadata)


def claimed(interface: str = "lan", network: str = "lan", mac: str = "52:54:00:00:00:01", *ips: str) -> dict[str, Any]:
    """One row of status.placement.interfaces, in the network of UID `<network>-uid`."""
    row = {"name": interface, "networkName": network, "networkUID": f"{network}-uid", "macAddress": mac}
    return row | {"ipAddresses": list(ips)} if ips else row


def hypervisor(
    name: str = "host-a-qemu",
    *,
    version: int = 1,
    pools: Sequence[Mapping[str, Any]] = (),
    networks: Sequence[Mapping[str, Any]] = (),
) -> Object:
    """Of the agent `host-a`; `pools` and `networks` are what it reports of them."""
    spec = {"driver": "qemu", "agentName": name.rpartition("-")[0]}
    status = {"pools": list(pools), "networks": list(networks)}
    return _object(HYPERVISORS, name, f"{name}-uid", version, spec, status, None)


def lease(agent: str = "host-a", *, version: int = 1, holder: str = "identity-1") -> Object:
    """An agent's sign of life."""
    return _object(LEASES, f"virtplane-agent-{agent}", f"{agent}-lease", version, {"holderIdentity": holder}, {}, None)


def condition(type_: str, status: str, reason: str, **more: Any) -> dict[str, Any]:
    """One condition as it stands in an object."""
    base = {"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": CREATED_AT}
    return base | {"observedGeneration": 1} | more


def conditions(status: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    return {one["type"]: (one["status"], one["reason"]) for one in status.get("conditions", [])}


def store_of(*objects: Object) -> Store:
    """A store that holds them."""
    kinds = (VIRTUAL_MACHINES, VOLUMES, ACTIONS, STORAGE_POOLS, NETWORKS, HYPERVISORS)
    by_kind = {resource.kind: resource for resource in kinds}
    store = Store()
    for obj in objects:
        store.put(by_kind[obj["kind"]], obj)
    return store


def _object(
    resource: Resource,
    name: str,
    uid: str,
    version: int,
    spec: Mapping[str, Any],
    status: Mapping[str, Any],
    metadata: Mapping[str, Any] | None,
) -> Object:
    base: Object = {
        "name": name,
        "uid": uid,
        "generation": 3,
        "resourceVersion": str(version),
        "creationTimestamp": CREATED_AT,
        "finalizers": [HOST_STATE_FINALIZER],
    }
    if resource.namespaced:
        base["namespace"] = NAMESPACE
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": base | dict(metadata or {}),
        "spec": dict(spec),
        "status": dict(status),
    }
