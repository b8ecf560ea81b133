"""What can go wrong with fake storage, set by a test while the driver is at work."""

from dataclasses import dataclass, field

from virtplane_drivers.storage.contract import Failure


@dataclass(slots=True)
class _Planned:
    uid: str | None
    failure: Failure
    times: int


@dataclass(slots=True)
class Faults:
    """Faults and delays. All off at first; each may be set and unset at any time."""

    unreachable: str | None = None
    """Why no pool can be reached: every verb but `events` then raises Unavailable with this message."""
    call_s: float = 0.0
    """How long each verb takes before it does anything: slow or hung storage."""
    lose_hints: bool = False
    """No event is sent: who relies on hints alone then waits for ever."""
    lost_replies: int = 0
    """So many calls of `create` and `delete` do their work and raise Unavailable all the same."""
    _planned: list[_Planned] = field(default_factory=list)

    def fail_create(self, uid: str | None, failure: Failure, *, times: int = 1) -> None:
        """The next `times` attempts at making the volume (None: any volume) end with `failure`."""
        self._planned.append(_Planned(uid, failure, times))

    def next_failure(self, uid: str) -> Failure | None:
        """Takes the failure planned for this attempt, if any."""
        for planned in self._planned:
            if planned.uid in (None, uid):
                planned.times -= 1
                if planned.times <= 0:
                    self._planned.remove(planned)
                return planned.failure
        return None

    def reply_is_lost(self) -> bool:
        """Takes one of the lost replies, if any."""
        if self.lost_replies == 0:
            return False
        self.lost_replies -= 1
        return True
