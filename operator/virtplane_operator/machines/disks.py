"""What a machine's disks need before it can have a place: their pools, and the Volumes that exist already."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from virtplane_api.kube.resources import VOLUMES, Key, Object, is_being_deleted, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import PoolAccess
from virtplane_operator.placement import StorageNeed
from virtplane_operator.pools.choice import NoPool, pool_for, pool_type
from virtplane_operator.volumes.inline import is_made_for, volume_name
from virtplane_operator.volumes.status import claim_of, placement_of
from virtplane_operator.world import Store


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why the machine cannot have a place yet."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk, with its pool, and its Volume where there is one."""

    name: str
    spec: dict[str, Any]
    volume_name: str
    volume: Object | None
    """None: described by the disk, and to be made."""
    pool: Object

    @property
    def need(self) -> StorageNeed:
        """What the disk asks of a Hypervisor: a placed volume of a Local pool can only be used where it is."""
        placement = placement_of(self.volume) if self.volume is not None else {}
        local = self.pool["spec"]["access"] == PoolAccess.LOCAL
        return StorageNeed(
            pool_name=self.pool["metadata"]["name"],
            pool_uid=uid_of(self.pool),
            pool_type=pool_type(self.pool),
            disk_name=self.name,
            agent_name=placement.get("agentName", "") if local else "",
        )


def plan_disks(store: Store, machine: Object) -> tuple[DiskPlan, ...] | Blocked:
    """A plan for each disk, or the first thing that is missing."""
    plans = []
    for plan in _plans(store, machine):
        if isinstance(plan, Blocked):
            return plan
        plans.append(plan)
    return tuple(plans)


def _plans(store: Store, machine: Object) -> Iterator[DiskPlan | Blocked]:
    namespace = machine["metadata"]["namespace"]
    for index, disk in enumerate(machine["spec"].get("disks") or []):
        field = f"spec.disks[{index}]"
        if "volumeName" in disk:
            name = disk["volumeName"]
            volume = store.get(VOLUMES, Key(namespace, name))
            blocked = _existing_is_blocked(machine, volume, name, field)
        else:
            name = volume_name(machine, disk["name"])
            volume = store.get(VOLUMES, Key(namespace, name))
            blocked = _inline_is_blocked(machine, volume, name, field)
        if blocked is not None:
            yield blocked
            return
        pool = _pool_of(store, disk, volume, field)
        if isinstance(pool, NoPool):
            yield Blocked(pool.reason, pool.message)
            return
        yield DiskPlan(disk["name"], disk, name, volume, pool)


def _existing_is_blocked(machine: Object, volume: Object | None, name: str, field: str) -> Blocked | None:
    if volume is None:
        namespace = machine["metadata"]["namespace"]
        return Blocked(
            Reason.VOLUME_NOT_FOUND,
            f"{field}.volumeName: there is no Volume {namespace}/{name}; the machine waits for it",
        )
    if is_being_deleted(volume):
        return Blocked(Reason.VOLUME_DELETING, f"{field}.volumeName: Volume {name} is being deleted")
    claim = claim_of(volume)
    if claim and claim["vmUID"] != uid_of(machine):
        return Blocked(
            Reason.VOLUME_IN_USE,
            f"{field}.volumeName: Volume {name} is used by VirtualMachine {claim['vmName']}; the machine waits until "
            f"that one is deleted",
        )
    return None


def _inline_is_blocked(machine: Object, volume: Object | None, name: str, field: str) -> Blocked | None:
    if volume is None:
        return None
    if not is_made_for(volume, uid_of(machine)):
        return Blocked(
            Reason.VOLUME_NAME_TAKEN,
            f"{field}.volume: Volume {name} exists and was not made for this machine; delete it",
        )
    if is_being_deleted(volume):
        return Blocked(Reason.VOLUME_DELETING, f"{field}.volume: Volume {name} is being deleted; it is made anew then")
    return None


def _pool_of(store: Store, disk: dict[str, Any], volume: Object | None, field: str) -> Object | NoPool:
    if volume is None:
        return pool_for(store, disk["volume"].get("poolName", ""), f"{field}.volume")
    placed_in = placement_of(volume).get("poolName")
    where = f"{field}.volumeName (Volume {disk['volumeName']}): spec" if "volumeName" in disk else f"{field}.volume"
    return pool_for(store, placed_in or volume["spec"].get("poolName", ""), where)
