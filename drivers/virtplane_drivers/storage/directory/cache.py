"""Downloaded images, one download for all who want the same; kept by digest until the room is needed.

::

    <cache>/<sha256>.image                  a finished download
    <cache>/<name>.partial, <name>.etag     one that is under way, or was stopped and can be gone on with

An image with a checksum is kept under it. One without is nobody's promise: it is shared by those who wait for the same
download, and gone when the last of them has copied it.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.storage.contract import HttpImage
from virtplane_drivers.storage.directory.address_policy import AddressPolicy
from virtplane_drivers.storage.directory.download import Download, Partial, Progress
from virtplane_drivers.storage.directory.failures import VolumeFailed
from virtplane_drivers.storage.directory.limits import ImportLimits

_DONE = ".image"
_PARTIAL = ".partial"
_ETAG = ".etag"


@dataclass(slots=True)
class _Shared:
    source: HttpImage
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
        self._room = asyncio.Lock()
        """Held by who removes what nobody uses: a file that was found to be there must not go away then."""

    @asynccontextmanager
    async def image(self, source: HttpImage, progress: Progress) -> AsyncIterator[Path]:
        """The downloaded file, for as long as the block lasts.

        Raises:
            VolumeFailed: why it cannot be had.
        """
        name = hashlib.sha256(f"{source.url}\n{source.sha256 or ''}".encode()).hexdigest()
        shared = self._shared.get(name)
        if shared is None:
            task = asyncio.create_task(self._fetch(source, name), name="download")
            shared = self._shared[name] = _Shared(source, task)
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
        [ended] = await asyncio.gather(shared.task, return_exceptions=True)
        # A disk that is full holds less than what may be kept: whoever asks again finds room.
        is_full = isinstance(ended, VolumeFailed) and ended.failure.reason == "NoSpace"
        max_bytes = 0 if is_full else self._limits.max_cache_bytes
        if source.sha256 is None:
            self._done(source, name).unlink(missing_ok=True)
        async with self._room:
            used = {self._done(other.source, name) for name, other in self._shared.items()}
            used |= {self._folder / f"{name}{_PARTIAL}" for name in self._shared}
            await asyncio.to_thread(_make_room, self._folder, max_bytes, used)

    def _done(self, source: HttpImage, name: str) -> Path:
        return self._folder / f"{source.sha256 or name}{_DONE}"

    async def _fetch(self, source: HttpImage, name: str) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        done = self._done(source, name)
        async with self._room:
            if source.sha256 is not None and done.exists():
                os.utime(done)
                return done
        partial = Partial(self._folder / f"{name}{_PARTIAL}", self._folder / f"{name}{_ETAG}")

        def tell(received: int, total: int | None) -> None:
            for listener in self._shared[name].listeners if name in self._shared else ():
                listener(received, total)

        await Download(source.url, partial, self._policy, self._limits).run(tell)
        if source.sha256 is not None:
            digest = await asyncio.to_thread(_sha256, partial.data)
            if digest != source.sha256:
                partial.discard()
                message = f"{source.url}: the file has sha256 {digest}, not {source.sha256}; it was thrown away"
                raise VolumeFailed(Reason.CHECKSUM_MISMATCH, message, retry_after_s=None)
            # Nobody looks at its bytes again: they must be on the disk before they bear that name.
            await asyncio.to_thread(_sync, partial.data)
        partial.data.replace(done)
        partial.etag.unlink(missing_ok=True)
        return done


def _make_room(folder: Path, max_bytes: int, used: Collection[Path]) -> None:
    """Removes what was not used for the longest time, until the rest fits."""
    found = []
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # a download that ended meanwhile
            if path.suffix in (_DONE, _PARTIAL):
                found.append((path, path.stat()))
    size = 0
    for path, status in sorted(found, key=lambda one: one[1].st_mtime, reverse=True):
        size += status.st_blocks * 512
        if size > max_bytes and path not in used:
            path.unlink(missing_ok=True)
            path.with_suffix(_ETAG).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
