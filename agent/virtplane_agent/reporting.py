"""How a pass reports: one status apply if it differs, not before a passing state has lasted, and Events on transitions.

'Starting' that lasts 300 ms is no news: it would double the writes of every start and make a dashboard flicker.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs, find
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import Object, Resource, uid_of
from virtplane_api.names import AGENT_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ENDED_AS_ASKED

PASSING_FOR_S = 1.0
"""A state that is about to change is reported once it has lasted this long."""


class Reporter:
    """Writes the agent's part of one kind's status."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        events: EventRecorder,
        put_written: Callable[[Object], None],
        *,
        owned: tuple[str, ...],
        owned_conditions: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._resource = resource
        self._events = events
        self._put_written = put_written
        self._owned = owned
        self._owned_conditions = owned_conditions
        self._clock = clock
        self._passing_since: dict[str, float] = {}

    async def report(self, obj: Object, status: Mapping[str, Any]) -> float | None:
        """Write `status` if it differs; or the seconds after which to ask again, when the state may still pass.

        Raises:
            ApiError: nothing was written.
        """
        uid = uid_of(obj)
        if not differs(obj, status, owned=self._owned, owned_conditions=self._owned_conditions):
            self._passing_since.pop(uid, None)
            return None
        if _is_passing(status):
            since = self._passing_since.setdefault(uid, self._clock())
            left_s = PASSING_FOR_S - (self._clock() - since)
            if left_s > 0:
                return left_s
        written = await self._client.apply_status(self._resource, obj, status, field_manager=AGENT_FIELD_MANAGER)
        self._passing_since.pop(uid, None)
        self._put_written(written)
        self._tell(obj, written)
        return None

    def forget(self, uid: str) -> None:
        """Of an object that is gone."""
        self._passing_since.pop(uid, None)

    def tell(self, obj: Object, reason: Reason, note: str, type_: Literal["Normal", "Warning"] = "Normal") -> None:
        """Record an Event of what was seen; no condition changes."""
        self._events.record(obj, reason=reason, action="Observing", note=note, type_=type_)

    def _tell(self, before: Object, after: Object) -> None:
        old, new = find(before, "Ready"), find(after, "Ready")
        if new is not None and (old is None or (old["status"], old["reason"]) != (new["status"], new["reason"])):
            waits = new["status"] == "Unknown" or new["reason"] == Reason.IN_USE
            self._events.record(
                after,
                reason=new["reason"],
                action="Reconciling",
                note=new["message"] or f"{after['kind']} is {new['reason']}",
                type_="Warning" if waits or find(after, "Stalled") is not None else "Normal",
            )
        last_exit = after["status"].get("lastExit")
        if last_exit is not None and last_exit != before.get("status", {}).get("lastExit"):
            asked = last_exit["reason"] in ENDED_AS_ASKED
            self._events.record(
                after,
                reason=last_exit["reason"],
                action="Observing",
                note=last_exit.get("message") or f"the machine stopped: {last_exit['reason']}",
                type_="Normal" if asked else "Warning",
            )


def _is_passing(status: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Reconciling" and c["reason"] in _PASSING for c in status.get("conditions", ()))


_PASSING = frozenset(
    {
        Reason.STARTING,
        Reason.RESTARTING,
        Reason.PAUSING,
        Reason.RESUMING,
        Reason.SUSPENDING,
        Reason.SHUTTING_DOWN,
        Reason.DELETING,
        Reason.IMPORTING,
        Reason.CREATING,
        Reason.VOLUME_NOT_READY,
        Reason.INTERFACES_CHANGING,
    }
)
