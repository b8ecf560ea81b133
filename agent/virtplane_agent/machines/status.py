"""The agent's part of a machine's status, as a pure function of what was observed."""

from dataclasses import dataclass
from typing import Any

from virtplane_agent.machines.steps import Goal
from virtplane_api.kube.conditions import Condition, conditions_of, merged, timestamp
from virtplane_api.kube.resources import Object
from virtplane_api.quantity import format_bytes, quantity_mib
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Effective, Observed

OWNED = (
    "observedGeneration",
    "host",
    "powerState",
    "startTime",
    "effective",
    "pendingChanges",
    "lastExit",
)
OWNED_CONDITIONS = ("Ready", "Reconciling", "Stalled")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Hindrance:
    """What keeps the machine from where it is to be."""

    reason: str
    message: str
    stalled: bool = False
    """Nothing will change until somebody acts."""


def machine_status(machine: Object, observed: Observed, goal: Goal, hindrance: Hindrance | None) -> dict[str, Any]:
    """All that the agent says of a machine."""
    placement, generation = machine["status"]["placement"], machine["metadata"]["generation"]
    gone = goal is Goal.ABSENT and not observed.exists
    # Not defined here yet is Stopped for a user: it does not run, and nothing hinders a start.
    power = observed.power or PowerState.STOPPED
    if gone:
        conditions = [Condition("Ready", "False", "Removed", "nothing of the machine is left on its host")]
    else:
        conditions = _conditions(observed, power, goal, hindrance)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "host": {
            "hypervisor": placement["hypervisor"],
            "token": placement["token"],
            "state": "Removed" if gone else "Present",
        },
        "powerState": power.value,
        "conditions": merged(conditions_of(machine), conditions, generation=generation),
    }
    if power is PowerState.RUNNING and observed.started_at is not None:
        status["startTime"] = timestamp(observed.started_at)
    effective = _effective(observed.effective) if observed.effective is not None else None
    # What was pinned is kept in the resource while the host knows no machine: the next start is to look the same.
    status["effective"] = effective or machine["status"].get("effective")
    if power is PowerState.RUNNING and observed.effective is not None:
        status["pendingChanges"] = _pending_changes(machine, observed.effective)
    if observed.last_exit is not None:
        last_exit = {"reason": observed.last_exit.reason.value, "time": timestamp(observed.last_exit.time)}
        if observed.last_exit.message:
            last_exit["message"] = observed.last_exit.message[:4096]
        status["lastExit"] = last_exit
    else:
        status["lastExit"] = machine["status"].get("lastExit")
    return {field: value for field, value in status.items() if value}


def _conditions(observed: Observed, power: PowerState, goal: Goal, hindrance: Hindrance | None) -> list[Condition]:
    if power is PowerState.UNKNOWN:
        reason, message = "Unresponsive", observed.message or "the machine's hypervisor process does not answer"
        return [Condition("Ready", "Unknown", reason, message), Condition("Reconciling", "True", reason, message)]
    if power.value == goal.value:
        return [Condition("Ready", "True", power.value, "")]
    if hindrance is not None:
        ready = Condition("Ready", "False", hindrance.reason, hindrance.message)
        kind = "Stalled" if hindrance.stalled else "Reconciling"
        return [ready, Condition(kind, "True", hindrance.reason, hindrance.message)]
    reason, message = _in_between(power, goal)
    return [Condition("Ready", "False", reason, message), Condition("Reconciling", "True", reason, message)]


def _in_between(power: PowerState, goal: Goal) -> tuple[str, str]:
    if power is PowerState.PAUSED and goal is Goal.RUNNING:
        return "Paused", "the machine was paused on its host, by hand or by an I/O error"
    match goal:
        case Goal.RUNNING:
            return "Starting", "the machine is being started"
        case Goal.STOPPED:
            return "ShuttingDown", "the guest was asked to shut down"
        case Goal.ABSENT:
            return "Deleting", "the machine is being removed from its host"


def _effective(effective: Effective) -> dict[str, Any]:
    values = {
        "machineType": effective.machine_type,
        "accelerator": effective.accelerator,
        "cpu": {"cores": effective.cpu.cores, "model": effective.cpu.model},
        "memory": {"size": format_bytes(effective.memory_mib * _MIB)},
    }
    return {field: value for field, value in values.items() if value}


def _pending_changes(machine: Object, effective: Effective) -> list[dict[str, str]]:
    spec = machine["spec"]
    pending = []
    if spec["cpu"]["cores"] != effective.cpu.cores:
        pending.append("spec.cpu.cores")
    model = spec["cpu"].get("model", "Host")
    if model not in ("Host", effective.cpu.model):
        pending.append("spec.cpu.model")
    if quantity_mib(spec["memory"]["size"]) != effective.memory_mib:
        pending.append("spec.memory.size")
    return [{"field": field, "applies": "OnRestart"} for field in pending]
