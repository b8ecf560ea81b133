"""A guest's memory on a disk: written by QEMU's migration to a descriptor, and read by it again.

The file lies beside the machine's first disk, under the machine's UID, so that it moves with the pool. It gets its name
only when it is whole and on the disk: a file of that name can be resumed from.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtplane_api.vocabulary import DiskType
from virtplane_drivers.hypervisor.qemu.definition import Definition
from virtplane_drivers.hypervisor.qemu.monitor import Monitor

UNDER_WAY = frozenset({"setup", "active", "device", "pre-switchover", "cancelling", "wait-unplug"})
"""MigrationStatus (QAPI migration.json): not over yet."""

_FD_NAME = "memory"
_COMMAND_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 90.0


class SuspensionError(Exception):
    """A memory's file cannot be used."""


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """Where one machine's memory goes."""

    path: Path

    @property
    def partial(self) -> Path:
        """While it is written."""
        return self.path.with_name(f"{self.path.name}.partial")

    def publish(self) -> None:
        """Gives the written file its name, durably; may be repeated after a crash. Blocking."""
        if self.partial.exists():
            _sync(self.partial, os.O_RDONLY)
            self.partial.replace(self.path)
        _sync(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)

    def discard(self) -> None:
        """Leaves nothing, durably. Blocking."""
        for path in (self.partial, self.path):
            path.unlink(missing_ok=True)
        if self.path.parent.exists():
            _sync(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)


def memory_file(definition: Definition, uid: str, machine_folder: Path) -> MemoryFile:
    """Beside the first disk that can be written; of a machine without one, among its records."""
    disks = (Path(disk.path) for disk in definition.disks if disk.type is DiskType.DISK)
    first = next(disks, None)
    return MemoryFile((first.parent if first is not None else machine_folder) / f"{uid}.memory")


async def begin_to_write(monitor: Monitor, file: MemoryFile) -> None:
    """Stop the guest and let QEMU write its memory; the end is told by MIGRATION events and `query-migrate`.

    Raises:
        MonitorError: QEMU refused or did not answer.
        OSError: the file cannot be made.
    """
    await monitor.execute("stop", timeout_s=_COMMAND_TIMEOUT_S)
    capabilities = [{"capability": "events", "state": True}]
    await monitor.execute("migrate-set-capabilities", {"capabilities": capabilities}, timeout_s=_COMMAND_TIMEOUT_S)
    # QEMU holds a migration back to 128 MiB/s by default, for the sake of a network.
    await monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40}, timeout_s=_COMMAND_TIMEOUT_S)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    await _with_descriptor(monitor, file.partial, flags, "migrate", {"uri": f"fd:{_FD_NAME}"})


async def read(monitor: Monitor, file: MemoryFile) -> None:
    """Let a QEMU that was started with `-incoming defer` read the memory, to its end. The guest stays paused.

    Raises:
        SuspensionError: QEMU could not read it, or not in time.
        MonitorError: QEMU refused, did not answer, or ended.
        OSError: there is no such file.
    """
    capabilities = [{"capability": "events", "state": True}]
    await monitor.execute("migrate-set-capabilities", {"capabilities": capabilities}, timeout_s=_COMMAND_TIMEOUT_S)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with monitor.events("MIGRATION") as news:
        await _with_descriptor(monitor, file.path, flags, "migrate-incoming", {"uri": f"fd:{_FD_NAME}"})
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                while (status := str((await news.get())["data"]["status"])) != "completed":
                    if status in ("failed", "cancelled"):
                        raise SuspensionError(f"{file.path}: QEMU could not read it")
        except TimeoutError as error:
            raise SuspensionError(f"{file.path}: not read within {_READ_TIMEOUT_S:g} s") from error


async def progress(monitor: Monitor) -> tuple[str, str]:
    """MigrationStatus (none, setup, active, completed, failed ...), and QEMU's words on a failure (`query-migrate`)."""
    answer: dict[str, Any] = await monitor.execute("query-migrate", timeout_s=_COMMAND_TIMEOUT_S)
    return str(answer.get("status", "none")), str(answer.get("error-desc", ""))


async def _with_descriptor(
    monitor: Monitor, path: Path, flags: int, command: str, arguments: Mapping[str, Any]
) -> None:
    descriptor = await asyncio.to_thread(os.open, path, flags, 0o600)
    try:
        await monitor.execute("getfd", {"fdname": _FD_NAME}, descriptor=descriptor, timeout_s=_COMMAND_TIMEOUT_S)
    finally:
        os.close(descriptor)
    await monitor.execute(command, arguments, timeout_s=_COMMAND_TIMEOUT_S)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
