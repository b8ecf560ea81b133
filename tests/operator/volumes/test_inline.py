"""The Volumes that a machine's disks describe."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.objects import vm, volume
from virtplane_api.names import HOST_STATE_FINALIZER, MACHINE_LABEL, MACHINE_UID_LABEL
from virtplane_operator.volumes.inline import is_made_for, maker_name, volume_name, volume_of

UID = "6b0cf3b5-6d5e-4b0f-9b5e-0a3c1d2e4f55"
DISK: dict[str, Any] = {"name": "root", "volume": {"size": "20Gi", "poolName": "fast", "format": "raw"}}

LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


def with_policy(policy: str) -> dict[str, Any]:
    return {"name": "root", "volume": DISK["volume"] | {"deletionPolicy": policy}}


def test_the_volume_is_what_the_disk_describes() -> None:
    made = volume_of(vm(uid=UID), DISK)
    assert made["spec"] == {"size": "20Gi", "poolName": "fast", "format": "raw", "deletionPolicy": "Delete"}
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("shop", "web-root-6b0cf")
    assert made["metadata"]["finalizers"] == [HOST_STATE_FINALIZER]
    assert made["metadata"]["labels"] == {MACHINE_LABEL: "web", MACHINE_UID_LABEL: UID}


def test_the_disk_itself_is_not_changed() -> None:
    disk = with_policy("Retain")
    volume_of(vm(uid=UID), disk)
    assert disk == with_policy("Retain")


@pytest.mark.parametrize("disk", [DISK, with_policy("Delete")], ids=["no policy", "Delete"])
def test_it_goes_with_its_machine(disk: dict[str, Any]) -> None:
    [owner] = volume_of(vm(uid=UID), disk)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("VirtualMachine", "web", UID, True)


def test_with_retain_it_has_no_owner_and_stays() -> None:
    made = volume_of(vm(uid=UID), with_policy("Retain"))
    assert "ownerReferences" not in made["metadata"]
    assert made["spec"]["deletionPolicy"] == "Retain"
    assert is_made_for(made, UID)


def test_for_whom_it_was_made_is_told_by_uid() -> None:
    made = volume_of(vm(uid=UID), DISK)
    assert is_made_for(made, UID)
    assert not is_made_for(made, "another")
    assert not is_made_for(volume(), UID)
    assert (maker_name(made), maker_name(volume())) == ("web", "")


# --- names ------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(machine=LABELS, disk=LABELS, uids=st.lists(st.uuids(version=4), min_size=2, max_size=8))
def test_a_machine_that_is_made_again_never_meets_the_disks_of_the_one_before(
    machine: str, disk: str, uids: list[Any]
) -> None:
    """Five digits tell any two apart that differ in them; those that do not are told apart by the label."""
    names = {str(uid)[:5]: volume_name(vm(machine, uid=str(uid)), disk) for uid in uids}
    assert len(set(names.values())) == len(names)


@settings(max_examples=40, deadline=None)
@given(machine=LABELS, disks=st.lists(LABELS, min_size=2, max_size=24, unique=True), uid=st.uuids(version=4))
def test_no_two_disks_of_a_machine_share_a_volume(machine: str, disks: list[str], uid: Any) -> None:
    assert len({volume_name(vm(machine, uid=str(uid)), disk) for disk in disks}) == len(disks)


@settings(max_examples=40, deadline=None)
@given(machine=LABELS, disk=LABELS, uid=st.uuids(version=4))
def test_a_name_is_one_that_kubernetes_takes(machine: str, disk: str, uid: Any) -> None:
    name = volume_name(vm(machine, uid=str(uid)), disk)
    assert len(name) <= 253
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert name[0] != "-" != name[-1]
