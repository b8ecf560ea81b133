"""From a VirtualMachine to what a driver is given."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.agent.objects import CLUSTER_ID, placed_disk, vm, volume
from virtplane_agent.machines.desired import (
    desired_machine,
    grace_period,
    is_restart_due,
    next_goal,
    restart_policy,
    smbios_uuid,
    wanted,
)
from virtplane_agent.machines.disks import AttachedDisk
from virtplane_agent.machines.steps import Goal
from virtplane_api.vocabulary import DiskFormat, DiskType, PowerState, RestartPolicy
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.hypervisor.contract import ABSENT, Cpu, Disk, Observed, Owner, Pinned

OTHER_CLUSTER = "5d6d1c36-0a5e-4c55-9c55-6a3f8b1f0002"


def test_a_plain_machine_gets_the_defaults() -> None:
    desired = desired_machine(vm(token=7), CLUSTER_ID, [])
    assert (desired.uid, desired.namespace, desired.name) == ("vm-1", "shop", "web")
    assert desired.owner == Owner(CLUSTER_ID, 7)
    assert (desired.cpu, desired.memory_mib) == (Cpu(2, "Host"), 1024)
    assert (desired.disks, desired.pinned) == ((), Pinned())


def test_the_uuid_that_a_guest_sees_is_the_same_for_a_machine_that_is_made_again() -> None:
    first, again = (desired_machine(vm(uid=uid), CLUSTER_ID, []) for uid in ("vm-1", "vm-2"))
    assert UUID(first.smbios_uuid)
    assert first.smbios_uuid == again.smbios_uuid


def test_no_two_machines_share_a_uuid() -> None:
    uuids = {
        smbios_uuid(cluster, namespace, name)
        for cluster in (CLUSTER_ID, OTHER_CLUSTER)
        for namespace, name in (("shop", "web"), ("shop", "db"), ("lab", "web"))
    }
    assert len(uuids) == 6


def test_the_uuid_of_a_name_never_changes_with_our_version() -> None:
    """A guest's licences and its systemd machine-id may hang on it: this value must stay, whatever is rewritten."""
    assert smbios_uuid(CLUSTER_ID, "shop", "web") == "a4698092-de02-59a5-bf5e-01f89f2e8195"


def test_disks_come_in_the_order_of_the_spec_with_what_is_said_of_each() -> None:
    root, tools = volume("web-root", uid="vol-1"), volume("iso", uid="vol-2")
    machine = vm(disks=[placed_disk("root", root), placed_disk("tools", tools)])
    machine["spec"]["disks"][1] |= {"type": "CDROM", "bootOrder": 1}
    at = {name: FileAttachment(Path(f"/srv/{name}"), DiskFormat.RAW) for name in ("root", "tools")}
    attached = [AttachedDisk(name, at[name], claim_is_confirmed=name == "root") for name in at]
    assert desired_machine(machine, CLUSTER_ID, attached).disks == (
        Disk("root", at["root"], DiskType.DISK, None, claim_is_confirmed=True),
        Disk("tools", at["tools"], DiskType.CDROM, 1, claim_is_confirmed=False),
    )


def test_what_was_pinned_at_the_first_start_is_asked_for_again() -> None:
    effective = {"machineType": "pc-q35-7.2", "cpu": {"cores": 2, "model": "max"}}
    desired = desired_machine(vm(status={"effective": effective}), CLUSTER_ID, [])
    assert desired.pinned == Pinned("pc-q35-7.2", "max")


def test_a_guest_never_gets_less_memory_than_was_asked_for() -> None:
    assert desired_machine(vm(memory={"size": "1G"}), CLUSTER_ID, []).memory_mib == 954


@pytest.mark.parametrize(
    ("machine", "goal"),
    [
        *(({"power_state": state}, Goal(state)) for state in ("Running", "Paused", "Suspended", "Stopped")),
        ({"power_state": "Running", "being_deleted": True}, Goal.ABSENT),
    ],
    ids=str,
)
def test_what_is_wanted_follows_from_the_spec_unless_the_machine_is_to_go(machine: dict[str, Any], goal: Goal) -> None:
    assert wanted(vm(**machine)) is goal
    assert next_goal(vm(**machine), Observed(PowerState.RUNNING)) is goal


# --- restarts that are asked for --------------------------------------------------------------------------------------

