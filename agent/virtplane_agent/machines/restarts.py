"""Whether, and how soon, a machine that ended by itself is started again (as a container is)."""

from datetime import UTC, datetime

from virtplane_api.reconcile.backoff import Recurrences
from virtplane_api.vocabulary import ExitReason, RestartPolicy
from virtplane_drivers.hypervisor.contract import Observed


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
        self._ends: Recurrences[str] = Recurrences()
        self._last: dict[str, datetime] = {}
        """The end that was counted last: each is looked at often."""

    def wait_s(self, uid: str, observed: Observed, *, now: datetime | None = None) -> float:
        """Seconds until the machine may be started again; 0 when at once, as after the first end."""
        last = observed.last_exit
        if last is None:
            return 0.0
        if self._last.get(uid) != last.time:
            self._last[uid] = last.time
            self._ends.add(uid, last.time.timestamp())
        return self._ends.wait_s(uid, (now or datetime.now(UTC)).timestamp())

    def forget(self, uid: str) -> None:
        """Of a machine that was stopped as asked, or is gone."""
        self._last.pop(uid, None)
        self._ends.forget(uid)
