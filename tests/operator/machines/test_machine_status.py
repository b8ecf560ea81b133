"""The operator's part of a machine's status: where it is, why nowhere, and that nothing is known of it."""

from typing import Any

import pytest

from tests.operator.objects import CREATED_AT, DELETED_AT, condition, conditions, placed, vm
from virtplane_api.kube.resources import Object
from virtplane_operator.machines.status import (
    concerns_the_operator,
    next_token,
    placed_status,
    placement_of,
    silent_status,
    unplaced_status,
)

HERE = placed("host-a-qemu", token=7)
THERE = placed("host-b-qemu", token=8)
TAKEN_UP = {"host": {"hypervisor": "host-a-qemu", "token": 7, "state": "Present"}}
PLACED = condition("Placed", "True", "Placed", message="on host-a-qemu")
READY = condition("Ready", "True", "Running")
WAITED = [condition("Placed", "False", "NoHypervisorFits"), condition("Ready", "False", "NoHypervisorFits")]


def test_a_token_is_never_given_twice() -> None:
    assert next_token(vm()) == 1
    assert next_token(vm(placement=HERE)) == 8
    assert next_token(vm(placement={"token": 9})) == 10  # it lost its place, not its token


def test_without_a_placement_there_is_an_empty_one() -> None:
    assert placement_of(vm()) == placement_of({"metadata": {}}) == {}
    assert placement_of(vm(placement=HERE)) == HERE


# --- placed -----------------------------------------------------------------------------------------------------------


def test_a_machine_that_is_placed_at_once_is_told_nothing_but_its_place() -> None:
    """Ready and observedGeneration stay the agent's to say first: one write less, and no flicker."""
    status = placed_status(vm(), HERE)
    assert conditions(status) == {"Placed": ("True", "Placed")}
    assert (status["placement"], status["conditions"][0]["message"]) == (HERE, "on host-a-qemu")
    assert "observedGeneration" not in status


def test_a_machine_that_waited_is_not_ready_until_its_agent_has_spoken() -> None:
    status = placed_status(vm(status={"conditions": WAITED}), HERE)
    assert conditions(status) == {"Placed": ("True", "Placed"), "Ready": ("False", "Placed")}
    assert status["conditions"][1]["message"] == "agent host-a has not taken it up yet"
    assert status["observedGeneration"] == 3


@pytest.mark.parametrize(
    ("host", "speaks_for_ready"),
    [
        pytest.param({}, True, id="the agent has said nothing"),
        pytest.param({"hypervisor": "host-a-qemu", "token": 6, "state": "Present"}, True, id="of an earlier placement"),
        pytest.param(TAKEN_UP["host"], False, id="of this placement"),
    ],
)
def test_ready_is_the_agents_as_soon_as_it_has_taken_the_placement_up(
    host: dict[str, Any],
    speaks_for_ready: bool,  # noqa: FBT001
) -> None:
    machine = vm(placement=HERE, status={"host": host, "conditions": [PLACED, READY]})
    assert ("Ready" in conditions(placed_status(machine, HERE))) == speaks_for_ready


def test_placed_speaks_of_the_generation_that_was_placed_until_the_place_changes() -> None:
    """Scheduling is looked at when placing only."""
    machine = vm(placement=HERE, status={"conditions": [PLACED], **TAKEN_UP})
    assert placed_status(machine, HERE)["conditions"][0]["observedGeneration"] == 1
    assert placed_status(machine, THERE)["conditions"][0]["observedGeneration"] == 3


def test_the_time_of_placed_stays_over_a_move() -> None:
    machine = vm(placement=HERE, status={"conditions": [PLACED], **TAKEN_UP})
    assert placed_status(machine, THERE)["conditions"][0]["lastTransitionTime"] == CREATED_AT


