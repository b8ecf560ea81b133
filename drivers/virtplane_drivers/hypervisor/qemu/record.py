"""The run record: one small file per machine, from which a driver that was killed at any point knows what is going on.

`intent` is made durable before the act it names. A process that is gone is then understood: it was to stop, the host
was rebooted, or it died.
"""

import asyncio
import dataclasses
import enum
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat, DiskType, DisplayType, ExitReason, InterfaceModel
from virtplane_drivers.errors import Refused
from virtplane_drivers.host.process import ProcessIdentity
from virtplane_drivers.hypervisor.contract import Exit, Owner
from virtplane_drivers.hypervisor.qemu.definition import Definition, DiskDefinition, NicDefinition, NicStage

T = TypeVar("T")

_log = logging.getLogger(__name__)

FORMAT = 5
"""5: the definition's `nic_ports`, its NICs' `link_up` and `stage`. 4: its `nics`. 3 (0.1.0): its `display`,
`guest_agent`. 2: `ended_by_itself`, `restarts`, `memory`, `user`, the definition's `restarted_at`. All are read as well
as 1."""
_READABLE = frozenset({1, 2, 3, 4, FORMAT})
_FILE = "record.json"
_MAX_PID = 1 << 22
"""PID_MAX_LIMIT of 64-bit Linux."""


class Intent(enum.StrEnum):
    """What is being done with the machine, or was last done."""

    STOPPED = "Stopped"
    STARTING = "Starting"
    RUNNING = "Running"
    POWERING_OFF = "PoweringOff"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    """`memory` is whole; a process that is left may go."""
    WAKING = "Waking"
    """A process reads `memory`; the guest has not run yet."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one machine."""

    uid: str
    namespace: str
    name: str
    owner: Owner
    intent: Intent = Intent.STOPPED
    definition: Definition | None = None
    """What the next start uses. None: the record was lost, and this one was read off the running process."""
    running: Definition | None = None
    """What the present run was started with."""
    incarnation: str = ""
    """Of the present run, or of the last one."""
    process: ProcessIdentity | None = None
    started_at: datetime | None = None
    shut_down_asked_at: datetime | None = None
    last_exit: Exit | None = None
    ended_by_itself: bool = False
    """Nobody asked for the end of the last run, nor for the machine's being off since."""
    restarts: int = 0
    user: int | None = None
    """The Unix user that its processes run as; None: the agent's own."""
    memory: str = ""
    """The path of the memory's file, from before it is made until after it is removed."""


class TornRecord(Exception):
    """The file holds no record that this version can read."""


class Records:
    """The records of one state folder, `<folder>/<uid>/record.json`; beside them each machine's logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="records")

    async def run(self, work: Callable[[T], None], argument: T) -> None:
        """`write` or `remove`, in threads of its own: a pool that hangs keeps no record from being written."""
        await asyncio.get_running_loop().run_in_executor(self._threads, work, argument)

    def machine_folder(self, uid: str) -> Path:
        """Everything of one machine."""
        return self.folder / uid

    @property
    def state_id(self) -> str:
        """By which a process tells whose it is when all records are lost: of the folder's path, which stays."""
        return hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:12]

    def uids(self) -> list[str]:
        """All machines that have a folder."""
        if not self.folder.exists():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())

    def read(self, uid: str) -> Record | None:
        """The machine's record, None when it has none. A torn one is moved aside.

        Raises:
            TornRecord: it was moved to `record.torn`.
            Refused: it is of a newer version.
        """
        path = self.machine_folder(uid) / _FILE
        try:
            record = _from_json(json.loads(path.read_bytes()))
            if record.uid != uid:
                raise ValueError(f"it is the record of {record.uid}")
            return record
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IsADirectoryError) as error:
            try:
                path.rename(path.with_name("record.torn"))
            except OSError:  # a folder is in the way, or the record is one
                path.rename(path.with_name(f"record.{secrets.token_hex(4)}.torn"))
            raise TornRecord(f"{path}: {error!r}") from error

    def write(self, record: Record) -> None:
        """Durable when it returns: the file, and its name."""
        folder = self.machine_folder(record.uid)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = folder / f"{_FILE}.new"
        with fresh.open("wb") as file:
            file.write(json.dumps(_to_json(record), indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / _FILE)
        _sync_folder(folder)

    def remove(self, uid: str) -> None:
        """The record first, so that a crash in between leaves files without a machine, never a machine without."""
        folder = self.machine_folder(uid)
        (folder / _FILE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_json(record: Record) -> dict[str, Any]:
    values = dataclasses.asdict(record)
    for name in ("started_at", "shut_down_asked_at"):
        values[name] = values[name].isoformat() if values[name] else None
    if record.last_exit is not None:
        values["last_exit"]["time"] = record.last_exit.time.isoformat()
    return {"format": FORMAT, **values}


def _from_json(values: dict[str, Any]) -> Record:
    if isinstance(values["format"], int) and values["format"] > FORMAT:
        message = f"the record of machine {values.get('uid')} is of a newer version of this agent; upgrade it again"
        raise Refused(message, reason=Reason.RECORD_TOO_NEW)
    if values["format"] not in _READABLE:
        raise ValueError(f"format {values['format']}, this version reads {sorted(_READABLE)}")
    last_exit, process = values["last_exit"], values["process"]
    return Record(
        uid=values["uid"],
        namespace=values["namespace"],
        name=values["name"],
        owner=Owner(**values["owner"]),
        intent=Intent(values["intent"]),
        definition=_definition(values["definition"]),
        running=_definition(values["running"]),
        incarnation=values["incarnation"],
        process=_process(process) if process else None,
        started_at=_time(values["started_at"]),
        shut_down_asked_at=_time(values["shut_down_asked_at"]),
        last_exit=Exit(ExitReason(last_exit["reason"]), datetime.fromisoformat(last_exit["time"]), last_exit["message"])
        if last_exit
        else None,
        # Absent in format 1.
        ended_by_itself=values.get("ended_by_itself", False),
        restarts=values.get("restarts", 0),
        memory=values.get("memory", ""),
        user=values.get("user"),
    )


def _process(values: dict[str, Any]) -> ProcessIdentity:
    pid, start_ticks = values["pid"], values["start_ticks"]
    if not isinstance(pid, int) or not isinstance(start_ticks, int) or not 0 < pid < _MAX_PID:
        raise ValueError(f"no process: {values}")
    return ProcessIdentity(str(values["boot_id"]), pid, start_ticks)


def _definition(values: dict[str, Any] | None) -> Definition | None:
    if values is None:
        return None
    disks = tuple(
        DiskDefinition(**{**disk, "format": DiskFormat(disk["format"]), "type": DiskType(disk["type"])})
        for disk in values["disks"]
    )
    # Absent in formats 1 to 3.
    nics = tuple(
        NicDefinition(**nic | {"model": InterfaceModel(nic["model"]), "stage": NicStage(nic.get("stage", "Plugged"))})
        for nic in values.get("nics", ())
    )
    display = values.get("display")
    return Definition(**{**values, "disks": disks, "display": DisplayType(display) if display else None, "nics": nics})


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
