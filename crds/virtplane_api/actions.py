"""What operator and agent both ask of a VirtualMachineAction, as pure functions.

::

    created ──► placed ──► startTime written ──► the act ──► Complete or Failed
       └──────────┴─ startingDeadlineSeconds over ─► Failed (the operator's), and it never happens
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from virtplane_api.kube.conditions import Condition, conditions_of, is_true, merged, timestamp
from virtplane_api.kube.resources import Object
from virtplane_api.reasons import Reason

STARTING_DEADLINE_S = 60
TTL_AFTER_FINISHED_S = 3600
GUEST_COMMAND_TIMEOUT_S = 60

MAX_OUTPUT_BYTES = 64 << 10
"""Of each of a command's outputs."""
MAX_SCREENSHOT_BYTES = 512 << 10
"""etcd takes 1.5 MiB in one object."""

OWNED_CONDITIONS = ("Complete", "Failed")


def is_finished(action: Object) -> bool:
    """Whether it is over, well or not."""
    return any(is_true(action, condition) for condition in OWNED_CONDITIONS)


def starting_deadline_s(action: Object) -> int:
    """How long after its creation it may begin."""
    return int(action["spec"].get("startingDeadlineSeconds", STARTING_DEADLINE_S))


def starting_deadline(action: Object) -> datetime:
    """When it is too late to begin; UTC, by the API server's clock."""
    return _time(action["metadata"]["creationTimestamp"]) + timedelta(seconds=starting_deadline_s(action))


def age(action: Object, now: datetime) -> timedelta:
    """Since it was created, by the API server's clock against ours."""
    return now - _time(action["metadata"]["creationTimestamp"])


def removal_time(action: Object) -> datetime:
    """When a finished one has been kept for long enough; UTC."""
    finished = action["status"].get("completionTime") or action["metadata"]["creationTimestamp"]
    return _time(finished) + timedelta(seconds=action["spec"].get("ttlSecondsAfterFinished", TTL_AFTER_FINISHED_S))


def finished_status(action: Object, failure: tuple[Reason | str, str] | None, *, now: datetime) -> dict[str, Any]:
    """Status fields of an act that is over: `failure` is why not, as a word and for people."""
    if failure is None:
        condition = Condition("Complete", "True", Reason.COMPLETED, "")
    else:
        condition = Condition("Failed", "True", failure[0], failure[1])
    generation = action["metadata"]["generation"]
    return {
        "observedGeneration": generation,
        "completionTime": timestamp(now),
        "conditions": merged(conditions_of(action), [condition], generation=generation, now=now),
    }


def without_results(action: Object) -> Object:
    """The object without what is large: whoever keeps many of them needs no screenshots."""
    status = action.get("status") or {}
    if not status.keys() & _RESULTS:
        return action
    return {**action, "status": {name: value for name, value in status.items() if name not in _RESULTS}}


_RESULTS = frozenset({"screenshot", "guestCommand"})


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
