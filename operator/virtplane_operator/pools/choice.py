"""Which StoragePool a volume lives in, and what kind it is."""

from collections.abc import Iterable
from dataclasses import dataclass

from virtplane_api.kube.resources import STORAGE_POOLS, Key, Object, is_being_deleted
from virtplane_api.names import DEFAULT_POOL_ANNOTATION
from virtplane_api.reasons import Reason
from virtplane_operator.world import Store

POOL_TYPES = ("directory", "fake")
"""The members of StoragePool.spec's union."""


@dataclass(frozen=True, slots=True)
class NoPool:
    """There is no such pool (yet)."""

    reason: str
    message: str


def pool_type(pool: Object) -> str:
    """The member of the union that the pool has; the schema sees to it that there is one."""
    return next((name for name in POOL_TYPES if name in pool["spec"]), "")


def pool_for(store: Store, pool_name: str, field: str) -> Object | NoPool:
    """The pool of that name, or without one the default pool. `field` is the path of what names it."""
    if pool_name:
        pool = store.get(STORAGE_POOLS, Key("", pool_name))
        if pool is None:
            return NoPool(Reason.POOL_NOT_FOUND, f"{field}.poolName: there is no StoragePool {pool_name}")
        if is_being_deleted(pool):
            return NoPool(Reason.POOL_DELETING, f"{field}.poolName: StoragePool {pool_name} is being deleted")
        return pool
    default = default_pool(store.all(STORAGE_POOLS).values())
    if default is None:
        message = f"{field}: no poolName, and no StoragePool has the annotation {DEFAULT_POOL_ANNOTATION}=true"
        return NoPool(Reason.NO_DEFAULT_POOL, message)
    return default


def default_pool(pools: Iterable[Object]) -> Object | None:
    """The newest of those that are annotated as the default, as StorageClass has it."""
    annotated = [
        pool
        for pool in pools
        if (pool["metadata"].get("annotations") or {}).get(DEFAULT_POOL_ANNOTATION) == "true"
        and not is_being_deleted(pool)
    ]
    newest_first = sorted(annotated, key=lambda pool: pool["metadata"]["name"])
    return max(newest_first, key=lambda pool: str(pool["metadata"]["creationTimestamp"]), default=None)
