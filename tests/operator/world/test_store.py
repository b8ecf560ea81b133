"""The operator's copy of the cluster: what feeds it is not in step, and it is never taken back."""

from itertools import permutations
from typing import Any

import pytest

from tests.operator.objects import DELETED_AT, NAMESPACE, vm
from virtplane_api.kube.resources import VIRTUAL_MACHINES, VOLUMES, Key, Object
from virtplane_operator.world import Store

WEB = Key(NAMESPACE, "web")


class Told:
    """A store, and the versions before and after each change that it told of."""

    def __init__(self) -> None:
        self.store = Store()
        self.changes: list[tuple[str, int | None, int | None]] = []
        self.store.listen(self._take)

    def _take(self, _resource: object, key: Key, old: Object | None, new: Object | None) -> None:
        self.changes.append((key.name, _version(old), _version(new)))

    def put(self, version: int, **changes: Any) -> None:
        self.store.put(VIRTUAL_MACHINES, vm(version=version, **changes))

    @property
    def version(self) -> int | None:
        """Of what the store holds."""
        return _version(self.store.get(VIRTUAL_MACHINES, WEB))


def _version(obj: Object | None) -> int | None:
    return None if obj is None else int(obj["metadata"]["resourceVersion"])


@pytest.fixture
def told() -> Told:
    return Told()


def test_what_is_told_is_held_under_its_kind_and_name(told: Told) -> None:
    told.put(1)
    assert told.version == 1
    assert told.store.get(VOLUMES, WEB) is None
    assert told.store.get(VIRTUAL_MACHINES, Key("lab", "web")) is None
    assert list(told.store.all(VIRTUAL_MACHINES)) == [WEB]
    assert told.changes == [("web", None, 1)]


@pytest.mark.parametrize("order", list(permutations([9, 10, 11])), ids=str)
def test_in_whichever_order_versions_come_the_newest_stays(told: Told, order: tuple[int, ...]) -> None:
    for version in order:
        told.put(version)
    assert told.version == 11
    assert told.changes[-1][2] == 11
    assert all(old is None or (new is not None and new > old) for _, old, new in told.changes)


def test_the_same_version_is_no_change(told: Told) -> None:
    told.put(5)
    told.put(5)
    assert told.changes == [("web", None, 5)]


def test_listeners_hear_of_a_change_in_their_order_when_it_is_held_already() -> None:
    store, heard = Store(), list[str]()
    store.listen(lambda *_: heard.append(f"first, holds {len(store.all(VIRTUAL_MACHINES))}"))
    store.listen(lambda *_: heard.append("second"))
    store.put(VIRTUAL_MACHINES, vm())
    assert heard == ["first, holds 1", "second"]


# --- answers to writes of ours ----------------------------------------------------------------------------------------


def test_the_answer_to_a_write_is_ahead_of_the_watch_which_does_not_take_it_back(told: Told) -> None:
    told.put(1)
    told.store.put_written(VIRTUAL_MACHINES, vm(version=8))
    told.put(7)
    told.put(8)
    assert told.changes == [("web", None, 1), ("web", 1, 8)]


def test_the_answer_to_a_write_does_not_bring_back_what_has_gone(told: Told) -> None:
    told.put(1)
    told.store.remove(VIRTUAL_MACHINES, vm(version=2))
    told.store.put_written(VIRTUAL_MACHINES, vm(version=3))
    assert told.version is None


def test_the_answer_to_a_write_says_nothing_of_another_object_of_the_name(told: Told) -> None:
    told.put(9, uid="vm-2")
    told.store.put_written(VIRTUAL_MACHINES, vm(version=10, uid="vm-1"))
    assert told.version == 9


