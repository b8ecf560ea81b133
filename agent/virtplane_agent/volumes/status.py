"""The agent's part of a Volume's status, as a pure function of what was observed."""

from typing import Any

from virtplane_api.kube.conditions import Condition, conditions_of, merged
from virtplane_api.kube.resources import Object
from virtplane_api.quantity import format_bytes
from virtplane_api.reasons import Reason
from virtplane_drivers.storage.contract import Failure, ObservedVolume, VolumeState

OWNED = ("observedGeneration", "host", "size", "format")
OWNED_CONDITIONS = ("Ready", "Reconciling", "Stalled")


def volume_status(volume: Object, observed: ObservedVolume) -> dict[str, Any]:
    """Of a Volume that is to exist."""
    status = _status(volume, "Present", _conditions(volume, observed))
    if observed.state is VolumeState.READY:
        if observed.size_bytes is not None:
            status["size"] = format_bytes(observed.size_bytes)
        if observed.format is not None:
            status["format"] = observed.format.value
    return status


def hindered_status(volume: Object, failure: Failure) -> dict[str, Any]:
    """Of a Volume whose pool cannot be used now."""
    return _status(volume, "Present", _failed(failure))


def in_use_status(volume: Object, machine: str) -> dict[str, Any]:
    """Of a Volume that is to go, and that a machine may use: whatever else is to be said of it comes after that."""
    message = f"deletion waits for VirtualMachine {machine}, which uses it; it goes on once that one is deleted"
    return _status(volume, "Present", [Condition("Ready", "False", Reason.IN_USE, message)])


def removed_status(volume: Object, reason: str, message: str) -> dict[str, Any]:
    """Of a Volume of which nothing (Deleted), or only the data (Retained), is left."""
    return _status(volume, "Removed", [Condition("Ready", "False", reason, message)])


def _status(volume: Object, state: str, conditions: list[Condition]) -> dict[str, Any]:
    before, generation = volume["status"], volume["metadata"]["generation"]
    placement = before["placement"]
    status = {
        "observedGeneration": generation,
        "host": {"hypervisor": placement["hypervisor"], "token": placement["token"], "state": state},
        "conditions": merged(conditions_of(volume), conditions, generation=generation),
    }
    # What was made once stays said: by it a Volume that was lost is told from one that was never made.
    return status | {field: before[field] for field in ("size", "format") if field in before}


def _conditions(volume: Object, observed: ObservedVolume) -> list[Condition]:
    if observed.state is VolumeState.READY:
        return [Condition("Ready", "True", Reason.MADE, "")]
    if observed.failure is not None:
        return _failed(observed.failure)
    http = (volume["spec"].get("source") or {}).get("http")
    reason, message = (
        (Reason.IMPORTING, f"copying {http['url']}") if http else (Reason.CREATING, "the disk is being made")
    )
    return [Condition("Ready", "False", reason, message), Condition("Reconciling", "True", reason, message)]


def _failed(failure: Failure) -> list[Condition]:
    kind = "Stalled" if failure.retry_after_s is None else "Reconciling"
    return [
        Condition("Ready", "False", failure.reason, failure.message),
        Condition(kind, "True", failure.reason, failure.message),
    ]
