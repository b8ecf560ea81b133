"""What a machine's disks need before it can have a place, or the first thing that is missing."""

from typing import Any

import pytest

from tests.operator.objects import DELETED_AT, placed, pool, store_of, vm, volume
from virtplane_api.kube.resources import Object
from virtplane_api.names import DEFAULT_POOL_ANNOTATION
from virtplane_operator.machines.disks import Blocked, DiskPlan, plan_disks
from virtplane_operator.placement import StorageNeed

INLINE = {"name": "root", "volume": {"size": "20Gi", "poolName": "fast"}}
NAMED = {"name": "data", "volumeName": "data"}
PATH = "spec.disks[1].volumeName"
NO_DEFAULT = "no poolName, and no StoragePool has the annotation virtplane.dev/is-default-pool=true"
INLINE_NAME = "web-root-vm1"
"""Of the Volume that `INLINE` describes for the machine `web` of UID `vm-1`."""
DELETED = {"deletionTimestamp": DELETED_AT}
DEFAULT = {"annotations": {DEFAULT_POOL_ANNOTATION: "true"}}
ON_A = placed("host-a-qemu", poolName="fast", poolUID="fast-uid")


def plans_of(machine: Object, *others: Object) -> list[DiskPlan]:
    plans = plan_disks(store_of(*others), machine)
    assert not isinstance(plans, Blocked)
    return list(plans)


def test_a_machine_without_disks_needs_nothing() -> None:
    assert plans_of(vm()) == []


def test_a_disk_that_describes_its_volume_has_it_made_in_the_pool_it_names() -> None:
    [plan] = plans_of(vm(disks=[INLINE]), pool())
    assert (plan.name, plan.spec, plan.volume_name, plan.volume) == ("root", INLINE, INLINE_NAME, None)
    assert plan.need == StorageNeed("fast", "fast-uid", "directory", "root")


def test_a_disk_that_names_a_volume_uses_it() -> None:
    data = volume(poolName="fast")
    [plan] = plans_of(vm(disks=[NAMED]), data, pool())
    assert (plan.volume_name, plan.volume) == ("data", data)


def test_the_volume_that_was_made_before_a_crash_of_ours_is_found_again() -> None:
    made = volume(INLINE_NAME, made_for="vm-1", placement=ON_A, claimed_by="vm-1")
    [plan] = plans_of(vm(disks=[INLINE]), made, pool())
    assert plan.volume == made


def test_disks_are_planned_in_the_order_of_the_spec() -> None:
    machine = vm(disks=[NAMED, INLINE])
    assert [plan.name for plan in plans_of(machine, volume(poolName="fast"), pool())] == ["data", "root"]


@pytest.mark.parametrize(
    ("access", "placement", "agent"),
    [
        pytest.param("Local", ON_A, "host-a", id="a placed volume of a local pool: where it is"),
        pytest.param("Local", None, "", id="a volume without a place: anywhere"),
        pytest.param("Shared", ON_A, "", id="a volume of a shared pool: anywhere"),
    ],
)
def test_a_machine_follows_its_volumes(access: str, placement: dict[str, Any] | None, agent: str) -> None:
    data = volume(poolName="fast", placement=placement)
    [plan] = plans_of(vm(disks=[NAMED]), data, pool(access=access))
    assert plan.need.agent_name == agent


def test_a_placed_volume_stays_in_its_pool_when_another_one_becomes_the_default() -> None:
    data = volume(placement=placed("host-a-qemu", poolName="slow"))
    [plan] = plans_of(vm(disks=[NAMED]), data, pool("slow"), pool("fast", metadata=DEFAULT))
    assert plan.need.pool_name == "slow"


def test_without_a_pool_name_it_is_the_default_pool() -> None:
    machine = vm(disks=[{"name": "root", "volume": {"size": "1Gi"}}])
    [plan] = plans_of(machine, pool("slow"), pool("fast", metadata=DEFAULT))
    assert plan.need.pool_name == "fast"


BLOCKED: list[tuple[str, dict[str, Any], list[Object], str, str]] = [
    ("no such volume", NAMED, [], "VolumeNotFound",
     "spec.disks[1].volumeName: there is no Volume shop/data; the machine waits for it"),
    ("a volume of another namespace", NAMED, [volume(metadata={"namespace": "lab"})], "VolumeNotFound",
     "spec.disks[1].volumeName: there is no Volume shop/data; the machine waits for it"),
    ("a volume that is being deleted", NAMED, [volume(metadata=DELETED)], "VolumeDeleting",
     "spec.disks[1].volumeName: Volume data is being deleted"),
    ("a volume that another machine uses", NAMED, [volume(claimed_by="vm-2")], "VolumeInUse",
     f"{PATH}: Volume data is used by VirtualMachine web-2; the machine waits until that one is deleted"),
    ("somebody else's volume of our name", INLINE, [volume(INLINE_NAME)], "VolumeNameTaken",
     f"spec.disks[1].volume: Volume {INLINE_NAME} exists and was not made for this machine; delete it"),
    ("the volume of an earlier machine", INLINE, [volume(INLINE_NAME, made_for="vm-10")], "VolumeNameTaken",
     f"spec.disks[1].volume: Volume {INLINE_NAME} exists and was not made for this machine; delete it"),
    ("our volume, deleted by somebody", INLINE, [volume(INLINE_NAME, made_for="vm-1", metadata=DELETED)],
     "VolumeDeleting", f"spec.disks[1].volume: Volume {INLINE_NAME} is being deleted; it is made anew then"),
    ("no such pool", {"name": "root", "volume": {"poolName": "quick"}}, [], "PoolNotFound",
     "spec.disks[1].volume.poolName: there is no StoragePool quick"),
    ("a pool that is being deleted", {"name": "root", "volume": {"poolName": "old"}}, [pool("old", metadata=DELETED)],
     "PoolDeleting", "spec.disks[1].volume.poolName: StoragePool old is being deleted"),
    ("no default pool", {"name": "root", "volume": {}}, [], "NoDefaultPool",
     f"spec.disks[1].volume: {NO_DEFAULT}"),
    ("no default pool for a volume", NAMED, [volume()], "NoDefaultPool",
     f"{PATH} (Volume data): spec: {NO_DEFAULT}"),
    ("no such pool for a volume", NAMED, [volume(poolName="quick")], "PoolNotFound",
     f"{PATH} (Volume data): spec.poolName: there is no StoragePool quick"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("disk", "others", "reason", "message"), [row[1:] for row in BLOCKED], ids=[row[0] for row in BLOCKED]
)
def test_what_is_missing_is_said_with_the_path_of_what_names_it(
    disk: dict[str, Any], others: list[Object], reason: str, message: str
) -> None:
    fine = {"name": "fine", "volume": {"poolName": "fast"}}
    assert plan_disks(store_of(pool(), *others), vm(disks=[fine, disk])) == Blocked(reason, message)


def test_a_volume_that_this_machine_holds_already_is_no_hindrance() -> None:
    assert plans_of(vm(disks=[NAMED]), volume(claimed_by="vm-1", poolName="fast"), pool())


def test_the_first_of_several_is_named() -> None:
    gone = [{"name": name, "volumeName": name} for name in ("b", "c")]
    blocked = plan_disks(store_of(pool()), vm(disks=[INLINE, *gone]))
    assert isinstance(blocked, Blocked)
    assert blocked.message.startswith("spec.disks[1].volumeName: there is no Volume shop/b")
