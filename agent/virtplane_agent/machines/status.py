"""The agent's part of a machine's status, as a pure function of what was observed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from virtplane_agent.machines.addresses import Seen, with_seen
from virtplane_agent.machines.desired import is_restart_due, wanted
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.machines.steps import Goal
from virtplane_agent.networks.desired import bandwidth_of, left_interfaces
from virtplane_api.interfaces import is_claimed, key_of_row, reported_rows
from virtplane_api.kube.conditions import Condition, Status, conditions_of, find, merged, timestamp
from virtplane_api.kube.resources import Object
from virtplane_api.quantity import format_bytes, quantity_mib
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Effective, Observed
from virtplane_drivers.hypervisor.nics import nic_changes

OWNED = (
    "observedGeneration",
    "host",
    "powerState",
    "startTime",
    "effective",
    "pendingChanges",
    "lastExit",
    "restartedAt",
    "restarts",
    "interfaces",
)
OWNED_CONDITIONS = ("Ready", "Reconciling", "Stalled")
_MIB = 1 << 20
_RESTARTABLE = (Goal.RUNNING, Goal.PAUSED)
_RUNS = (PowerState.RUNNING, PowerState.PAUSED)


def machine_status(
    machine: Object,
    observed: Observed,
    hindrance: Hindrance | None,
    seen: Seen | None = None,
    not_anew: str | None = "",
) -> dict[str, Any]:
    """All that the agent says of a machine, of whose interfaces these addresses were seen.

    `not_anew` is what it has while it runs and would not get at a start; None: what was said of it stays.
    """
    placement, generation, goal = machine["status"]["placement"], machine["metadata"]["generation"], wanted(machine)
    gone = goal is Goal.ABSENT and not observed.exists
    # Not defined here yet is Stopped for a user: it does not run, and nothing hinders a start.
    power = observed.power or PowerState.STOPPED
    if gone:
        conditions = [Condition("Ready", "False", Reason.REMOVED, "nothing of the machine is left on its host")]
    elif hindrance is None and is_restart_due(machine, observed) and goal in _RESTARTABLE and power in _RUNS:
        conditions = _reconciling(
            Reason.RESTARTING, f"restart as asked by restartedAt {machine['spec']['restartedAt']}"
        )
    elif hindrance is None and goal is not Goal.ABSENT and not is_claimed(machine["spec"], placement):
        conditions = _reconciling(*_not_claimed(machine))
    else:
        conditions = _conditions(observed, power, goal, hindrance)
        if power in _RUNS and conditions[0].status == "True":
            conditions = [replace(conditions[0], message=_said_before(machine) if not_anew is None else not_anew)]
    host = {
        "hypervisor": placement["hypervisor"],
        "token": placement["token"],
        "state": "Removed" if gone else "Present",
    }
    if hindrance is not None and hindrance.seen_token is not None:
        host["seenToken"] = hindrance.seen_token
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "host": host,
        "powerState": power.value,
        "conditions": merged(conditions_of(machine), conditions, generation=generation),
    }
    status["interfaces"] = with_seen(_interfaces(machine, observed), machine, observed, seen or {})
    if power in _RUNS and observed.started_at is not None:
        status["startTime"] = timestamp(observed.started_at)
    effective = _effective(observed.effective) if observed.effective is not None else None
    # What was pinned is kept in the resource while the host knows no machine: the next start is to look the same.
    status["effective"] = effective or machine["status"].get("effective")
    if power in _RUNS and observed.effective is not None:
        status["pendingChanges"] = _pending_changes(machine, observed.effective) + _pending_interfaces(observed)
    # Of a machine that its host does not know (yet) stays said what was said before.
    status["restarts"] = observed.restarts or machine["status"].get("restarts")
    status["restartedAt"] = (
        machine["status"].get("restartedAt") if observed.restarted_at is None else observed.restarted_at
    )
    status["lastExit"] = _last_exit(observed) or machine["status"].get("lastExit")
    return {field: value for field, value in status.items() if value}


def _last_exit(observed: Observed) -> dict[str, str] | None:
    if observed.last_exit is None:
        return None
    last_exit = {"reason": observed.last_exit.reason.value, "time": timestamp(observed.last_exit.time)}
    if observed.last_exit.message:
        last_exit["message"] = observed.last_exit.message[:4096]
    return last_exit


def _interfaces(machine: Object, observed: Observed) -> list[dict[str, Any]]:
    """What the machine has on this host, or may have before it is said again: all of its placement, before any of it is
    joined. An address that is not in it any more may be given to others, anywhere."""
    placement, before = machine["status"]["placement"], reported_rows(machine["status"].get("interfaces"))
    placed, has = placement.get("interfaces") or (), {nic.name for nic in observed.nics}
    if has and observed.owner is not None and observed.owner.token != placement["token"]:
        # Nothing of the new placement is in effect.
        keys = {key_of_row(row) for row in placed}
        stays = [row for row in before if row["name"] in has or key_of_row(row) in keys]
        known = {key_of_row(row) for row in stays}
        rows = [*stays, *(row for row in placed if key_of_row(row) not in known)]
    else:
        going = nic_changes(observed.nics, observed.defined_nics).unplug
        nobody_knows = observed.exists and observed.owner is None  # as of a hypervisor that is not driven any more
        left = [row for row in left_interfaces(machine) if nobody_knows or row["name"] in going]
        rows = [*placed, *left]
    return [_interface(machine, row) for row in rows]


def _interface(machine: Object, row: Mapping[str, Any]) -> dict[str, Any]:
    """With the limits that it has: what the spec says nothing of any more keeps them by this."""
    fields = ("name", "networkName", "networkUID", "macAddress", "ipAddresses")
    shown = {field: row.get(field) for field in fields} | {"bandwidth": bandwidth_of(machine, row)}
    return {field: value for field, value in shown.items() if value}


def _not_claimed(machine: Object) -> tuple[str, str]:
    """Why spec.interfaces is not in effect: the operator says so, or has not looked yet."""
    placed = find(machine, "Placed")
    if placed is None or placed["status"] != "True" or placed["reason"] == Reason.PLACED:
        return Reason.INTERFACES_CHANGING, "spec.interfaces was changed, and the operator has not taken that up yet"
    return placed["reason"], placed["message"]


def _said_before(machine: Object) -> str:
    ready = find(machine, "Ready")
    return str(ready.get("message", "")) if ready is not None and ready["status"] == "True" else ""


def _conditions(observed: Observed, power: PowerState, goal: Goal, hindrance: Hindrance | None) -> list[Condition]:
    if hindrance is not None and hindrance.progress is Progress.BLOCKED:
        status: Status = "Unknown" if power is PowerState.UNKNOWN else "False"
        ready = Condition("Ready", status, hindrance.reason, hindrance.message)
        return [ready, Condition("Stalled", "True", hindrance.reason, hindrance.message)]
    if hindrance is not None and hindrance.progress is Progress.SETTLING:
        return _reconciling(hindrance.reason, hindrance.message)
    if power is PowerState.UNKNOWN:
        reason, message = Reason.UNRESPONSIVE, observed.message or "the machine's hypervisor process does not answer"
        return [Condition("Ready", "Unknown", reason, message), Condition("Reconciling", "True", reason, message)]
    if power.value == goal.value:
        return [Condition("Ready", "True", power.value, "")]
    if hindrance is None:
        return _reconciling(*_in_between(power, goal))
    ready = Condition("Ready", "False", hindrance.reason, hindrance.message)
    match hindrance.progress:
        case Progress.RECONCILING | Progress.SETTLING:
            return [ready, Condition("Reconciling", "True", hindrance.reason, hindrance.message)]
        case Progress.STALLED | Progress.BLOCKED:
            return [ready, Condition("Stalled", "True", hindrance.reason, hindrance.message)]
        case Progress.HELD:
            return [ready]


def _reconciling(reason: str, message: str) -> list[Condition]:
    return [Condition("Ready", "False", reason, message), Condition("Reconciling", "True", reason, message)]


def _in_between(power: PowerState, goal: Goal) -> tuple[Reason, str]:
    match goal:
        case Goal.RUNNING if power is PowerState.SUSPENDED:
            return Reason.RESUMING, "the machine goes on from its suspended memory"
        case Goal.RUNNING if power is PowerState.PAUSED:
            return Reason.RESUMING, "the machine is let go on"
        case Goal.RUNNING:
            return Reason.STARTING, "the machine is being started"
        case Goal.PAUSED:
            return Reason.PAUSING, "the machine is being paused"
        case Goal.SUSPENDED:
            return Reason.SUSPENDING, "the machine's memory is being written to its pool"
        case Goal.STOPPED:
            return Reason.SHUTTING_DOWN, "the guest was asked to shut down"
        case Goal.ABSENT:
            return Reason.DELETING, "the machine is being removed from its host"


def _effective(effective: Effective) -> dict[str, Any]:
    values = {
        "machineType": effective.machine_type,
        "accelerator": effective.accelerator,
        "cpu": {"cores": effective.cpu.cores, "model": effective.cpu.model},
        "memory": {"size": format_bytes(effective.memory_mib * _MIB)},
        "display": {"type": effective.display.value} if effective.display is not None else None,
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
    if spec.get("display", {}).get("type") != effective.display:
        pending.append("spec.display")
    return [{"field": field, "applies": "OnRestart"} for field in pending]


def _pending_interfaces(observed: Observed) -> list[dict[str, str]]:
    """Also what its guest was asked for and has not done: it may do so before."""
    changes = nic_changes(observed.nics, observed.defined_nics)
    names = {*changes.unplug, *changes.on_restart, *(nic.name for nic in (*changes.plug, *changes.links))}
    return [{"field": f"spec.interfaces[{name}]", "applies": "OnRestart"} for name in sorted(names)]
