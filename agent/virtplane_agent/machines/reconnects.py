"""Adapters that are cut off, as the program behind their network has ended, until they are plugged anew: who is told,
and how soon it is done again. What ends over and over must not keep its guest busy.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Observed

_FIRST_S = 5.0
_CAP_S = 300.0
_STABLE_S = 600.0

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
        self._last: dict[str, tuple[datetime, int]] = {}
        """By machine: when an adapter last came back, and how often within ten minutes of the time before."""

    def wait_s(self, uid: str) -> float:
        """Seconds until an adapter may be plugged anew; 0 when at once.

        The first time is at once; after one within the last ten minutes it waits 5 s, doubling up to 300.
        """
        if uid not in self._last:
            return 0.0
        at, count = self._last[uid]
        passed_s = (self._clock() - at).total_seconds()
        delay_s = min(_CAP_S, _FIRST_S * 2.0 ** (count - 1))
        # Less than nothing: the host's clock was put back.
        return delay_s - passed_s if 0 <= passed_s < delay_s else 0.0

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
            self._count(uid)
            note = "it was taken out and plugged anew; what the guest had open by it is lost"
            self._tell(machine, Reason.INTERFACE_RECONNECTED, f"{_named(back)}: {note}", "Normal")
        left = ((before | now) - back) & {nic.name for nic in observed.defined_nics}
        if left:
            self._cut_off[uid] = (observed.started_at, left)

    def forget(self, uid: str) -> None:
        """Of a machine that is gone from here."""
        self._cut_off.pop(uid, None)
        self._last.pop(uid, None)

    def _count(self, uid: str) -> None:
        at, count = self._last.get(uid, (self._clock(), 0))
        is_recent = 0 <= (self._clock() - at).total_seconds() < _STABLE_S
        self._last[uid] = (self._clock(), min(count, 30) + 1 if is_recent else 1)


def _named(names: frozenset[str]) -> str:
    return f"interface {', '.join(sorted(names))}"
