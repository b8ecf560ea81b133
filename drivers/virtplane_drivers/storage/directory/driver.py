"""The driver of folders."""

import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from virtplane_api.reasons import Reason
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hints import Hints
from virtplane_drivers.host.blocking import ANSWER_TIMEOUT_S, Questions
from virtplane_drivers.storage.contract import (
    NO_VOLUME,
    DesiredVolume,
    Failure,
    ObservedVolume,
    Pool,
    PoolFacts,
    StorageDriver,
    VolumeState,
)
from virtplane_drivers.storage.directory.address_policy import AddressPolicy
from virtplane_drivers.storage.directory.cache import ImageCache
from virtplane_drivers.storage.directory.jobs import Jobs
from virtplane_drivers.storage.directory.layout import MadeVolume, check_uid, made_volume, opened, remove
from virtplane_drivers.storage.directory.limits import ImportLimits


class DirectoryStorage(StorageDriver):
    """Image files in folders. `allowed_sources` are `host:port` of web servers at addresses that are refused else."""

    name = "directory"

    def __init__(
        self, *, cache_folder: Path, allowed_sources: Collection[str] = (), limits: ImportLimits | None = None
    ) -> None:
        self._hints = Hints()
        self._questions = Questions()
        cache = ImageCache(cache_folder, AddressPolicy(allowed_sources), limits or ImportLimits())
        self._jobs = Jobs(cache, self._hints.add)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._jobs.end_all()

    async def probe(self, pool: Pool) -> PoolFacts:
        """Size of the file system that holds the folder, which is made where it is missing."""
        folder = _folder(pool)
        return await self._questions.ask(folder, _probe, folder)

    async def observe(self, pool: Pool, uid: str) -> ObservedVolume:
        """From the job that makes the volume, else from its file."""
        check_uid(uid)
        key, folder = (pool.uid, uid), _folder(pool)
        if self._jobs.is_running(key):
            await self._questions.ask(folder, folder.is_dir)  # a job says nothing when its pool does not
            return ObservedVolume(VolumeState.CREATING, progress_percent=self._jobs.percent(key))
        made = await self._questions.ask(folder, _made, folder, uid)
        if made is not None:
            return _observed(made)
        failure = self._jobs.failure(key)
        return NO_VOLUME if failure is None else ObservedVolume(VolumeState.FAILED, failure=failure)

    async def create(self, pool: Pool, desired: DesiredVolume) -> None:
        """Begin the job, unless it runs or its work is done."""
        check_uid(desired.uid)
        key, folder = (pool.uid, desired.uid), _folder(pool)
        if self._jobs.is_running(key) or await self._questions.ask(folder, _made, folder, desired.uid) is not None:
            return
        if not self._jobs.is_running(key):
            self._jobs.begin(key, folder, desired)

    async def delete(self, pool: Pool, uid: str) -> None:
        """End the job, and remove every file of the volume."""
        check_uid(uid)
        folder = _folder(pool)
        await self._questions.ask(folder, folder.is_dir)
        if not await self._jobs.end((pool.uid, uid), ANSWER_TIMEOUT_S):
            message = f"what makes the volume does not end: the file system of {folder} does not answer"
            raise Unavailable(message, reason=Reason.POOL_SILENT, retry_after_s=10.0)
        await self._questions.ask(folder, _remove, folder, uid)

    def events(self) -> AsyncIterator[str]:
        """UIDs of volumes whose job ended."""
        return aiter(self._hints)


def _folder(pool: Pool) -> Path:
    if pool.directory is None:
        raise Unavailable(f"pool {pool.name} names no folder", reason=Reason.POOL_UNAVAILABLE)
    return pool.directory


def _probe(folder: Path) -> PoolFacts:
    with opened(folder, make=True) as folder_fd:
        facts = os.fstatvfs(folder_fd)
        if facts.f_flag & os.ST_RDONLY:
            raise Unavailable(
                f"the folder {folder} cannot be used: its file system is read-only", reason=Reason.READ_ONLY
            )
        return PoolFacts(facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize)


def _made(folder: Path, uid: str) -> MadeVolume | None:
    with opened(folder) as folder_fd:
        return made_volume(folder_fd, folder, uid)


def _remove(folder: Path, uid: str) -> None:
    with opened(folder) as folder_fd:
        remove(folder_fd, uid)


def _observed(made: MadeVolume) -> ObservedVolume:
    if made.size_bytes is None:
        message = f"{made.path} is not a {made.format} image of ours; delete the Volume, or put the file back"
        return ObservedVolume(VolumeState.FAILED, failure=Failure(Reason.DAMAGED, message, retry_after_s=None))
    return ObservedVolume(
        VolumeState.READY,
        attachment=FileAttachment(made.path, made.format),
        size_bytes=made.size_bytes,
        format=made.format,
    )
