"""A host with folders for volumes and a web server for images; what the tests of the directory driver stand on."""

import asyncio
import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.http_images.server import ImageServer, serve_folder
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.storage.contract import (
    DesiredVolume,
    HttpImage,
    ObservedVolume,
    Pool,
    Source,
    StorageDriver,
    VolumeState,
)
from virtplane_drivers.storage.directory import DirectoryStorage
from virtplane_drivers.storage.directory.limits import ImportLimits

MIB = 1 << 20
QUICK = ImportLimits(stall_s=20.0, attempts=3, first_wait_s=0.01)
"""The limits of tests: attempts follow each other at once."""


class DirectoryHost:
    """Two pools, a cache and a web server; drivers come and go."""

    def __init__(self, folder: Path, server: ImageServer) -> None:
        self.folder = folder
        self.server = server
        self.cache = folder / "cache"
        self.pool = Pool(uid="pool-1", name="fast", type="directory", directory=folder / "pool")
        self.other_pool = Pool(uid="pool-2", name="slow", type="directory", directory=folder / "other")
        for pool in (self.pool, self.other_pool):
            pool_folder(pool).mkdir()

    def open(
        self,
        *,
        limits: ImportLimits = QUICK,
        cache: Path | None = None,
        allowed_sources: Collection[str] | None = None,
    ) -> DirectoryStorage:
        """A driver of this host, not yet entered."""
        allowed = [self.server.address] if allowed_sources is None else allowed_sources
        return DirectoryStorage(cache_folder=cache or self.cache, allowed_sources=allowed, limits=limits)

    def publish(self, name: str, content: bytes) -> HttpImage:
        """Puts a file on the web server; names it with its checksum."""
        (self.server.folder / name).write_bytes(content)
        return HttpImage(self.server.url(name), hashlib.sha256(content).hexdigest())

    def files(self) -> list[str]:
        """Names of all that lies in the first pool."""
        return sorted(path.name for path in pool_folder(self.pool).iterdir())

    def cached(self) -> list[str]:
        """Names of all that lies in the cache."""
        return sorted(path.name for path in self.cache.iterdir()) if self.cache.exists() else []


def pool_folder(pool: Pool) -> Path:
    """Of a pool that has one."""
    assert pool.directory is not None
    return pool.directory


@contextmanager
def served_images(folder: Path) -> Iterator[ImageServer]:
    """A web server for a host below that folder, until the end of the block."""
    images = folder / "www"
    images.mkdir()
    with serve_folder(images) as server:
        yield server


def volume(
    source: Source, *, size_bytes: int = 4 * MIB, disk_format: DiskFormat = DiskFormat.RAW, uid: str | None = None
) -> DesiredVolume:
    """A small volume."""
    return DesiredVolume(str(uuid4()) if uid is None else uid, size_bytes, disk_format, source)


async def settled(driver: StorageDriver, pool: Pool, uid: str) -> ObservedVolume:
    """The volume once no job is at work on it."""
    async with asyncio.timeout(30):
        while (seen := await driver.observe(pool, uid)).state is VolumeState.CREATING:
            await asyncio.sleep(0.01)
    return seen


async def made(driver: StorageDriver, pool: Pool, desired: DesiredVolume) -> ObservedVolume:
    """Asks for a volume, and how that ended."""
    await driver.create(pool, desired)
    return await settled(driver, pool, desired.uid)


def failure_of(seen: ObservedVolume) -> str:
    """The reason why a volume could not be made."""
    assert seen.failure is not None, seen
    assert (seen.state, seen.attachment) == (VolumeState.FAILED, None)
    return seen.failure.reason
