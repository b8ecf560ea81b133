"""Downloaded images, one download for all who want the same; kept by digest until the room is needed.

An image with a checksum is kept under it. One without is nobody's promise: it is shared by those who wait for the same
download, and gone when the last of them has copied it.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from virtplane_drivers.storage.contract import HttpImage
from virtplane_drivers.storage.directory.address_policy import AddressPolicy
from virtplane_drivers.storage.directory.download import Download, Partial, Progress
from virtplane_drivers.storage.directory.failures import VolumeFailed
from virtplane_drivers.storage.directory.limits import ImportLimits

_DONE = ".image"


@dataclass(slots=True)
class _Shared:
    task: "asyncio.Task[Path]"
    users: int = 0
    listeners: list[Progress] = field(default_factory=list)


class ImageCache:
    """The images of one agent."""

    def __init__(self, folder: Path, policy: AddressPolicy, limits: ImportLimits) -> None:
        self._folder = folder
        self._policy = policy
        self._limits = limits
        self._shared: dict[str, _Shared] = {}

    @asynccontextmanager
    async def image(self, source: HttpImage, progress: Progress) -> AsyncIterator[Path]:
        """The downloaded file, for as long as the block lasts.

        Raises:
            VolumeFailed: why it cannot be had.
        """
        name = hashlib.sha256(f"{source.url}\n{source.sha256 or ''}".encode()).hexdigest()
        shared = self._shared.get(name)
        if shared is None:
            shared = self._shared[name] = _Shared(asyncio.create_task(self._fetch(source, name), name="download"))
        shared.users += 1
        shared.listeners.append(progress)
        try:
            # Shielded: one that gives up must not end the download of the others.
            yield await asyncio.shield(shared.task)
        finally:
            shared.users -= 1
            shared.listeners.remove(progress)
            if shared.users == 0:
                del self._shared[name]
                await self._end(shared, source, name)

    async def _end(self, shared: _Shared, source: HttpImage, name: str) -> None:
        """The last user has gone: stop, keeping what can be gone on with; or make room."""
        shared.task.cancel()
        await asyncio.gather(shared.task, return_exceptions=True)
        if source.sha256 is None:
            (self._folder / f"{name}{_DONE}").unlink(missing_ok=True)
        await asyncio.to_thread(self._evict)

    async def _fetch(self, source: HttpImage, name: str) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = self._folder / f"{source.sha256 or name}{_DONE}"
        if source.sha256 is not None and done.exists():
            os.utime(done)
            return done
        partial = Partial(self._folder / f"{name}.partial", self._folder / f"{name}.etag")

        def tell(received: int, total: int | None) -> None:
            for listener in self._shared[name].listeners if name in self._shared else ():
                listener(received, total)

        await Download(source.url, partial, self._policy, self._limits).run(tell)
        if source.sha256 is not None:
            digest = await asyncio.to_thread(_sha256, partial.data)
            if digest != source.sha256:
                partial.discard()
                message = f"{source.url}: the file has sha256 {digest}, not {source.sha256}; it was thrown away"
                raise VolumeFailed("ChecksumMismatch", message, retry_after_s=None)
        partial.data.replace(done)
        partial.etag.unlink(missing_ok=True)
        return done

    def _evict(self) -> None:
        """Remove what was not used for the longest time, until the rest fits."""
        kept = sorted(self._folder.glob(f"*{_DONE}"), key=lambda path: path.stat().st_mtime, reverse=True)
        size = 0
        for path in kept:
            size += path.stat().st_blocks * 512
            if size > self._limits.max_cache_bytes and not self._is_used(path):
                path.unlink(missing_ok=True)

    def _is_used(self, path: Path) -> bool:
        tasks = (shared.task for shared in list(self._shared.values()))
        return any(
            not task.done() or (not task.cancelled() and task.exception() is None and task.result() == path)
            for task in tasks
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
