"""What an agent named host-a is given: objects as the API server would hold them, built from what a test is about."""

from collections.abc import Mapping, Sequence
from typing import Any

from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import (
    HYPERVISORS,
    NETWORKS,
    STORAGE_POOLS,
    VIRTUAL_MACHINES,
    VOLUMES,
    Object,
    Resource,
)

AGENT = "host-a"
HYPERVISOR = "host-a-fake"
CLUSTER_ID = "5d6d1c36-0a5e-4c55-9c55-6a3f8b1f0001"
CREATED_AT = "2026-11-24T09:00:00Z"
DELETED_AT = "2026-11-24T10:00:00Z"


def vm(
    name: str = "web",
    *,
    uid: str = "vm-1",
    power_state: str = "Running",
    token: int = 1,
    placed_on: str = HYPERVISOR,
    agent: str = AGENT,
    disks: Sequence[Mapping[str, Any]] = (),
    interfaces: Sequence[Mapping[str, Any]] = (),
    status: Mapping[str, Any] | None = None,
    being_deleted: bool = False,
    **spec: Any,
) -> Object:
    """A machine of two CPUs and 1 GiB; `disks` and `interfaces` are its placed ones, as `placed_disk`,
    `placed_interface` make them."""
    placement: Object = {"hypervisor": placed_on, "agentName": agent, "token": token}
    if disks:
        placement["disks"] = list(disks)
    if interfaces:
        placement["interfaces"] = list(interfaces)
        asked = [{"name": one["name"], "networkName": one["networkName"]} for one in interfaces]
        spec = {"interfaces": asked} | spec
    return _object(
        VIRTUAL_MACHINES,
        name,
        uid,
        being_deleted=being_deleted,
        spec={"powerState": power_state, "cpu": {"cores": 2}, "memory": {"size": "1Gi"}}
        | ({"disks": [{"name": disk["name"], "volumeName": disk["volumeName"]} for disk in disks]} if disks else {})
        | spec,
        status={"observedGeneration": -1, "placement": placement} | dict(status or {}),
    )


def volume(
    name: str = "data",
    *,
    uid: str = "vol-1",
    claimed_by: str = "",
    pool_name: str = "fast",
    status: Mapping[str, Any] | None = None,
    being_deleted: bool = False,
    **spec: Any,
) -> Object:
    """A blank volume of 1 GiB, placed here; `claimed_by` is the UID of a machine."""
    placement = {
        "hypervisor": HYPERVISOR,
        "agentName": AGENT,
        "poolName": pool_name,
        "poolUID": f"{pool_name}-uid",
        "token": 1,
    }
    claim = {"claim": {"vmName": "web", "vmUID": claimed_by}} if claimed_by else {}
    return _object(
        VOLUMES,
        name,
        uid,
        being_deleted=being_deleted,
        spec={"size": "1Gi"} | spec,
        status={"observedGeneration": -1, "placement": placement} | claim | dict(status or {}),
    )


def placed_disk(name: str, of: Object) -> dict[str, str]:
    """One entry of status.placement.disks."""
    return {"name": name, "volumeName": of["metadata"]["name"], "volumeUID": of["metadata"]["uid"]}


def network(name: str = "lan", *, uid: str = "", **spec: Any) -> Object:
    """A NAT network 10.20.0.0/24."""
    base = {"mode": "NAT", "ipv4": {"cidr": "10.20.0.0/24"}}
    return _object(NETWORKS, name, uid or f"{name}-uid", spec=base | spec, status={})


def placed_interface(name: str = "eth0", of: Object | None = None, *addresses: str, mac: str = "") -> dict[str, Any]:
    """One entry of status.placement.interfaces."""
    joined = of or network()
    placed = {
        "name": name,
        "networkName": joined["metadata"]["name"],
        "networkUID": joined["metadata"]["uid"],
        "macAddress": mac or "52:54:00:00:00:01",
    }
    return placed | ({"ipAddresses": list(addresses)} if addresses else {})


def pool(name: str = "fast", *, uid: str = "", **spec: Any) -> Object:
    """A pool of fake volumes, unless `spec` names another type."""
    kind: Object = {} if "directory" in spec else {"fake": {}}
    return _object(STORAGE_POOLS, name, uid or f"{name}-uid", spec={"access": "Local"} | kind | spec, status={})


def hypervisor(name: str = HYPERVISOR, *, labels: Mapping[str, str] | None = None) -> Object:
    """This agent's own."""
    obj = _object(HYPERVISORS, name, f"{name}-uid", spec={"driver": "fake", "agentName": AGENT}, status={})
    if labels:
        obj["metadata"]["labels"] = dict(labels)
    return obj


def conditions(obj: Object) -> dict[str, tuple[str, str]]:
    """Status and reason by type, of an object or of a status."""
    listed = obj.get("status", obj).get("conditions", [])
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in listed}


def tell(informer: Informer, obj: Object, event: str = "MODIFIED") -> None:
    """The watch says so."""
    informer._take(event, obj)


def _object(
    resource: Resource,
    name: str,
    uid: str,
    *,
    spec: Mapping[str, Any],
    status: Mapping[str, Any],
    being_deleted: bool = False,
) -> Object:
    metadata: Object = {"name": name, "uid": uid, "generation": 3, "resourceVersion": "1"}
    metadata["creationTimestamp"] = CREATED_AT
    if resource.namespaced:
        metadata["namespace"] = "shop"
    if being_deleted:
        metadata["deletionTimestamp"] = DELETED_AT
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "spec": dict(spec),
        "status": dict(status),
    }
