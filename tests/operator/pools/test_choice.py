"""Which pool a volume lives in."""

import pytest

from tests.operator.objects import DELETED_AT, pool, store_of
from virtplane_api.kube.resources import Object
from virtplane_api.names import DEFAULT_POOL_ANNOTATION
from virtplane_operator.pools.choice import NoPool, default_pool, pool_for, pool_type


def default(name: str, *, made_at: str = "09:00", mark: str = "true", deleted: bool = False) -> Object:
    ending = {"deletionTimestamp": DELETED_AT} if deleted else {}
    annotations = {"annotations": {DEFAULT_POOL_ANNOTATION: mark}, "creationTimestamp": f"2026-11-24T{made_at}:00Z"}
    return pool(name, metadata=annotations | ending)


DEFAULTS = [
    ("none", [], None),
    ("none is annotated", [pool("a"), pool("b")], None),
    ("the one that is annotated", [pool("a"), default("b"), pool("c")], "b"),
    ("the newest of several", [default("a"), default("b", made_at="11:00"), default("c", made_at="10:00")], "b"),
    ("of the same second the first by name", [default("b"), default("a"), default("c")], "a"),
    ("another value is no yes", [default("a", mark="false"), default("b", mark="True")], None),
    ("one that is being deleted is passed over", [default("a"), default("b", made_at="11:00", deleted=True)], "a"),
]


@pytest.mark.parametrize(("pools", "expected"), [row[1:] for row in DEFAULTS], ids=[row[0] for row in DEFAULTS])
def test_the_newest_pool_that_is_annotated_is_the_default(pools: list[Object], expected: str | None) -> None:
    for order in (pools, pools[::-1]):
        chosen = default_pool(order)
        assert (chosen and chosen["metadata"]["name"]) == expected


def test_a_pool_that_is_named_is_used_whatever_the_default_is() -> None:
    assert pool_for(store_of(pool("slow"), default("fast")), "slow", "spec") == pool("slow")


def test_without_a_name_it_is_the_default() -> None:
    assert pool_for(store_of(pool("slow"), default("fast")), "", "spec") == default("fast")


@pytest.mark.parametrize(
    ("pools", "name", "expected"),
    [
        ([], "quick", NoPool("PoolNotFound", "spec.poolName: there is no StoragePool quick")),
        ([default("a")], "b", NoPool("PoolNotFound", "spec.poolName: there is no StoragePool b")),
        (
            [default("a", deleted=True)],
            "a",
            NoPool("PoolDeleting", "spec.poolName: StoragePool a is being deleted"),
        ),
        (
            [default("a", deleted=True)],
            "",
            NoPool(
                "NoDefaultPool",
                "spec: no poolName, and no StoragePool has the annotation virtplane.dev/is-default-pool=true",
            ),
        ),
    ],
    ids=["no pool at all", "not of this name", "being deleted", "no default"],
)
def test_why_there_is_no_pool_is_said_with_the_path_of_what_names_it(
    pools: list[Object], name: str, expected: NoPool
) -> None:
    assert pool_for(store_of(*pools), name, "spec") == expected


def test_the_type_is_the_member_of_the_union() -> None:
    fake = pool()
    fake["spec"] = {"fake": {}, "access": "Local"}
    assert [pool_type(pool()), pool_type(fake), pool_type({"spec": {}})] == ["directory", "fake", ""]
