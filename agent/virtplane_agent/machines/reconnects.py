"""Adapters that are cut off, as the program behind their network has ended, until they are plugged anew: who is told,
and how soon it is done again. What ends over and over must not keep its guest busy.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.reconcile.backoff import Recurrences
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Observed

Tell = Callable[[Object, Reason, str, Literal["Normal", "Warning"]], None]
"""Records an Event of a machine."""


def cut_off(observed: Observed) -> frozenset[str]:
    """Names of the adapters that are."""
    return frozenset(nic.name for nic in observed.nics if nic.is_cut_off)


class Reconnects:
    """What is known is known in memory: an agent that restarts tells again what is still so, and counts from zero."""

    def __init__(self, tell: Tell, clock: Callable[[], datetime]) -> None:
        self._tell = tell
        self._clock = clock
        self._cut_off: dict[str, tuple[datetime | None, frozenset[str]]] = {}
        """By machine: which run, and its adapters that have not come back yet."""
        self._returns: Recurrences[str] = Recurrences(unpunished=0)
        """By machine: that an adapter came back."""

    def wait_s(self, uid: str) -> float:
        """Seconds until an adapter may be plugged anew; 0 when at once, as the first time."""
        return self._returns.wait_s(uid, self._clock().timestamp())

    def saw(self, machine: Object, observed: Observed) -> None:
        """Tell of what was cut off, and of what came back. Of a machine that does not run nothing is known any more."""
        uid = uid_of(machine)
        if observed.power is PowerState.UNKNOWN:
            return
        run, before = self._cut_off.pop(uid, (None, frozenset()))
        if run != observed.started_at:
            before = frozenset()  # a start joins all of them
        now = cut_off(observed)
        back = before & ({nic.name for nic in observed.nics} - now)
        if lost := now - before:
            note = "what joins it to its network has ended: it is plugged anew, or joined at the next start"
            self._tell(machine, Reason.INTERFACE_CUT_OFF, f"{_named(lost)}: {note}", "Warning")
        if back:
            self._returns.add(uid, self._clock().timestamp())
            note = "it was taken out and plugged anew; what the guest had open by it is lost"
            self._tell(machine, Reason.INTERFACE_RECONNECTED, f"{_named(back)}: {note}", "Normal")
        left = ((before | now) - back) & {nic.name for nic in observed.defined_nics}
        if left:
            self._cut_off[uid] = (observed.started_at, left)

    def forget(self, uid: str) -> None:
        """Of a machine that is gone from here."""
        self._cut_off.pop(uid, None)
        self._returns.forget(uid)


def _named(names: frozenset[str]) -> str:
    return f"interface {', '.join(sorted(names))}"
