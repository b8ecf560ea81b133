"""The Volumes that a machine's disks describe, as pure functions.

Their names hold five digits of the machine's UID, so that a machine that is made again under its name never meets the
disks of the one before.
"""

from typing import Any

from virtplane_api.kube.resources import VIRTUAL_MACHINES, VOLUMES, Object, uid_of
from virtplane_api.names import HOST_STATE_FINALIZER, MACHINE_LABEL, MACHINE_UID_LABEL
from virtplane_api.vocabulary import DeletionPolicy


def volume_name(machine: Object, disk_name: str) -> str:
    """Name of the Volume that a disk of the machine describes."""
    return f"{machine['metadata']['name']}-{disk_name}-{uid_of(machine).replace('-', '')[:5]}"


def volume_of(machine: Object, disk: dict[str, Any]) -> Object:
    """The Volume to create for a disk with a `volume`.

    With Retain it has no owner: it stays when its machine goes.
    """
    metadata, template = machine["metadata"], disk["volume"]
    policy = template.get("deletionPolicy", DeletionPolicy.DELETE.value)
    volume: Object = {
        "apiVersion": VOLUMES.api_version,
        "kind": VOLUMES.kind,
        "metadata": {
            "name": volume_name(machine, disk["name"]),
            "namespace": metadata["namespace"],
            "labels": {MACHINE_LABEL: metadata["name"], MACHINE_UID_LABEL: uid_of(machine)},
            "finalizers": [HOST_STATE_FINALIZER],
        },
        "spec": {**template, "deletionPolicy": policy},
    }
    if policy == DeletionPolicy.DELETE:
        volume["metadata"]["ownerReferences"] = [
            {
                "apiVersion": VIRTUAL_MACHINES.api_version,
                "kind": VIRTUAL_MACHINES.kind,
                "name": metadata["name"],
                "uid": uid_of(machine),
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return volume


def is_made_for(volume: Object, machine_uid: str) -> bool:
    """Whether the operator made the Volume for a disk of that machine."""
    return (volume["metadata"].get("labels") or {}).get(MACHINE_UID_LABEL) == machine_uid


def maker_name(volume: Object) -> str:
    """Name of the machine whose disk described the Volume; empty for one that was made by hand."""
    return str((volume["metadata"].get("labels") or {}).get(MACHINE_LABEL, ""))
