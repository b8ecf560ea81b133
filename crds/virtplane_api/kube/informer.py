"""A local copy of what the API server selects, kept by list and watch.

The copy may be old, never wrong for long: a watch that ends is taken up where it ended, one that the server calls
expired (410) is listed anew, and every `relist_every_s` the list is read again, because a watch that broke silently
loses deletions for good. Every change of the copy names its key to `on_change`; what changed is not told, as nobody
may branch on it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from http import HTTPStatus

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiError, ApiUnavailable, Expired
from virtplane_api.kube.resources import Key, Object, Resource, key_of

_log = logging.getLogger(__name__)

_WATCH_S = 300
_RETRY_MAX_S = 10.0


class Informer:
    """The selected objects of one kind. `run` keeps them current until it is cancelled."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        on_change: Callable[[Key], None],
        *,
        namespace: str = "",
        field_selector: str = "",
        relist_every_s: float = 600.0,
        keep: Callable[[Object], Object] = lambda obj: obj,
    ) -> None:
        """`keep` is what of an object is kept, of what is large. Without a namespace: of all."""
        self.resource = resource
        self.objects: dict[Key, Object] = {}
        self.synced = asyncio.Event()
        """Set once the first list is in `objects`."""
        self.last_heard_at = time.monotonic()
        """Monotonic time of the last answer of the server."""
        self._client = client
        self._on_change = on_change
        self._namespace = namespace
        self._field_selector = field_selector
        self._relist_every_s = relist_every_s
        self._keep = keep
        self._version = ""
        self._listed_at = 0.0

    async def run(self) -> None:
        """List, watch, and repair, for ever."""
        retry_s = 0.1
        while True:
            try:
                if not self._version or time.monotonic() - self._listed_at > self._relist_every_s:
                    await self._list()
                await self._watch()
                retry_s = 0.1
            except Expired:
                self._version = ""
            except ApiError as error:
                wait_s = max(retry_s, error.retry_after_s if isinstance(error, ApiUnavailable) else retry_s)
                _log.warning("watch of %s: %s; again in %.1f s", self.resource.plural, error, wait_s)
                await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311  # spreads agents, keeps no secret
                retry_s = min(retry_s * 2, _RETRY_MAX_S)

    async def _list(self) -> None:
        items, version = await self._client.list_all(
            self.resource, self._namespace, field_selector=self._field_selector
        )
        listed = {key_of(item): self._keep(item) for item in items}
        changed = [key for key in self.objects if key not in listed]
        changed += [key for key, item in listed.items() if _version_of(self.objects.get(key)) != _version_of(item)]
        self.objects = listed
        self._version = version
        self._listed_at = self.last_heard_at = time.monotonic()
        self.synced.set()
        for key in changed:
            self._on_change(key)

    async def _watch(self) -> None:
        left_s = self._relist_every_s - (time.monotonic() - self._listed_at)
        timeout_s = max(1, int(min(_WATCH_S * random.uniform(0.8, 1.2), left_s)))  # noqa: S311
        async with self._client.watch(
            self.resource,
            self._version,
            namespace=self._namespace,
            field_selector=self._field_selector,
            timeout_s=timeout_s,
        ) as events:
            async for event in events:
                self.last_heard_at = time.monotonic()
                self._take(event["type"], event["object"])

    def _take(self, event_type: str, obj: Object) -> None:
        if event_type == "ERROR":
            code = int(obj.get("code", 500))
            message = str(obj.get("message", ""))
            if code == HTTPStatus.GONE:
                raise Expired(message, status=code)
            raise ApiUnavailable(message, status=code)
        self._version = obj["metadata"]["resourceVersion"]
        if event_type == "BOOKMARK":
            return
        key = key_of(obj)
        if event_type == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = self._keep(obj)
        self._on_change(key)


def _version_of(obj: Object | None) -> str:
    return "" if obj is None else str(obj["metadata"]["resourceVersion"])
