"""Events of objects (events.k8s.io/v1), written beside the work and never in its way.

An Event says that something changed, once: the same words about the same object are not repeated within ten minutes.
When the API server is slow or away, Events are dropped, never waited for.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Literal

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiError
from virtplane_api.kube.resources import EVENTS, Object

_log = logging.getLogger(__name__)

_REPEAT_AFTER_S = 600.0
_REMEMBERED = 4096
_QUEUED = 1000
_MAX_NOTE_BYTES = 1024


class EventRecorder:
    """Writes Events as one controller; `run` does the writing until it is cancelled."""

    def __init__(self, client: KubeClient, *, controller: str, instance: str) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance
        self._queue: asyncio.Queue[Object] = asyncio.Queue(_QUEUED)
        self._said: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def record(
        self, regarding: Object, *, reason: str, action: str, note: str, type_: Literal["Normal", "Warning"] = "Normal"
    ) -> None:
        """Say what happened to an object. `reason` and `action` are CamelCase words, `note` is for people."""
        metadata = regarding["metadata"]
        said = (metadata["uid"], reason, note)
        now = time.monotonic()
        if now - self._said.get(said, -_REPEAT_AFTER_S) < _REPEAT_AFTER_S:
            return
        self._said[said] = now
        self._said.move_to_end(said)
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        namespace = metadata.get("namespace", "default")
        event = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"generateName": f"{metadata['name'][:200].rstrip('.-')}-", "namespace": namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": type_,
            "reason": reason,
            "action": action,
            "note": note.encode()[:_MAX_NOTE_BYTES].decode(errors="ignore"),
            "reportingController": self._controller,
            "reportingInstance": self._instance[:128],
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
        }
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            _log.warning("event dropped, %d are waiting: %s %s", _QUEUED, reason, note)

    async def run(self) -> None:
        """Write what was recorded, in order, for ever."""
        while True:
            event = await self._queue.get()
            try:
                await self._client.create(EVENTS, event, field_manager=self._controller)
            except ApiError as error:
                _log.warning("event %s of %s not written: %s", event["reason"], event["regarding"]["name"], error)
