"""What a kind of storage can be asked, as small protocols.

A volume is known by its UID (metadata.uid of the Volume). Making one may take long (an image is copied): `create` only
begins it, `observe` shows how far it is. A driver that was killed while it made a volume, and is opened again, goes on
when `create` is asked again. The verbs are idempotent, as those of the hypervisors are.

::

                create                            (job ends)
      absent ───────────► CREATING ────────────────────────────► READY
        ▲                    │  ▲                                  │
        │                    ▼  │ create, after retry_after_s      │
        ├───── delete ──── FAILED (nothing of the data is left)    │
        └───── delete ─────────────────────────────────────────────┘
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, Self

from virtplane_api.vocabulary import DiskFormat, PoolAccess
from virtplane_drivers.attachment import Attachment


@dataclass(frozen=True, slots=True)
class Pool:
    """A place for volumes."""

    uid: str
    name: str
    type: str
    """The driver's name: `directory`, `fake`."""
    access: PoolAccess = PoolAccess.LOCAL
    directory: Path | None = None
    """Of a `directory` pool: its absolute path."""


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool as this host reaches it."""

    capacity_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Blank:
    """A volume of zeros."""


@dataclass(frozen=True, slots=True)
class HttpImage:
    """An image on a web server."""

    url: str
    sha256: str | None = None
    """64 lower-case hex digits, of the file as served."""


Source = Blank | HttpImage


@dataclass(frozen=True, slots=True)
class DesiredVolume:
    """A volume as it is to be made."""

    uid: str
    size_bytes: int
    format: DiskFormat
    source: Source


class VolumeState(StrEnum):
    """How far a volume is."""

    CREATING = "Creating"
    READY = "Ready"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a volume could not be made."""

    reason: str
    """One CamelCase word: ChecksumMismatch, SourceNotFound, BackingFileRefused, ..."""
    message: str
    retry_after_s: float | None
    """None: the same request can never succeed, somebody must change something."""


@dataclass(frozen=True, slots=True)
class ObservedVolume:
    """A volume as it was just seen."""

    state: VolumeState | None
    """None: the pool holds no such volume."""
    attachment: Attachment | None = None
    """When READY: how a hypervisor reaches it."""
    size_bytes: int | None = None
    """When READY: the virtual size."""
    format: DiskFormat | None = None
    progress_percent: int | None = None
    """When CREATING, and when it is known."""
    failure: Failure | None = None
    """When FAILED."""


NO_VOLUME = ObservedVolume(state=None)


class StorageDriver(AbstractAsyncContextManager["StorageDriver"], Protocol):
    """One kind of storage on this host. Leaving it stops its jobs and removes no volume."""

    name: str
    """StoragePool.spec's member of the union."""

    async def __aenter__(self) -> Self: ...

    async def probe(self, pool: Pool) -> PoolFacts:
        """Whether and how large the pool is here; makes what may be missing of it (a folder).

        Raises:
            Unavailable: it cannot be reached or used from here; the message says why.
        """
        ...

    async def observe(self, pool: Pool, uid: str) -> ObservedVolume:
        """The volume as it is now. Never changes anything. A pool that cannot be reached: raises Unavailable."""
        ...

    async def create(self, pool: Pool, desired: DesiredVolume) -> None:
        """Begin to make the volume, or go on; returns promptly. A volume that exists is left as it is.

        After FAILED it begins anew. Failures are never raised from the job, they are seen in `observe`.

        Raises:
            Refused: the request itself cannot be served (a format or source that the driver does not have).
        """
        ...

    async def delete(self, pool: Pool, uid: str) -> None:
        """Leave nothing of the volume, made or half made; stops its job first.

        Raises:
            Unavailable: the pool cannot be reached; nothing can be said to be gone.
        """
        ...

    def events(self) -> AsyncIterator[str]:
        """UIDs of volumes worth observing again, for ever. A hint, never a state."""
        ...