@pytest.mark.parametrize(
    ("finalizers", "gone"), [([], True), (["someone.else/hold"], False)], ids=["ours was the last", "another is left"]
)
def test_an_object_that_loses_its_last_finalizer_while_it_is_deleted_is_gone_at_once(
    told: Told,
    finalizers: list[str],
    gone: bool,  # noqa: FBT001
) -> None:
    told.put(1)
    ending = {"deletionTimestamp": DELETED_AT, "finalizers": finalizers}
    told.store.put_written(VIRTUAL_MACHINES, vm(version=2, metadata=ending))
    assert (told.version is None) == gone


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_deletion_is_told_once(told: Told) -> None:
    told.put(1)
    told.store.remove(VIRTUAL_MACHINES, vm(version=2))
    told.store.remove(VIRTUAL_MACHINES, vm(version=2))
    assert told.version is None
    assert told.changes == [("web", None, 1), ("web", 1, None)]


def test_the_deletion_of_an_earlier_object_says_nothing_of_the_one_that_has_its_name_now(told: Told) -> None:
    told.put(1, uid="vm-1")
    told.put(5, uid="vm-2")
    told.store.remove(VIRTUAL_MACHINES, vm(version=4, uid="vm-1"))
    assert told.version == 5


# --- full lists -------------------------------------------------------------------------------------------------------


def test_a_list_brings_what_is_new_and_ends_what_a_broken_watch_kept(told: Told) -> None:
    told.put(1)
    told.store.put(VIRTUAL_MACHINES, vm("lost", uid="vm-2", version=2))
    told.store.replace_all(VIRTUAL_MACHINES, [vm(version=4), vm("new", uid="vm-3", version=3)], "5")
    assert {key.name for key in told.store.all(VIRTUAL_MACHINES)} == {"web", "new"}
    assert told.changes[2:] == [("web", 1, 4), ("new", None, 3), ("lost", 2, None)]


def test_a_list_does_not_end_what_was_made_after_it_was_read(told: Told) -> None:
    told.put(9)
    told.store.replace_all(VIRTUAL_MACHINES, [], "8")
    assert told.version == 9
    told.store.replace_all(VIRTUAL_MACHINES, [], "9")
    assert told.version is None


def test_a_list_does_not_take_back_what_a_watch_told_since(told: Told) -> None:
    told.put(9)
    told.store.replace_all(VIRTUAL_MACHINES, [vm(version=3)], "8")
    assert told.version == 9


def test_a_list_that_was_read_before_a_deletion_does_not_bring_the_object_back(told: Told) -> None:
    told.put(5)
    told.store.remove(VIRTUAL_MACHINES, vm(version=7))
    told.store.replace_all(VIRTUAL_MACHINES, [vm(version=5)], "6")
    assert told.version is None
    assert told.changes == [("web", None, 5), ("web", 5, None)]


def test_the_late_echo_of_what_a_list_ended_does_not_bring_it_back(told: Told) -> None:
    told.put(1)
    told.store.replace_all(VIRTUAL_MACHINES, [], "5")
    told.put(4)
    assert told.version is None


def test_an_object_that_was_made_again_under_the_name_of_one_that_went_is_another(told: Told) -> None:
    told.put(5)
    told.store.remove(VIRTUAL_MACHINES, vm(version=7))
    told.store.replace_all(VIRTUAL_MACHINES, [vm(version=8, uid="vm-2")], "9")
    assert told.version == 8


def test_what_is_remembered_of_objects_that_went_is_bounded(told: Told) -> None:
    for number in range(10_001):
        machine = vm(uid=f"vm-{number}")
        told.store.put(VIRTUAL_MACHINES, machine)
        told.store.remove(VIRTUAL_MACHINES, machine)
    assert len(told.store._gone) == 10_000
    told.store.put(VIRTUAL_MACHINES, vm(uid="vm-10000", version=2))
    assert told.version is None  # the last one is known


def test_a_list_of_one_kind_says_nothing_of_the_others(told: Told) -> None:
    told.put(1)
    told.store.replace_all(VOLUMES, [], "100")
    assert told.version == 1
