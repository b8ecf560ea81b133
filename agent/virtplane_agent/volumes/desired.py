"""From Volume and StoragePool to the plain values that drivers take."""

from pathlib import Path

from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import Key, Object, uid_of
from virtplane_api.quantity import quantity_bytes
from virtplane_api.vocabulary import DiskFormat, PoolAccess
from virtplane_drivers.storage.contract import Blank, DesiredVolume, HttpImage, Pool, Source

_CHECKSUM_PREFIX = "sha256:"
_SECTOR_BYTES = 512


def pool_value(pool: Object) -> Pool:
    """A StoragePool as drivers know it."""
    spec = pool["spec"]
    directory = spec.get("directory")
    return Pool(
        uid=uid_of(pool),
        name=pool["metadata"]["name"],
        type="directory" if directory is not None else "fake",
        access=PoolAccess(spec["access"]),
        directory=Path(directory["path"]) if directory is not None else None,
    )


def pool_of(volume: Object, pools: Informer) -> Pool | str:
    """The pool that holds a placed Volume, or what is wrong with it."""
    placement = volume["status"]["placement"]
    pool = pools.objects.get(Key("", placement["poolName"]))
    if pool is None:
        return f"StoragePool {placement['poolName']} is gone; make it again with the same spec to reach its volumes"
    # Also under another UID: a pool that was deleted and made again still holds its volumes.
    return pool_value(pool)


def was_made(volume: Object) -> bool:
    """Whether the Volume has been Ready once: from then on it holds data that nobody may replace by zeros."""
    return "size" in volume.get("status", {})


def lost_message(volume: Object) -> str:
    """What is said of a Volume that was made and that its pool does not hold any more."""
    pool = volume["status"]["placement"]["poolName"]
    return (
        f"StoragePool {pool} does not hold its data any more; see that the pool's file system is mounted, or delete "
        "the Volume to give the data up"
    )


def desired_volume(volume: Object) -> DesiredVolume:
    """The Volume as its driver is to make it. Its size is rounded up to whole sectors of 512 bytes."""
    spec = volume["spec"]
    size_bytes = -(-quantity_bytes(spec["size"]) // _SECTOR_BYTES) * _SECTOR_BYTES
    return DesiredVolume(
        uid=uid_of(volume),
        size_bytes=size_bytes,
        format=DiskFormat(spec.get("format", DiskFormat.QCOW2)),
        source=_source(spec.get("source") or {}),
    )


def _source(source: Object) -> Source:
    http = source.get("http")
    if http is None:
        return Blank()
    checksum = http.get("checksum")
    return HttpImage(url=http["url"], sha256=checksum.removeprefix(_CHECKSUM_PREFIX) if checksum else None)
