"""A run's beginning: its folder, its monitor's socket, its open files, its process. Blocking; for a thread."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtplane_drivers.host.process import spawn
from virtplane_drivers.hypervisor.qemu.argv import Run, argv_of
from virtplane_drivers.hypervisor.qemu.disk_locks import DiskOwner
from virtplane_drivers.hypervisor.qemu.grants import granted
from virtplane_drivers.hypervisor.qemu.output import QEMU_LOG, SERIAL_LOG
from virtplane_drivers.hypervisor.qemu.record import Intent, Record
from virtplane_drivers.hypervisor.qemu.suspension import MemoryFile

MONITOR = "monitor"
GUEST_AGENT = "guest-agent"


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that was started."""

    argv: tuple[str, ...]
    child: "subprocess.Popen[bytes]"


@dataclass(frozen=True, slots=True)
class LaunchSite:
    """What all runs of a driver have in common."""

    runtime_folder: Path
    state_id: str
    hypervisor: str
    """Name of the Hypervisor; in the records of disks' locks."""
    groups: Sequence[int] = ()
    """That a machine's user is in besides its own group."""


def run_folder(runtime_folder: Path, uid: str, incarnation: str) -> Path:
    """Of one run: a stale socket of an earlier one can never be met."""
    return runtime_folder / uid / incarnation


def launch(
    record: Record, site: LaunchSite, machine_folder: Path, cgroups: Sequence[Path], *, claims_confirmed: bool
) -> Launched:
    """Start the process of the run that the record describes (`running`, `incarnation`, `intent`, `user`).

    Its monitor listens already: nobody need wait for a socket to appear.

    Raises:
        Unavailable, StaleToken, Refused: a disk may not be used, see `disk_locks`.
        OSError: QEMU cannot be executed, or a file or folder cannot be used.
    """
    definition = record.running
    assert definition is not None  # noqa: S101  # `start` looked
    is_waking = record.intent is Intent.WAKING
    grants_of_run = granted(
        definition,
        machine_folder / SERIAL_LOG,
        _owner(record, site),
        claims_confirmed=claims_confirmed,
        is_waking=is_waking,
    )
    folder = run_folder(site.runtime_folder, record.uid, record.incarnation)
    with grants_of_run as grants, _listening(folder, MONITOR) as monitor, _listening(folder, GUEST_AGENT) as agent:
        run = Run(
            uid=record.uid,
            incarnation=record.incarnation,
            owner=record.owner,
            state_id=site.state_id,
            monitor_fd=monitor,
            guest_agent_fd=agent,
            grants=grants,
            is_waking=is_waking,
            is_held=is_held(record),
        )
        argv = argv_of(definition, run)
        child = spawn(
            argv,
            output=machine_folder / QEMU_LOG,
            pass_fds=[monitor, *([agent] if definition.guest_agent else []), *grants.descriptors],
            user=record.user,
            groups=site.groups,
            cgroups=cgroups,
        )
    return Launched(tuple(argv), child)


def is_held(record: Record) -> bool:
    """Whether its cables are pulled before it boots: QEMU has no adapter that begins without one."""
    definition = record.definition
    return definition is not None and not all(nic.link_up for nic in definition.nics)


def clear_runs(runtime_folder: Path, uid: str) -> None:
    """Remove the folders of all runs of a machine that has no process."""
    shutil.rmtree(runtime_folder / uid, ignore_errors=True)


def _owner(record: Record, site: LaunchSite) -> DiskOwner:
    return DiskOwner(
        cluster_id=record.owner.cluster_id,
        machine_uid=record.uid,
        machine=f"{record.namespace}/{record.name}",
        token=record.owner.token,
        hypervisor=site.hypervisor,
        incarnation=_booted(record),
    )


def _booted(record: Record) -> str:
    """A run that wakes goes on as the one whose memory it reads: its guest does not boot."""
    return MemoryFile(Path(record.memory)).incarnation if record.intent is Intent.WAKING else record.incarnation


@contextlib.contextmanager
def _listening(folder: Path, name: str) -> Iterator[int]:
    """Descriptor of a socket of that name in the folder, open for the length of the block."""
    with contextlib.closing(_listen(folder, name)) as listener:
        yield listener.fileno()


def _listen(folder: Path, name: str) -> socket.socket:
    """A socket bound through the folder's descriptor: an address holds 107 bytes (unix(7)), a path may be longer."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/{name}")
            listener.listen(1)
            # While QEMU starts two of its threads may wait for the first client: one would hang in accept(2).
            listener.settimeout(0)
        except BaseException:
            listener.close()
            raise
        return listener
    finally:
        os.close(descriptor)
