"""The making of a volume, beside everything else: one task each, seen through `observe`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from virtplane_api.reasons import Reason
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.storage.contract import Blank, DesiredVolume, Failure, HttpImage
from virtplane_drivers.storage.directory.cache import ImageCache
from virtplane_drivers.storage.directory.convert import check_fits, convert, grow, inspect, make_blank
from virtplane_drivers.storage.directory.failures import VolumeFailed, from_os_error
from virtplane_drivers.storage.directory.layout import WorkFile, begin_work

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

Key = tuple[str, str]
"""A pool's and a volume's UID."""

_DOWNLOADED_PERCENT = 80
"""Of a whole import; the rest is the conversion."""
_END_TIMEOUT_S = 5.0
_LEAVE_TIMEOUT_S = 6.0
"""More than a child has to die in, less than an agent has to end in."""


class Jobs:
    """Tasks that make volumes, and how those that failed ended."""

    def __init__(self, cache: ImageCache, on_end: Callable[[str], None]) -> None:
        self._cache = cache
        self._on_end = on_end
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._ending: set[Key] = set()
        self._percent: dict[Key, int] = {}
        self._failures: dict[Key, Failure] = {}

    def is_running(self, key: Key) -> bool:
        """Whether the volume is being made."""
        return key in self._tasks

    def percent(self, key: Key) -> int | None:
        """How far it is, when that is known."""
        return self._percent.get(key)

    def failure(self, key: Key) -> Failure | None:
        """How the last job for the volume failed."""
        return self._failures.get(key)

    def begin(self, key: Key, pool: Path, desired: DesiredVolume) -> None:
        """Make the volume; forget how it failed before."""
        self._failures.pop(key, None)
        task = asyncio.create_task(self._run(key, pool, desired), name=f"make volume {desired.uid}")
        self._tasks[key] = task
        # Not in the task itself: one that is cancelled before its first step runs no line of its own.
        task.add_done_callback(lambda _: self._ended(key, desired.uid))

    async def end(self, key: Key, timeout_s: float) -> bool:
        """Stop the job, if there is one, and leave nothing of it; whether that was done within the time."""
        task = self._tasks.get(key)
        if task is not None:
            if key not in self._ending:  # a second cancel would hit the cleaning up
                self._ending.add(key)
                task.cancel()
            await asyncio.wait([task], timeout=timeout_s)
            if not task.done():
                return False
        self._failures.pop(key, None)
        return True

    async def end_all(self) -> None:
        """Stop everything; downloads can be gone on with. What waits for a pool that hangs is left as it is."""
        await asyncio.gather(*(self.end(key, _LEAVE_TIMEOUT_S) for key in list(self._tasks)))
        for task in self._tasks.values():
            task.cancel()

    async def _run(self, key: Key, pool: Path, desired: DesiredVolume) -> None:
        try:
            await self._make(key, pool, desired)
        except VolumeFailed as failed:
            self._failures[key] = failed.failure
            _log.info("volume %s: %s: %s", desired.uid, failed.failure.reason, failed)
        except OSError as error:
            self._failures[key] = from_os_error(error, f"the volume is made in {pool}").failure
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # seen in the volume, and in the log
            _log.exception("volume %s: a fault in this program", desired.uid)
            self._failures[key] = Failure(Reason.FAULT, repr(error), retry_after_s=60.0)

    def _ended(self, key: Key, uid: str) -> None:
        self._tasks.pop(key, None)
        self._ending.discard(key)
        self._percent.pop(key, None)
        self._on_end(uid)

    async def _make(self, key: Key, pool: Path, desired: DesiredVolume) -> None:
        async with _work_on(pool, desired.uid) as work:
            match desired.source:
                case Blank():
                    await make_blank(work.path, desired.format, desired.size_bytes)
                case HttpImage() as source:
                    await self._import(key, source, work, desired)
            try:
                await _to_its_end(asyncio.create_task(in_thread(work.publish, desired.format)))
            except FileNotFoundError as error:
                raise VolumeFailed(
                    Reason.DELETED, "the volume was deleted while it was made", retry_after_s=5.0
                ) from error

    async def _import(self, key: Key, source: HttpImage, work: WorkFile, desired: DesiredVolume) -> None:
        def progress(received: int, total: int | None) -> None:
            if total:
                self._percent[key] = _DOWNLOADED_PERCENT * received // total

        async with self._cache.image(source, progress) as path:
            image = await inspect(path)
            await convert(path, image, work.path, desired.format, desired.size_bytes)
        # What the image said of its size is its own word; this is what was made of it.
        size_bytes = await in_thread(work.size_bytes, desired.format)
        if size_bytes is None:
            raise VolumeFailed(Reason.DELETED, "the volume was deleted while it was made", retry_after_s=5.0)
        check_fits(size_bytes, desired.size_bytes)
        if size_bytes < desired.size_bytes:
            await grow(work.path, desired.format, desired.size_bytes)


@asynccontextmanager
async def _work_on(pool: Path, uid: str) -> AsyncIterator[WorkFile]:
    """A work file that is gone at the end of the block, unless it was published."""
    beginning = asyncio.create_task(in_thread(begin_work, pool, uid))
    try:
        yield await _to_its_end(beginning)
    finally:
        if beginning.done() and beginning.exception() is None:
            await _to_its_end(asyncio.create_task(in_thread(beginning.result().discard)))


async def _to_its_end(work: "asyncio.Task[_Result]") -> _Result:
    """What a thread's work comes to. When cancelled: waits for it all the same, as a thread cannot be stopped."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # A file system that does not answer must not keep the agent from ending.
        await asyncio.wait([work], timeout=_END_TIMEOUT_S)
        raise
