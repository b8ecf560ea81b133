"""Conditions and quantities, as tables."""

from datetime import UTC, datetime
from typing import Any

import pytest

from virtplane_api.kube.conditions import Condition, differs, find, is_true, merged
from virtplane_api.quantity import format_bytes, format_coarse, quantity_bytes, quantity_mib

THEN = "2026-11-24T10:00:00Z"
NOW = datetime(2026, 11, 24, 11, tzinfo=UTC)


def condition(**changes: Any) -> dict[str, Any]:
    base = {"type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": THEN}
    return base | {"observedGeneration": 1} | changes


@pytest.mark.parametrize(
    ("wanted", "time"),
    [
        pytest.param(Condition("Ready", "True", "Running"), THEN, id="nothing changed"),
        pytest.param(Condition("Ready", "True", "Resumed", "again"), THEN, id="only reason and message changed"),
        pytest.param(Condition("Ready", "False", "Stopped"), "2026-11-24T11:00:00Z", id="the status flipped"),
        pytest.param(Condition("Placed", "True", "Placed"), "2026-11-24T11:00:00Z", id="a new condition"),
    ],
)
def test_the_time_of_a_condition_moves_only_when_its_status_flips(wanted: Condition, time: str) -> None:
    (result,) = merged([condition()], [wanted], generation=3, now=NOW)
    assert result["lastTransitionTime"] == time
    assert result["observedGeneration"] == 3
    assert (result["reason"], result["message"]) == (wanted.reason, wanted.message)


def test_a_message_is_cut_to_what_the_schema_takes() -> None:
    (result,) = merged([], [Condition("Ready", "False", "Failed", "x" * 10_000)], generation=1)
    assert len(result["message"]) == 4096


READ = {"status": {"powerState": "Running", "other": 1, "conditions": [condition(), condition(type="Placed")]}}
SAME = {"powerState": "Running", "conditions": [condition()]}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(SAME, False, id="the same, beside fields and conditions of others"),
        pytest.param(SAME | {"powerState": "Stopped"}, True, id="a field changed"),
        pytest.param({"conditions": [condition()]}, True, id="a field is left out"),
        pytest.param({"powerState": "Running"}, True, id="a condition is left out"),
        pytest.param(SAME | {"conditions": [condition(reason="Other")]}, True, id="a reason changed"),
    ],
)
def test_a_write_is_made_only_when_it_would_change_what_was_read(
    status: dict[str, Any],
    expected: bool,  # noqa: FBT001
) -> None:
    assert differs(READ, status, owned=["powerState"], owned_conditions=["Ready"]) is expected


def test_an_object_without_status_has_no_conditions() -> None:
    assert find({}, "Ready") is None
    assert not is_true({}, "Ready")
    assert is_true(READ, "Ready")


@pytest.mark.parametrize(
    ("quantity", "exact_bytes", "mib"),
    [
        ("2Gi", 2 << 30, 2048),
        ("1.5Gi", 3 << 29, 1536),
        ("1G", 10**9, 954),
        (1, 1, 1),
        ("100m", 1, 1),
        ("1e6", 10**6, 1),
    ],
)
def test_a_quantity_is_never_rounded_below_what_was_asked(quantity: str | int, exact_bytes: int, mib: int) -> None:
    assert quantity_bytes(quantity) == exact_bytes
    assert quantity_mib(quantity) == mib


def test_sizes_read_as_people_write_them() -> None:
    assert [format_bytes(size) for size in (0, 1500, 2 << 30, 3 << 20)] == ["0", "1500", "2Gi", "3Mi"]
    assert [format_coarse(size) for size in (0, 1500, (64 << 30) - 1)] == ["0", "1Ki", "63Gi"]
