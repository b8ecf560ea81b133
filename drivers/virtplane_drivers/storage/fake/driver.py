"""Volumes that exist in memory only, behind the same contract as real ones.

A volume that is being made is a timer of the event loop, not a task: a thousand of them cost nothing. With a state file
a restarted driver finds the volumes again, as if they lay on a disk; those that were half made are FAILED, Interrupted.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.attachment import FakeAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hints import Hints
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
from virtplane_drivers.storage.fake.faults import Faults

CAPACITY_BYTES = 1 << 40
INTERRUPTED = Failure(Reason.INTERRUPTED, "the driver was stopped while it made the volume", retry_after_s=0.0)

_Key = tuple[str, str]
"""A pool's and a volume's UID."""


@dataclass(slots=True)
class _Volume:
    size_bytes: int
    format: DiskFormat
    state: VolumeState
    began_at_s: float = 0.0
    failure: Failure | None = None
    timer: asyncio.TimerHandle | None = None


class FakeStorage(StorageDriver):
    """Storage of no bytes. `create_s` is how long each volume takes to make; `faults` may be changed at any time."""

    name = "fake"

    def __init__(self, *, create_s: float = 0.0, faults: Faults | None = None, state_file: Path | None = None) -> None:
        self.create_s = create_s
        self.faults = faults if faults is not None else Faults()
        self._state_file = state_file
        self._volumes: dict[_Key, _Volume] = {}
        self._hints = Hints()

    async def __aenter__(self) -> Self:
        if self._state_file is not None:
            self._volumes = _load(self._state_file)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for volume in self._volumes.values():
            if volume.timer is not None:
                volume.timer.cancel()

    async def probe(self, pool: Pool) -> PoolFacts:
        """A tebibyte, less what the pool's volumes would take."""
        await self._reach()
        used = sum(volume.size_bytes for (pool_uid, _), volume in self._volumes.items() if pool_uid == pool.uid)
        return PoolFacts(capacity_bytes=CAPACITY_BYTES, available_bytes=max(0, CAPACITY_BYTES - used))

    async def observe(self, pool: Pool, uid: str) -> ObservedVolume:
        """The volume as it is now."""
        await self._reach()
        volume = self._volumes.get((pool.uid, uid))
        if volume is None:
            return NO_VOLUME
        match volume.state:
            case VolumeState.CREATING:
                return ObservedVolume(VolumeState.CREATING, progress_percent=self._progress_percent(volume))
            case VolumeState.FAILED:
                return ObservedVolume(VolumeState.FAILED, failure=volume.failure)
            case VolumeState.READY:
                return ObservedVolume(
                    VolumeState.READY,
                    attachment=FakeAttachment(uid),
                    size_bytes=volume.size_bytes,
                    format=volume.format,
                )

    async def create(self, pool: Pool, desired: DesiredVolume) -> None:
        """Starts the timer of `create_s`."""
        await self._reach()
        key = (pool.uid, desired.uid)
        existing = self._volumes.get(key)
        if existing is None or existing.state is VolumeState.FAILED:
            loop = asyncio.get_running_loop()
            volume = _Volume(desired.size_bytes, desired.format, VolumeState.CREATING, began_at_s=loop.time())
            volume.timer = loop.call_later(self.create_s, self._finish, key, volume)
            self._volumes[key] = volume
            self._save()
        self._reply()

    async def delete(self, pool: Pool, uid: str) -> None:
        """Forgets the volume."""
        await self._reach()
        volume = self._volumes.pop((pool.uid, uid), None)
        if volume is not None:
            if volume.timer is not None:
                volume.timer.cancel()
            self._save()
        self._reply()

    def events(self) -> AsyncIterator[str]:
        """UIDs of the volumes whose making ended."""
        return aiter(self._hints)

    async def _reach(self) -> None:
        if self.faults.call_s:
            await asyncio.sleep(self.faults.call_s)
        if self.faults.unreachable is not None:
            raise Unavailable(self.faults.unreachable, reason=Reason.POOL_UNREACHABLE)

    def _reply(self) -> None:
        if self.faults.reply_is_lost():
            raise Unavailable(
                "the reply was lost; what was asked for may be done", reason=Reason.REPLY_LOST, retry_after_s=0.1
            )

    def _finish(self, key: _Key, volume: _Volume) -> None:
        volume.timer = None
        volume.failure = self.faults.next_failure(key[1])
        volume.state = VolumeState.READY if volume.failure is None else VolumeState.FAILED
        self._save()
        if not self.faults.lose_hints:
            self._hints.add(key[1])

    def _progress_percent(self, volume: _Volume) -> int | None:
        if self.create_s <= 0:
            return None
        elapsed_s = asyncio.get_running_loop().time() - volume.began_at_s
        return min(99, int(100 * elapsed_s / self.create_s))

    def _save(self) -> None:
        if self._state_file is None:
            return
        rows = [
            {"pool": pool, "uid": uid, "size_bytes": v.size_bytes, "format": v.format, "ready": _is_ready(v)}
            for (pool, uid), v in self._volumes.items()
            # A failure leaves nothing of the volume, so a restarted driver knows nothing of it either.
            if v.state is not VolumeState.FAILED
        ]
        unfinished = self._state_file.with_name(self._state_file.name + ".new")
        unfinished.write_text(json.dumps(rows))
        unfinished.replace(self._state_file)


def _is_ready(volume: _Volume) -> bool:
    return volume.state is VolumeState.READY


def _load(state_file: Path) -> dict[_Key, _Volume]:
    if not state_file.exists():
        return {}
    rows: list[dict[str, Any]] = json.loads(state_file.read_text())
    return {
        (row["pool"], row["uid"]): _Volume(
            row["size_bytes"],
            DiskFormat(row["format"]),
            VolumeState.READY if row["ready"] else VolumeState.FAILED,
            failure=None if row["ready"] else INTERRUPTED,
        )
        for row in rows
    }
