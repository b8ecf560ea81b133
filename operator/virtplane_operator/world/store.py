"""The operator's copy of all objects, fed from three sides: kopf's watches, our own lists, the answers to our writes.

The three are not in step. What is older than what is here already, by resourceVersion, is ignored: an answer to a write
puts the copy ahead of the watch, whose late echo must not take it back. (Kubernetes 1.35 and later promise that
resourceVersions of one kind compare as numbers; etcd always gave such.)
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from virtplane_api.kube.resources import Key, Object, Resource, key_of, uid_of

_REMEMBERED = 10_000

ChangeListener = Callable[[Resource, Key, Object | None, Object | None], None]
"""Told of the kind, the key, and the object before and after; None: there was, or is, none."""


class Store:
    """Objects by kind and key. Whoever reads one must not change it."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Key, Object]] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        """UIDs of objects that went, the last ones: a list that was read before must not bring them back."""
        self._listeners: list[ChangeListener] = []

    def listen(self, listener: ChangeListener) -> None:
        """Call `listener` after each change, in the order of listening."""
        self._listeners.append(listener)

    def get(self, resource: Resource, key: Key) -> Object | None:
        """The object, or None."""
        return self._objects.get(resource.plural, {}).get(key)

    def all(self, resource: Resource) -> Mapping[Key, Object]:
        """All objects of a kind."""
        return self._objects.setdefault(resource.plural, {})

    def put(self, resource: Resource, obj: Object) -> None:
        """Take in what a watch or a list said."""
        key = key_of(obj)
        objects = self._objects.setdefault(resource.plural, {})
        old = objects.get(key)
        if uid_of(obj) in self._gone or (old is not None and version_of(old) >= version_of(obj)):
            return
        objects[key] = obj
        self._tell(resource, key, old, obj)

    def put_written(self, resource: Resource, obj: Object) -> None:
        """Take in the answer to a write of ours, unless the object has gone meanwhile: that must not bring it back."""
        old = self.get(resource, key_of(obj))
        if old is not None and uid_of(old) == uid_of(obj):
            if _is_finished(obj):
                self.remove(resource, obj)
            else:
                self.put(resource, obj)

    def remove(self, resource: Resource, obj: Object) -> None:
        """Take in a deletion; of an earlier object of the name it says nothing."""
        key = key_of(obj)
        old = self.get(resource, key)
        if old is not None and uid_of(old) == uid_of(obj):
            del self._objects[resource.plural][key]
            self._gone[uid_of(old)] = None
            if len(self._gone) > _REMEMBERED:
                self._gone.popitem(last=False)
            self._tell(resource, key, old, None)

    def replace_all(self, resource: Resource, listed: Iterable[Object], list_version: str) -> None:
        """Take in a full list: what it lacks and is not newer than the list is gone, whatever the watches missed."""
        present: set[Key] = set()
        for obj in listed:
            present.add(key_of(obj))
            self.put(resource, obj)
        gone = [
            obj
            for key, obj in self.all(resource).items()
            if key not in present and version_of(obj) <= int(list_version)
        ]
        for obj in gone:
            self.remove(resource, obj)

    def _tell(self, resource: Resource, key: Key, old: Object | None, new: Object | None) -> None:
        for listener in self._listeners:
            listener(resource, key, old, new)


def version_of(obj: Object) -> int:
    """metadata.resourceVersion as a number."""
    return int(obj["metadata"]["resourceVersion"])


def _is_finished(obj: Object) -> bool:
    """Whether the write that this answers was the last one: the API server deletes what has no finalizer left."""
    metadata = obj["metadata"]
    return "deletionTimestamp" in metadata and not metadata.get("finalizers")
