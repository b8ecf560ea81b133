"""Conditions of a status, after the Kubernetes API conventions: pure functions over JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from virtplane_api.kube.resources import Object

Status = Literal["True", "False", "Unknown"]
MAX_MESSAGE_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Condition:
    """One observation, without the time that `merged` knows."""

    type: str
    status: Status
    reason: str
    message: str = ""


def merged(
    previous: Sequence[Mapping[str, Any]], wanted: Iterable[Condition], *, generation: int, now: datetime | None = None
) -> list[dict[str, Any]]:
    """The wanted conditions as JSON, in their order; lastTransitionTime moves only where the status flips.

    `previous` are all conditions as they were read, of whatever writer; only those of the wanted types are looked at.
    """
    before = {condition["type"]: condition for condition in previous}
    moment = now or datetime.now(UTC)
    result = []
    for condition in wanted:
        old = before.get(condition.type)
        kept = old is not None and old["status"] == condition.status
        result.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message[:MAX_MESSAGE_CHARS],
                "lastTransitionTime": old["lastTransitionTime"] if old is not None and kept else timestamp(moment),
                "observedGeneration": generation,
            }
        )
    return result


def conditions_of(obj: Object) -> list[dict[str, Any]]:
    """All conditions of an object, of whatever writer."""
    conditions: list[dict[str, Any]] = obj.get("status", {}).get("conditions") or []
    return conditions


def find(obj: Object, condition_type: str) -> dict[str, Any] | None:
    """The condition of that type, or None."""
    for condition in conditions_of(obj):
        if condition["type"] == condition_type:
            return condition
    return None


def is_true(obj: Object, condition_type: str) -> bool:
    """Whether the condition is there and True."""
    condition = find(obj, condition_type)
    return condition is not None and condition["status"] == "True"


def differs(read: Object, status: Mapping[str, Any], *, owned: Iterable[str], owned_conditions: Iterable[str]) -> bool:
    """Whether applying `status` would change what was read.

    `owned` are the top-level status fields of this writer (conditions apart), `owned_conditions` its condition types:
    one that is in the object and not in `status` is a difference as well, as the apply would remove it.
    """
    current = read.get("status", {})
    if any(current.get(field) != status.get(field) for field in owned):
        return True
    before = {c["type"]: c for c in conditions_of(read)}
    after = {c["type"]: c for c in status.get("conditions", [])}
    return any(before.get(name) != after.get(name) for name in owned_conditions)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as metav1.Time prints it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