# --- its agent is silent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [TAKEN_UP, {}], ids=["taken up", "not yet taken up"])
def test_of_a_silent_agents_machine_nothing_is_claimed(status: dict[str, Any]) -> None:
    machine = vm(placement=HERE, status={"powerState": "Running", "conditions": [PLACED, READY], **status})
    said = silent_status(machine)
    assert said["powerState"] == "Unknown"
    assert conditions(said) == {"Placed": ("True", "Placed"), "Ready": ("Unknown", "AgentSilent")}
    assert len(said["conditions"]) == 2
    assert "agent host-a has not renewed its Lease; its machines run on" in said["conditions"][1]["message"]


def test_the_machine_of_a_silent_agent_keeps_its_place() -> None:
    """Silence fences nothing: a guest may run there."""
    assert silent_status(vm(placement=HERE))["placement"] == HERE


# --- without a place --------------------------------------------------------------------------------------------------


def test_why_a_machine_has_no_place_is_said_for_people_and_for_programs() -> None:
    message = "0 of 3 hypervisors fit: 3 lack memory"
    status = unplaced_status(vm(), "NoHypervisorFits", message)
    assert conditions(status) == {
        "Placed": ("False", "NoHypervisorFits"),
        "Ready": ("False", "NoHypervisorFits"),
        "Reconciling": ("True", "NoHypervisorFits"),
    }
    assert {one["message"] for one in status["conditions"]} == {message}
    assert status["observedGeneration"] == 3
    assert "placement" not in status


def test_a_machine_that_lost_its_place_keeps_its_token() -> None:
    assert unplaced_status(vm(placement={"token": 7}), "NoHypervisorFits", "")["placement"] == {"token": 7}


# --- which changes ask for a pass -------------------------------------------------------------------------------------

SEEN = vm(placement=HERE, status={"powerState": "Running", "conditions": [PLACED, READY], **TAKEN_UP})


def changed(*, placement: dict[str, Any] = HERE, metadata: dict[str, Any] | None = None, **status: Any) -> Object:
    """`SEEN`, with something else in it."""
    return vm(version=2, placement=placement, status=SEEN["status"] | status, metadata=metadata)


CHANGES: list[tuple[str, Object | None, Object, bool]] = [
    ("nothing", SEEN, changed(), False),
    ("the agent reports the power state", SEEN, changed(powerState="Stopped"), False),
    ("the agent reports Ready", SEEN, changed(conditions=[PLACED, READY | {"status": "False"}]), False),
    ("the user changes the spec", SEEN, vm(placement=HERE, status=SEEN["status"], cpu={"cores": 9}), False),
    ("the agent takes up or lets go", SEEN, changed(host=TAKEN_UP["host"] | {"state": "Removed"}), True),
    ("the agent has seen a greater token", SEEN, changed(host=TAKEN_UP["host"] | {"seenToken": 9}), True),
    ("it is seen for the first time", None, SEEN, True),
    ("it is another machine", SEEN, vm(uid="vm-2", placement=HERE, status=SEEN["status"]), True),
    ("it has no place", vm(), vm(version=2), True),
    ("it was placed", vm(), SEEN, True),
    ("it was placed elsewhere", SEEN, changed(placement=THERE), True),
    ("it lost its place", SEEN, changed(placement={"token": 8}), True),
    ("it is to be deleted", SEEN, changed(metadata={"deletionTimestamp": DELETED_AT}), True),
    ("somebody dropped its finalizer", SEEN, changed(metadata={"finalizers": []}), True),
    ("somebody dropped Placed", SEEN, changed(conditions=[READY]), True),
]


def test_one_whose_interfaces_are_not_in_effect_is_looked_at_when_it_stops() -> None:
    """It may have waited for one that waits for it."""
    waiting, stopped = (
        vm(version=version, placement=HERE, interfaces=[{"name": "lan", "networkName": "lan"}],
           status=SEEN["status"] | {"powerState": power})
        for version, power in enumerate(("Running", "Stopped"))
    )  # fmt: skip
    assert concerns_the_operator(waiting, stopped)


@pytest.mark.parametrize(("old", "new", "concerns"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_of_a_placed_machine_only_what_the_operator_acts_on_asks_for_a_pass(
    old: Object | None,
    new: Object,
    concerns: bool,  # noqa: FBT001
) -> None:
    assert concerns_the_operator(old, new) == concerns
