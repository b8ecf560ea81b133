"""Doubles of what an agent talks to beside its drivers: an API server in memory, a recorder of Events, a clock."""

import copy
import itertools
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import Key, Object, Resource, key_of, uid_of


class InMemoryClient(KubeClient):
    """A double of the API server, for one writer: `get`, `create` and status applies, with their resourceVersions.

    Not in it: schema, admission, rights, watches. Of server-side apply it knows that what others wrote stays, and that
    what the writer leaves out goes.
    """

    def __init__(self) -> None:
        self.applied: list[tuple[str, Object]] = []
        """Name and status of every apply that was taken, in order."""
        self.errors: deque[ApiError] = deque()
        """What the next requests end in."""
        self._objects: dict[tuple[str, Key], Object] = {}
        self._mine: dict[str, tuple[set[str], set[str]]] = {}
        self._versions = itertools.count(100)

    def put(self, resource: Resource, obj: Object) -> Object:
        """What somebody else wrote; returns it under its new resourceVersion."""
        stored = copy.deepcopy(obj)
        stored["metadata"]["resourceVersion"] = str(next(self._versions))
        self._objects[resource.plural, key_of(stored)] = stored
        return copy.deepcopy(stored)

    def remove(self, resource: Resource, obj: Object) -> None:
        """It is gone."""
        del self._objects[resource.plural, key_of(obj)]

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        self._meet()
        return copy.deepcopy(self._stored(resource, Key(namespace, name)))

    async def create(self, resource: Resource, obj: Object, *, field_manager: str) -> Object:
        self._meet()
        if (resource.plural, key_of(obj)) in self._objects:
            raise AlreadyExists(f"{key_of(obj)} exists", status=409, reason="AlreadyExists")
        return self.put(resource, obj | {"metadata": {"uid": f"{key_of(obj)}-uid", "generation": 1} | obj["metadata"]})

    async def apply_status(
        self, resource: Resource, read: Object, status: Mapping[str, Any], *, field_manager: str
    ) -> Object:
        self._meet()
        stored = self._stored(resource, key_of(read))
        if stored["metadata"]["resourceVersion"] != read["metadata"]["resourceVersion"]:
            raise Conflict("the object has been modified", status=409, reason="Conflict")
        fields, types = self._mine.get(uid_of(stored), (set(), set()))
        before = stored.get("status", {})
        conditions = {one["type"]: one for one in before.get("conditions", []) if one["type"] not in types}
        conditions |= {one["type"]: one for one in status.get("conditions", [])}
        after = {field: value for field, value in before.items() if field not in fields} | dict(status)
        written = self.put(resource, stored | {"status": after | {"conditions": list(conditions.values())}})
        own = {one["type"] for one in status.get("conditions", [])}
        self._mine[uid_of(stored)] = (set(status) - {"conditions"}, own)
        self.applied.append((key_of(read).name, copy.deepcopy(dict(status))))
        return written

    def _stored(self, resource: Resource, key: Key) -> Object:
        if (resource.plural, key) not in self._objects:
            raise NotFound(f"{resource.plural} {key} not found", status=404, reason="NotFound")
        return self._objects[resource.plural, key]

    def _meet(self) -> None:
        if self.errors:
            raise self.errors.popleft()


class EventsDouble(EventRecorder):
    """Keeps what it is told instead of writing it, repetitions too."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, str]] = []
        """Type, reason and note."""

    def record(
        self, regarding: Object, *, reason: str, action: str, note: str, type_: Literal["Normal", "Warning"] = "Normal"
    ) -> None:
        self.said.append((type_, reason, note))


class Clock:
    """A time that stands still until a test moves it."""

    def __init__(self) -> None:
        self._start = self.now = datetime(2026, 11, 24, 10, tzinfo=UTC)

    def monotonic(self) -> float:
        return (self.now - self._start).total_seconds()

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
