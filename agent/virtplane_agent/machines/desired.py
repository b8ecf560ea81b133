"""From a VirtualMachine to the plain value that drivers take."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from virtplane_agent.machines.disks import AttachedDisk
from virtplane_agent.machines.steps import Goal, Seen, seen
from virtplane_api.kube.resources import Object, is_being_deleted, uid_of
from virtplane_api.quantity import quantity_mib
from virtplane_api.vocabulary import DiskType, DisplayType, RestartPolicy
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Disk, Nic, Observed, Owner, Pinned

DEFAULT_GRACE_S = 60


def wanted(machine: Object) -> Goal:
    """What is wanted of the machine on this host in the end."""
    if is_being_deleted(machine):
        return Goal.ABSENT
    return Goal(machine["spec"]["powerState"])


def next_goal(machine: Object, observed: Observed) -> Goal:
    """What is wanted of the machine next: one that is to be restarted stops first."""
    goal = wanted(machine)
    runs = seen(observed) in (Seen.RUNNING, Seen.PAUSED, Seen.UNKNOWN)
    if goal in (Goal.RUNNING, Goal.PAUSED) and runs and is_restart_due(machine, observed):
        return Goal.STOPPED
    return goal


def is_restart_due(machine: Object, observed: Observed) -> bool:
    """Whether spec.restartedAt is newer than what the present or last run was started for."""
    asked = machine["spec"].get("restartedAt")
    if asked is None or not observed.exists:
        return False
    handled = observed.restarted_at
    if handled is None:
        # The host's record was lost; the resource says what was handled before.
        handled = machine["status"].get("restartedAt", "")
    return not handled or datetime.fromisoformat(asked) > datetime.fromisoformat(handled)


def restart_policy(machine: Object) -> RestartPolicy:
    """spec.restartPolicy; Always where it is absent, as a Pod's."""
    return RestartPolicy(machine["spec"].get("restartPolicy", RestartPolicy.ALWAYS))


def grace_period(machine: Object) -> timedelta:
    """How long the guest has to shut down."""
    return timedelta(seconds=machine["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))


def owner_of(machine: Object, cluster_id: str) -> Owner:
    """On whose behalf the machine exists on this host."""
    return Owner(cluster_id=cluster_id, token=machine["status"]["placement"]["token"])


def smbios_uuid(cluster_id: str, namespace: str, name: str) -> str:
    """The UUID that the guest sees: of the name, not of the object, so that a re-created machine keeps it."""
    return str(uuid.uuid5(uuid.UUID(cluster_id), f"{namespace}/{name}"))


def desired_machine(
    machine: Object, cluster_id: str, attached: Sequence[AttachedDisk], nics: Sequence[Nic] = ()
) -> Desired:
    """The machine as its driver is to define it, with its disks and interfaces in the order of the placement."""
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
                name=disk.name,
                attachment=disk.attachment,
                type=DiskType(disks[disk.name].get("type", DiskType.DISK)),
                boot_order=disks[disk.name].get("bootOrder"),
                claim_is_confirmed=disk.claim_is_confirmed,
            )
            for disk in attached
        ),
        nics=tuple(nics),
        display=DisplayType(spec["display"]["type"]) if "display" in spec else None,
        restarted_at=spec.get("restartedAt", ""),
        pinned=Pinned(machine_type=effective.get("machineType"), cpu_model=(effective.get("cpu") or {}).get("model")),
    )
