"""The status of a StoragePool, as a pure function of what the Hypervisors report of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from virtplane_api.kube.conditions import Condition, conditions_of, find, merged
from virtplane_api.kube.resources import Object
from virtplane_api.quantity import format_bytes, quantity_bytes
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import PoolAccess
from virtplane_operator.pools.choice import pool_type

OWNED = ("observedGeneration", "hypervisors", "capacity")
OWNED_CONDITIONS = ("Ready",)
_MAX_HYPERVISORS = 1024
_SHOWN = 3


def pool_status(
    pool: Object, hypervisors: Iterable[Object], silent_agents: set[str], users: Sequence[str] = ()
) -> dict[str, Any]:
    """What the pool's status is to say. `users` are the volumes that its deletion waits for.

    Capacity is counted once per agent: two Hypervisors of one host report the same file system. A Shared pool is as
    large as the largest that anyone sees.
    """
    rows: list[dict[str, str]] = []
    sizes: dict[str, int] = {}
    for hypervisor in sorted(hypervisors, key=lambda one: str(one["metadata"]["name"])):
        report = _report_of(pool, hypervisor)
        if report is None:
            continue
        agent = hypervisor["spec"]["agentName"]
        silent = agent in silent_agents
        row = {"name": hypervisor["metadata"]["name"], "state": "Unknown" if silent else report["state"]}
        message = f"agent {agent} is silent" if silent else report.get("message")
        rows.append(row | {"message": message} if message else row)
        if "capacity" in report:
            sizes[agent] = max(sizes.get(agent, 0), quantity_bytes(report["capacity"]))
    generation = pool["metadata"]["generation"]
    ready = _deletion_waits_for(users) if users else _ready(pool, rows)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": merged(conditions_of(pool), [ready], generation=generation),
    }
    if rows:
        status["hypervisors"] = rows[:_MAX_HYPERVISORS]
    if sizes:
        shared = pool["spec"]["access"] == PoolAccess.SHARED
        status["capacity"] = format_bytes(max(sizes.values()) if shared else sum(sizes.values()))
    return status


def with_old_users(pool: Object, status: Mapping[str, Any]) -> dict[str, Any]:
    """The status, but who keeps a pool that is to go is as it was written last."""
    before, [ready] = find(pool, "Ready"), status["conditions"]
    if before is None or before["reason"] != Reason.IN_USE:
        return dict(status)
    return dict(status) | {"conditions": [ready | {"message": before["message"]}]}


def _report_of(pool: Object, hypervisor: Object) -> dict[str, Any] | None:
    reports = hypervisor.get("status", {}).get("pools") or []
    return next((report for report in reports if report["uid"] == pool["metadata"]["uid"]), None)


def _deletion_waits_for(volumes: Sequence[str]) -> Condition:
    # Before all else: whatever hosts say of it, it takes no new volume. That stays in their rows.
    count = f"{len(volumes)} volume{'' if len(volumes) == 1 else 's'}"
    shown = ", ".join(volumes[:_SHOWN]) + (", ..." if len(volumes) > _SHOWN else "")
    message = f"deletion waits for {count}: {shown}; it goes on once they and the machines that use them are deleted"
    return Condition("Ready", "False", Reason.IN_USE, message)


def _ready(pool: Object, rows: list[dict[str, str]]) -> Condition:
    usable = [row for row in rows if row["state"] == "Ready"]
    if usable:
        return Condition("Ready", "True", Reason.REACHABLE, f"{len(usable)} of {len(rows)} hypervisors can use it")
    if rows:
        said = "; ".join(f"{row['name']}: {row.get('message', row['state'])}" for row in rows[:3])
        return Condition("Ready", "False", Reason.UNREACHABLE, f"none of {len(rows)} hypervisors can use it: {said}")
    message = f"no hypervisor that can use pools of type {pool_type(pool)} reports it (see spec.hypervisorSelector)"
    return Condition("Ready", "False", Reason.NO_HYPERVISOR, message)
