"""Two machines that hold one address, MAC address or host port: the younger one is told.

Two operators can give one address twice around a change of their Lease, as neither sees what the other one has not
written yet. Neither machine is stopped for it; a person decides which of them is made anew.
"""

from dataclasses import dataclass

from virtplane_api.kube.conditions import find
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object, uid_of
from virtplane_operator.networks.claims import Claims
from virtplane_operator.world import Store

_NOW = "9999"
"""Later than every time."""


@dataclass(frozen=True, slots=True)
class Contested:
    """What another machine held before this one."""

    reason: str
    message: str


def contested(store: Store, claims: Claims, machine: Object) -> Contested | None:
    """What the machine holds and an older placement holds as well; None: nothing."""
    for contest in claims.contests(uid_of(machine)):
        for holder in contest.others:
            other = store.get(VIRTUAL_MACHINES, holder.key)
            if other is not None and uid_of(other) == holder.uid and _age(other) < _age(machine):
                message = f"{contest.what} is held by VirtualMachine {holder} as well; make one of them anew"
                return Contested(contest.reason, message)
    return None


def _age(machine: Object) -> tuple[str, str, str]:
    """Orders placements by the second in which they were made, and then in a way that every pass agrees on."""
    placed = find(machine, "Placed")
    # Not said yet: it was placed in this moment.
    since = placed["lastTransitionTime"] if placed is not None and placed["status"] == "True" else _NOW
    return str(since), str(machine["metadata"]["creationTimestamp"]), uid_of(machine)
