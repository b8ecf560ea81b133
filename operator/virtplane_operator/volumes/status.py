"""The operator's part of a Volume's status, as pure functions."""

from typing import Any

from virtplane_api.kube.conditions import Condition, conditions_of, find, merged
from virtplane_api.kube.resources import Object
from virtplane_api.reasons import Reason

OWNED = ("placement", "claim")
OWNED_CONDITIONS = ("Placed",)
UNPLACED_CONDITIONS = ("Placed", "Ready")


def placement_of(volume: Object) -> dict[str, Any]:
    """status.placement; empty when there is none."""
    placement: dict[str, Any] = volume.get("status", {}).get("placement") or {}
    return placement


def claim_of(volume: Object) -> dict[str, Any]:
    """status.claim; empty when nobody may use the Volume."""
    claim: dict[str, Any] = volume.get("status", {}).get("claim") or {}
    return claim


def first_placement(volume: Object, *, hypervisor: str, agent: str, pool: Object) -> dict[str, Any]:
    """Where the Volume is to be made, under the next token."""
    return {
        "hypervisor": hypervisor,
        "agentName": agent,
        "poolName": pool["metadata"]["name"],
        "poolUID": pool["metadata"]["uid"],
        "token": int(placement_of(volume).get("token", 0)) + 1,
    }


def placed_status(volume: Object, placement: dict[str, Any], claim: dict[str, Any]) -> dict[str, Any]:
    """Of a Volume with a place; its Ready is its agent's."""
    message = f"{placement['hypervisor']} holds it in pool {placement['poolName']}"
    before = find(volume, "Placed")
    # A placement is checked when it is made only: it speaks of the generation of then.
    generation = volume["metadata"]["generation"]
    if before is not None and before["status"] == "True":
        generation = before.get("observedGeneration", generation)
    conditions = merged(
        conditions_of(volume), [Condition("Placed", "True", Reason.PLACED, message)], generation=generation
    )
    status = {"placement": placement, "conditions": conditions}
    return status | {"claim": claim} if claim else status


def unplaced_status(volume: Object, reason: str, message: str) -> dict[str, Any]:
    """Of a Volume without a place: the operator speaks for Ready as well."""
    generation = volume["metadata"]["generation"]
    conditions = [Condition("Placed", "False", reason, message), Condition("Ready", "False", reason, message)]
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": merged(conditions_of(volume), conditions, generation=generation),
    }
    placement, claim = placement_of(volume), claim_of(volume)
    if placement:
        status["placement"] = placement
    return status | {"claim": claim} if claim else status
