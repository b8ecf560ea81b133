"""The status of a VirtualNetwork, as a pure function of what is claimed in it and what the Hypervisors report of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from virtplane_api.host_networks import MAX_NETWORKS
from virtplane_api.kube.conditions import Condition, conditions_of, find, merged
from virtplane_api.kube.resources import Object
from virtplane_api.models.hypervisor import NetworkState
from virtplane_api.reasons import Reason
from virtplane_operator.networks import overlays
from virtplane_operator.networks.catalog import NotServed

OWNED = ("observedGeneration", "used", "free", "hypervisorCount", "hypervisors", *overlays.OWNED)
COUNTED = ("used", "free")
"""Of those: what changes with each machine, and is written at most once in a while (as are the names of its users)."""
OWNED_CONDITIONS = ("Ready",)
UNKNOWN: Literal["Unknown"] = "Unknown"
_MAX_HYPERVISORS = 1024
_MAX_COUNT = (1 << 53) - 1
"""What every JSON reader takes for a whole number; an IPv6 network has more addresses."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Row:
    """The network on one Hypervisor that has machines on it."""

    hypervisor: str
    state: str
    reason: str = ""
    message: str = ""

    @property
    def json(self) -> dict[str, str]:
        """As in status.hypervisors."""
        row = {"name": self.hypervisor, "state": self.state}
        return row | {"message": self.message} if self.message else row


def row_of(name: str, hypervisor: Object | None, network_uid: str, *, agent_is_silent: bool) -> Row:
    """What a Hypervisor says of a network that machines of it are on."""
    if hypervisor is None:
        return Row(name, UNKNOWN, Reason.NO_SUCH_HYPERVISOR, "there is no such Hypervisor any more")
    if agent_is_silent:
        return Row(name, UNKNOWN, Reason.AGENT_SILENT, f"agent {hypervisor['spec']['agentName']} is silent")
    report = report_of(hypervisor, network_uid)
    if report is None and is_full(hypervisor):
        message = f"it has {MAX_NETWORKS} networks, as many as a hypervisor can have, and this one is none of them"
        return Row(name, NetworkState.FAILED, Reason.TOO_MANY_NETWORKS, message)
    if report is None:
        return Row(name, UNKNOWN, Reason.NETWORK_NOT_READY, "it has not said yet whether it has the network")
    if report["state"] == NetworkState.READY:
        return Row(name, NetworkState.READY)
    message = report.get("message", "")
    return Row(name, NetworkState.FAILED, report.get("reason", Reason.NETWORK_ERROR), message)


def report_of(hypervisor: Object, network_uid: str) -> Mapping[str, Any] | None:
    """What the Hypervisor reports of the network, if anything."""
    return next((report for report in _reports(hypervisor) if report["uid"] == network_uid), None)


def is_full(hypervisor: Object) -> bool:
    """Whether it takes no network that it has not got."""
    return len(_reports(hypervisor)) >= MAX_NETWORKS


def _reports(hypervisor: Object) -> Sequence[Mapping[str, Any]]:
    return hypervisor.get("status", {}).get("networks") or []


def network_status(
    network: Object,
    *,
    used: int,
    free: int | None,
    rows: Sequence[Row],
    not_served: NotServed | None,
    no_place: str = "",
    users: Sequence[str] = (),
) -> dict[str, Any]:
    """What the network's status is to say.

    `free` is None where the network manages no addresses; `no_place` is why no Hypervisor can have it, empty: one can;
    `users` are those that its deletion waits for.
    """
    generation = network["metadata"]["generation"]
    ready = _deletion_waits_for(users) if users else _ready(rows, used, not_served, no_place)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "used": min(used, _MAX_COUNT),
        "hypervisorCount": min(len(rows), _MAX_HYPERVISORS),
        "conditions": merged(conditions_of(network), [ready], generation=generation),
    }
    if free is not None:
        status["free"] = max(0, min(free, _MAX_COUNT))
    if rows:
        status["hypervisors"] = [row.json for row in rows[:_MAX_HYPERVISORS]]
    return status


def with_old_figures(network: Object, status: Mapping[str, Any]) -> dict[str, Any]:
    """The status, but what changes with each machine that comes or goes is as it was written last."""
    current, before, [ready] = network.get("status", {}), find(network, "Ready"), status["conditions"]
    kept = dict(status) | {name: current[name] for name in COUNTED if name in current}
    if before is not None and before["reason"] == ready["reason"] == Reason.IN_USE:
        kept["conditions"] = [ready | {"message": before["message"]}]
    return kept


def _deletion_waits_for(users: Sequence[str]) -> Condition:
    # Before all else: whatever else is wrong with it, it takes no new machine. What hosts say stays in their rows.
    return Condition("Ready", "False", Reason.IN_USE, f"deletion waits for {' and '.join(users)}")


def _ready(rows: Sequence[Row], used: int, not_served: NotServed | None, no_place: str) -> Condition:
    if not_served is not None:
        return Condition("Ready", "False", not_served.reason, not_served.message)
    failed = [row for row in rows if row.state == NetworkState.FAILED]
    if failed:
        return Condition("Ready", "False", failed[0].reason, _said(failed, len(rows), "failed on"))
    # A silent agent before one that has not spoken yet: that one will.
    unknown = sorted((row for row in rows if row.state == UNKNOWN), key=_is_only_new)
    if unknown:
        return Condition("Ready", UNKNOWN, unknown[0].reason, _said(unknown, len(rows), "nothing is known of"))
    if rows:
        return Condition("Ready", "True", Reason.SERVED, f"{_hypervisors(len(rows))} with machines on it")
    if no_place:
        return Condition("Ready", "False", Reason.NO_HYPERVISOR, no_place)
    if used:
        return Condition("Ready", "True", Reason.NO_MACHINES, "the machines on it have no place")
    return Condition("Ready", "True", Reason.NO_MACHINES, "no machine is on it")


def _is_only_new(row: Row) -> bool:
    return row.reason == Reason.NETWORK_NOT_READY


def _said(rows: Sequence[Row], of: int, what: str) -> str:
    said = "; ".join(f"{row.hypervisor}: {row.message or row.reason}" for row in rows[:_SHOWN])
    return f"{what} {len(rows)} of {_hypervisors(of)}: {said}"


def _hypervisors(count: int) -> str:
    return f"{count} hypervisor{'' if count == 1 else 's'}"
