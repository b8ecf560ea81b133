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

from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.hypervisor.qemu.definition import Definition
from virtplane_drivers.hypervisor.qemu.disk_locks import booted_incarnation
from virtplane_drivers.hypervisor.qemu.monitor import Monitor

UNDER_WAY = frozenset({"setup", "active", "device", "pre-switchover", "cancelling", "wait-unplug"})
"""MigrationStatus (QAPI migration.json): not over yet."""

_FD_NAME = "memory"
_PARTIAL = ".partial"
_COMMAND_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0
_SLOWEST_BYTES_PER_S = 10 << 20
_SPARE_MIB = 64


class SuspensionError(Exception):
    """A memory's file cannot be used."""


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """Where the memory of a machine goes: `<uid>.<incarnation of the run that booted>.memory`."""

    path: Path

    @property
    def incarnation(self) -> str:
        """The run that booted: only over disks that nobody had since it may be read."""
        return self.path.name.split(".")[-2]

    @property
    def partial(self) -> Path:
        """While it is written."""
        return self.path.with_name(f"{self.path.name}{_PARTIAL}")

    def is_begun(self) -> bool:
        """Whether anything was written, under whichever name. Blocking."""
        return self.path.exists() or (self.partial.exists() and self.partial.stat().st_size > 0)

    def publish(self) -> None:
        """Gives the written file its name, durably; may be repeated after a crash. Blocking.

        Raises:
            OSError: it may not be on the disk as a whole; it is removed.
        """
        if self.partial.exists():
            try:
                _sync(self.partial, os.O_RDONLY)
            except OSError:
                # At once: the kernel tells of a lost write once, and the next one's fsync would succeed.
                self.partial.unlink()
                raise
            self.partial.replace(self.path)
        _sync(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)

    def discard(self) -> None:
        """Leaves nothing, durably. Blocking."""
        for path in (self.partial, self.path):
            path.unlink(missing_ok=True)
        if self.path.parent.exists():
            _sync(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)


def memory_file(definition: Definition, uid: str, incarnation: str, machine_folder: Path) -> MemoryFile:
    """Beside the first disk that can be written; of a machine without one, among its records. Blocking.

    Named by the run that booted, which the disks' locks know; `incarnation` is used where there is no such disk.

    Raises:
        SuspensionError: the locks do not name one run, so no memory would ever be found to fit.
        OSError: a lock cannot be read.
    """
    booted = {booted_incarnation(path) for path in definition.writable_disks} or {incarnation}
    if len(booted) > 1 or "" in booted:
        raise SuspensionError("the locks of its disks do not say which run they are of; restart it (spec.restartedAt)")
    return MemoryFile(_folder(definition, machine_folder) / f"{uid}.{booted.pop()}.memory")


def discard_all(definition: Definition, uid: str, machine_folder: Path) -> None:
    """Leaves no memory of the machine where its memory goes, also none that a lost record knew of. Blocking."""
    for path in _folder(definition, machine_folder).glob(f"{uid}.*.memory*"):
        MemoryFile(path.with_name(path.name.removesuffix(_PARTIAL))).discard()


def left_over(definition: Definition, uid: str, machine_folder: Path) -> Path | None:
    """A memory that lies where the machine's goes: of a record that was lost, or of another host. Blocking."""
    return next(_folder(definition, machine_folder).glob(f"{uid}.*.memory"), None)


def missing_space(definition: Definition, folder: Path) -> str:
    """How much room the memory lacks in the folder, in words; empty when it fits. Blocking."""
    facts = os.statvfs(folder)
    free_mib = facts.f_bavail * facts.f_frsize >> 20
    if free_mib > definition.memory_mib + _SPARE_MIB:
        return ""
    return f"it takes up to {definition.memory_mib + _SPARE_MIB} MiB in {folder}, where {free_mib} MiB are free"


def _folder(definition: Definition, machine_folder: Path) -> Path:
    return next((path.parent for path in definition.writable_disks), machine_folder)


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
    timeout_s = _READ_TIMEOUT_S + (await in_thread(file.path.stat)).st_size / _SLOWEST_BYTES_PER_S
    with monitor.events("MIGRATION") as news:
        await _with_descriptor(monitor, file.path, flags, "migrate-incoming", {"uri": f"fd:{_FD_NAME}"})
        try:
            async with asyncio.timeout(timeout_s):
                while (status := str((await news.get())["data"]["status"])) != "completed":
                    if status in ("failed", "cancelled"):
                        raise SuspensionError(f"{file.path}: QEMU could not read it")
        except TimeoutError as error:
            raise SuspensionError(f"{file.path}: not read within {timeout_s:.0f} s") from error


async def progress(monitor: Monitor) -> tuple[str, str]:
    """MigrationStatus (none, setup, active, completed, failed ...), and QEMU's words on a failure (`query-migrate`)."""
    answer: dict[str, Any] = await monitor.execute("query-migrate", timeout_s=_COMMAND_TIMEOUT_S)
    return str(answer.get("status", "none")), str(answer.get("error-desc", ""))


async def _with_descriptor(
    monitor: Monitor, path: Path, flags: int, command: str, arguments: Mapping[str, Any]
) -> None:
    descriptor = await in_thread(os.open, path, flags, 0o600)
    try:
        await monitor.execute("getfd", {"fdname": _FD_NAME}, descriptor=descriptor, timeout_s=_COMMAND_TIMEOUT_S)
    finally:
        # Also close(2) waits for a file system that hangs.
        await in_thread(os.close, descriptor)
    await monitor.execute(command, arguments, timeout_s=_COMMAND_TIMEOUT_S)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
