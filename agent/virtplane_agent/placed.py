"""The objects that are placed on this agent, by UID: what is on a host is never known by its name."""

from collections.abc import Callable, ValuesView

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import Key, Object, Resource, uid_of


class Placed:
    """An informer on `status.placement.agentName`. A change names the UID that was there and the one that is."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        agent_name: str,
        on_change: Callable[[str], None],
        *,
        keep: Callable[[Object], Object] = lambda obj: obj,
    ) -> None:
        """`keep` is what of an object is kept, of what is large."""
        selector = f"status.placement.agentName={agent_name}"
        self.informer = Informer(client, resource, self._changed, field_selector=selector, keep=keep)
        self._keep = keep
        self._on_change = on_change
        self._uids: dict[Key, str] = {}
        self._by_uid: dict[str, Object] = {}

    def get(self, uid: str) -> Object | None:
        """The object, or None when none of that UID is placed here as far as we heard."""
        return self._by_uid.get(uid)

    def all(self) -> ValuesView[Object]:
        """All that is placed here."""
        return self._by_uid.values()

    def put_written(self, obj: Object) -> None:
        """Take in the answer to a write of ours, ahead of its echo in the watch."""
        uid = uid_of(obj)
        known = self._by_uid.get(uid)
        if known is not None and _version(known) < _version(obj):
            self._by_uid[uid] = self._keep(obj)

    def _changed(self, key: Key) -> None:
        obj = self.informer.objects.get(key)
        before = self._uids.get(key)
        uid = uid_of(obj) if obj is not None else None
        if before is not None and before != uid:
            self._by_uid.pop(before, None)
            self._on_change(before)
        if obj is None or uid is None:
            self._uids.pop(key, None)
            return
        self._uids[key] = uid
        known = self._by_uid.get(uid)
        # Our own write's answer may be ahead of the watch.
        if known is None or _version(known) < _version(obj):
            self._by_uid[uid] = obj
            self._on_change(uid)


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])