OLD, NEW = "2026-11-24T10:00:00Z", "2026-11-24T11:00:00Z"
DUE: list[tuple[str, str | None, str | None, str | None, bool]] = [
    # spec.restartedAt; what the host says of its run; what the status says; whether a restart is due
    ("none was asked for", None, "", None, False),
    ("asked for after the start", NEW, "", None, True),
    ("newer than the one handled", NEW, OLD, None, True),
    ("the one handled", NEW, NEW, None, False),
    ("older than the one handled", OLD, NEW, None, False),
    ("the same moment in another zone", "2026-11-24T12:00:00+01:00", NEW, None, False),
    ("a fraction newer", "2026-11-24T11:00:00.5Z", NEW, None, True),
    ("the host has lost its record, the status has it", NEW, None, NEW, False),
    ("the host has lost its record, and it is newer", NEW, None, OLD, True),
    ("the host is believed before the status", NEW, NEW, OLD, False),
    ("nobody knows of any", NEW, None, None, True),
    # the ends of what admission lets through
    ("to the nanosecond", "2026-11-24T11:00:00.000000001Z", OLD, None, True),
    ("of the first year", "1000-01-01T00:00:00-23:59", NEW, None, False),
    ("of the last year", "9999-12-31T23:59:59-23:59", NEW, None, True),
    ("of the last year, handled", "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59+23:59", None, True),
]


@pytest.mark.parametrize(("asked", "run", "said", "due"), [row[1:] for row in DUE], ids=[row[0] for row in DUE])
def test_a_restart_is_due_when_a_newer_one_was_asked_for_than_the_run_answers(
    asked: str | None,
    run: str | None,
    said: str | None,
    due: bool,  # noqa: FBT001
) -> None:
    spec: dict[str, Any] = {"restartedAt": asked} if asked else {}
    machine = vm(status={"restartedAt": said} if said else {}, **spec)
    observed = Observed(PowerState.RUNNING, restarted_at=run)
    assert is_restart_due(machine, observed) == due
    assert next_goal(machine, observed) is (Goal.STOPPED if due else Goal.RUNNING)


@pytest.mark.parametrize(
    ("observed", "goal"),
    [
        (ABSENT, Goal.RUNNING),
        (Observed(PowerState.STOPPED), Goal.RUNNING),
        (Observed(PowerState.STOPPED, ended_by_itself=True), Goal.RUNNING),
        (Observed(PowerState.SUSPENDED), Goal.RUNNING),
        (Observed(PowerState.PAUSED), Goal.STOPPED),
        (Observed(PowerState.UNKNOWN), Goal.STOPPED),
    ],
    ids=["absent", "stopped", "ended", "suspended", "paused", "unknown"],
)
def test_only_what_may_run_is_stopped_for_a_restart(observed: Observed, goal: Goal) -> None:
    assert next_goal(vm(restartedAt=NEW), observed) is goal


@pytest.mark.parametrize("machine", [{"power_state": "Stopped"}, {"power_state": "Suspended"}, {"being_deleted": True}])
def test_a_machine_that_is_not_to_run_is_not_restarted(machine: dict[str, Any]) -> None:
    asked = vm(restartedAt=NEW, **machine)
    assert next_goal(asked, Observed(PowerState.RUNNING)) is wanted(asked)


def test_the_run_is_told_which_restart_it_answers() -> None:
    assert desired_machine(vm(restartedAt=NEW), CLUSTER_ID, []).restarted_at == NEW
    assert desired_machine(vm(), CLUSTER_ID, []).restarted_at == ""


@pytest.mark.parametrize(
    ("spec", "policy"), [({}, RestartPolicy.ALWAYS), ({"restartPolicy": "OnFailure"}, RestartPolicy.ON_FAILURE)]
)
def test_a_machine_is_always_restarted_unless_another_policy_is_given(
    spec: dict[str, Any], policy: RestartPolicy
) -> None:
    assert restart_policy(vm(**spec)) is policy


@pytest.mark.parametrize(("spec", "seconds"), [({}, 60), ({"terminationGracePeriodSeconds": 0}, 0)])
def test_a_guest_has_a_minute_to_shut_down_unless_another_time_is_given(spec: dict[str, Any], seconds: int) -> None:
    assert grace_period(vm(**spec)).total_seconds() == seconds
