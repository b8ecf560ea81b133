"""Whether, and how soon, a machine that ended by itself is started again (as a container is)."""

from datetime import UTC, datetime

from virtplane_api.vocabulary import ExitReason, RestartPolicy
from virtplane_drivers.hypervisor.contract import Observed

_FIRST_S = 5.0
_CAP_S = 300.0
_STABLE_S = 600.0


def may_restart(policy: RestartPolicy, reason: ExitReason) -> bool:
    """Whether the policy starts a machine again that ended so. A guest that shuts itself down has not failed."""
    match policy:
        case RestartPolicy.ALWAYS:
            return True
        case RestartPolicy.ON_FAILURE:
            return reason is not ExitReason.GUEST_SHUTDOWN
        case RestartPolicy.NEVER:
            return False


class Restarts:
    """Counts the ends that nobody asked for, by machine. In memory: an agent that restarts starts from zero."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[datetime, int]] = {}

    def wait_s(self, uid: str, observed: Observed, *, now: datetime | None = None) -> float:
        """Seconds until the machine may be started again; 0 when at once.

        The first start after an end is at once; after further ends within ten minutes of the one before it waits 5 s,
        doubling up to 300.
        """
        last = observed.last_exit
        if last is None:
            return 0.0
        before, count = self._counted.get(uid, (None, 0))
        if before != last.time:
            recent = before is not None and (last.time - before).total_seconds() < _STABLE_S
            count = count + 1 if recent else 0
            self._counted[uid] = (last.time, count)
        if count == 0:
            return 0.0
        delay_s = min(_CAP_S, _FIRST_S * 2.0 ** (count - 1))
        passed_s = ((now or datetime.now(UTC)) - last.time).total_seconds()
        # Bounded: the host's clock may have been put back.
        return min(delay_s, max(0.0, delay_s - passed_s))

    def forget(self, uid: str) -> None:
        """Of a machine that was stopped as asked, or is gone."""
        self._counted.pop(uid, None)
