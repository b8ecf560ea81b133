"""The operator's part of a machine's status, as pure functions.

`Ready` and `observedGeneration` are the operator's until the agent has taken up the placement, and Ready again, as
Unknown, while that agent is silent.
"""

from collections.abc import Mapping
from typing import Any

from virtplane_api.interfaces import is_claimed, left_behind
from virtplane_api.kube.conditions import Condition, conditions_of, find, merged
from virtplane_api.kube.resources import Key, Object
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import PowerState
from virtplane_operator.hypervisors.reconcile import silent_ready
from virtplane_operator.machines.contests import Contested

OWNED = ("placement",)
OWNED_CONDITIONS = ("Placed",)


def placement_of(machine: Object) -> dict[str, Any]:
    """status.placement; empty when there is none."""
    placement: dict[str, Any] = machine.get("status", {}).get("placement") or {}
    return placement


def networks_of(machine: Object) -> set[Key]:
    """The networks in which claims are held for it, also for what its guest still has to let go of."""
    namespace = machine["metadata"]["namespace"]
    return {Key(namespace, interface["networkName"]) for interface in held_interfaces(machine)}


def held_interfaces(machine: Object) -> list[Mapping[str, Any]]:
    """Rows of its placement, and those that are left of a former one on its host."""
    placement, status = placement_of(machine), machine.get("status", {})
    is_there = (status.get("host") or {}).get("state") == "Present"
    left = left_behind(placement, status.get("interfaces") or ()) if is_there else []
    return [*(placement.get("interfaces") or ()), *left]


def powers_of(machine: Object) -> tuple[str | None, str | None]:
    """As which it is to be, and as which it was seen last."""
    return machine["spec"].get("powerState"), machine.get("status", {}).get("powerState")


def next_token(machine: Object) -> int:
    """The token of a new placement."""
    return int(placement_of(machine).get("token", 0)) + 1


def agent_has_taken_over(machine: Object, placement: dict[str, Any]) -> bool:
    """Whether the placed agent has spoken for this placement."""
    host = machine.get("status", {}).get("host") or {}
    return bool(host) and host.get("token") == placement.get("token")


def placed_status(machine: Object, placement: dict[str, Any], contest: Contested | None = None) -> dict[str, Any]:
    """Of a machine that has a place; `contest` when something that it holds is another's."""
    before = find(machine, "Placed")
    # Scheduling is checked when placing only: the condition speaks of the generation of then.
    generation = machine["metadata"]["generation"]
    if before is not None and before["status"] == "True" and placement == placement_of(machine):
        generation = before.get("observedGeneration", generation)
    conditions = [Condition("Placed", "True", Reason.PLACED, f"on {placement['hypervisor']}")]
    if contest is not None:
        message = f"on {placement['hypervisor']}; {contest.message}"
        conditions = [Condition("Placed", "True", contest.reason, message)]
    if find(machine, "Ready") is not None and not agent_has_taken_over(machine, placement):
        # Ours from before, and to be kept until the agent's: without it the machine would look ready to kstatus.
        message = f"agent {placement['agentName']} has not taken it up yet"
        conditions.append(Condition("Ready", "False", Reason.PLACED, message))
        return {
            "placement": placement,
            "observedGeneration": machine["metadata"]["generation"],
            "conditions": merged(conditions_of(machine), conditions, generation=generation),
        }
    return {"placement": placement, "conditions": merged(conditions_of(machine), conditions, generation=generation)}


def silent_status(machine: Object, contest: Contested | None = None) -> dict[str, Any]:
    """Of a machine whose agent is silent: what was last seen is no longer claimed."""
    placement = placement_of(machine)
    status = placed_status(machine, placement, contest)
    conditions = [one for one in status["conditions"] if one["type"] != "Ready"]
    ready = merged(
        conditions_of(machine),
        [silent_ready(placement["agentName"])],
        generation=machine["metadata"]["generation"],
    )
    return status | {"powerState": PowerState.UNKNOWN.value, "conditions": conditions + ready}


def unplaced_status(machine: Object, reason: str, message: str) -> dict[str, Any]:
    """Of a machine without a place: why, for people and for programs."""
    generation = machine["metadata"]["generation"]
    conditions = [
        Condition("Placed", "False", reason, message),
        Condition("Ready", "False", reason, message),
        Condition("Reconciling", "True", reason, message),
    ]
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": merged(conditions_of(machine), conditions, generation=generation),
    }
    placement = placement_of(machine)
    return status | {"placement": placement} if placement else status


def concerns_the_operator(old: Object | None, new: Object) -> bool:
    """Whether a change of a machine may ask for an act of the operator.

    Most changes of a placed machine are its agent's reports; each would cost a pass that finds nothing to do.
    """
    if old is None or not placement_of(new).get("hypervisor"):
        return True
    return _what_concerns(old) != _what_concerns(new)


def _what_concerns(machine: Object) -> tuple[object, ...]:
    metadata = machine["metadata"]
    return (
        metadata["uid"],
        metadata.get("deletionTimestamp"),
        metadata.get("finalizers"),
        placement_of(machine),
        machine.get("status", {}).get("host"),
        find(machine, "Placed"),
        machine["spec"].get("interfaces"),
        # One that waits for addresses may have them once it is stopped (see `address_cycles`).
        None if is_claimed(machine["spec"], placement_of(machine)) else powers_of(machine),
    )


def gives_up_claims(old: Object, new: Object) -> bool:
    """Whether others may have what they wait for, as the machine held more before."""
    before = _claims_of(old)
    after = _claims_of(new) if before else []
    return any(row not in after for row in before) or _takes_up_a_change(old, new)


def _takes_up_a_change(old: Object, new: Object) -> bool:
    """What a placement gave up, and its agent never reported, is held until the agent has heard of that."""
    if not old.get("status", {}).get("host"):
        return False
    before, after = (agent_has_taken_over(one, placement_of(one)) for one in (old, new))
    return after and not before


def _claims_of(machine: Object) -> list[Any]:
    placed, seen = placement_of(machine).get("interfaces") or (), machine.get("status", {}).get("interfaces") or ()
    forwards = [forward for row in placed for forward in row.get("portForwards") or ()]
    return [
        *forwards,
        *({**row, "portForwards": None} for row in placed),
        *({**row, "bandwidth": None, "seenAddresses": None} for row in seen),
    ]
