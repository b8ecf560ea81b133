"""From a VirtualMachine to the plain value that drivers take."""

import uuid
from collections.abc import Sequence
from datetime import timedelta

from virtplane_agent.machines.steps import Goal
from virtplane_api.kube.resources import Object, is_being_deleted, uid_of
from virtplane_api.quantity import quantity_mib
from virtplane_api.vocabulary import DiskType
from virtplane_drivers.attachment import Attachment
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Disk, Owner, Pinned

DEFAULT_GRACE_S = 60


def goal_of(machine: Object) -> Goal:
    """What is wanted of the machine on this host."""
    if is_being_deleted(machine):
        return Goal.ABSENT
    return Goal(machine["spec"]["powerState"])


def grace_period(machine: Object) -> timedelta:
    """How long the guest has to shut down."""
    return timedelta(seconds=machine["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))


def owner_of(machine: Object, cluster_id: str) -> Owner:
    """On whose behalf the machine exists on this host."""
    return Owner(cluster_id=cluster_id, token=machine["status"]["placement"]["token"])


def smbios_uuid(cluster_id: str, namespace: str, name: str) -> str:
    """The UUID that the guest sees: of the name, not of the object, so that a re-created machine keeps it."""
    return str(uuid.uuid5(uuid.UUID(cluster_id), f"{namespace}/{name}"))


def desired_machine(machine: Object, cluster_id: str, attachments: Sequence[tuple[str, Attachment]]) -> Desired:
    """The machine as its driver is to define it; `attachments` are the disks' by name, in the order of the spec."""
    metadata, spec = machine["metadata"], machine["spec"]
    effective = machine.get("status", {}).get("effective") or {}
    disks = {disk["name"]: disk for disk in spec.get("disks") or ()}
    return Desired(
        uid=uid_of(machine),
        namespace=metadata["namespace"],
        name=metadata["name"],
        owner=owner_of(machine, cluster_id),
        smbios_uuid=smbios_uuid(cluster_id, metadata["namespace"], metadata["name"]),
        cpu=Cpu(cores=spec["cpu"]["cores"], model=spec["cpu"].get("model", "Host")),
        memory_mib=quantity_mib(spec["memory"]["size"]),
        disks=tuple(
            Disk(
                name=name,
                attachment=attachment,
                type=DiskType(disks[name].get("type", DiskType.DISK)),
                boot_order=disks[name].get("bootOrder"),
            )
            for name, attachment in attachments
        ),
        pinned=Pinned(machine_type=effective.get("machineType"), cpu_model=(effective.get("cpu") or {}).get("model")),
    )
