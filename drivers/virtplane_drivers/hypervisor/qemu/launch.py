"""A run's beginning: its folder, its monitor's listening socket, its process. Blocking; for a thread."""

import contextlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from virtplane_drivers.hypervisor.qemu.argv import Run, argv_of
from virtplane_drivers.hypervisor.qemu.output import QEMU_LOG, SERIAL_LOG
from virtplane_drivers.hypervisor.qemu.process import spawn
from virtplane_drivers.hypervisor.qemu.record import Record

MONITOR = "monitor"


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that was started."""

    argv: tuple[str, ...]
    child: "subprocess.Popen[bytes]"


def run_folder(runtime_folder: Path, uid: str, incarnation: str) -> Path:
    """Of one run: a stale socket of an earlier one can never be met."""
    return runtime_folder / uid / incarnation


def launch(record: Record, runtime_folder: Path, machine_folder: Path) -> Launched:
    """Start the machine's process, with its monitor listening already: nobody need wait for a socket to appear.

    Raises:
        OSError: QEMU cannot be executed, or a folder cannot be made.
    """
    definition = record.definition
    assert definition is not None  # noqa: S101  # `start` looked
    folder = run_folder(runtime_folder, record.uid, record.incarnation)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(_listen(folder)) as listener:
        run = Run(
            uid=record.uid,
            incarnation=record.incarnation,
            owner=record.owner,
            monitor_fd=listener.fileno(),
            serial_log=machine_folder / SERIAL_LOG,
        )
        argv = argv_of(definition, run)
        child = spawn(argv, output=machine_folder / QEMU_LOG, pass_fds=[listener.fileno()])
    return Launched(tuple(argv), child)


def clear_runs(runtime_folder: Path, uid: str) -> None:
    """Remove the folders of all runs of a machine that has no process."""
    shutil.rmtree(runtime_folder / uid, ignore_errors=True)


def _listen(folder: Path) -> socket.socket:
    """A socket bound through the folder's descriptor: an address holds 107 bytes (unix(7)), a path may be longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/{MONITOR}")
            listener.listen(1)
        except BaseException:
            listener.close()
            raise
        return listener
    finally:
        os.close(descriptor)
