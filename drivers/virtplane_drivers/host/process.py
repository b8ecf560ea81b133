"""A machine's process: started so that it outlives us, known by more than its pid, ended only by a pidfd.

A pid alone may be another process by now. What a pidfd was opened for, and then still had the recorded start time, is
the one that was meant.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SETPRIV = "setpriv"
"""Of util-linux."""

_ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
"""`0` is whoever writes it (cgroups(7)). A group that cannot be entered is left out; QEMU's log says so."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one boot of the host."""

    boot_id: str
    pid: int
    start_ticks: int
    """Clock ticks from boot to its start, /proc/PID/stat field 22."""


class GuestProcess:
    """A living process that we hold a pidfd of."""

    def __init__(self, identity: ProcessIdentity, pidfd: int, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.identity = identity
        self.dead = asyncio.Event()
        self.exit_status: int | None = None
        """Of a child of ours that ended: -N for signal N. None: unknown."""
        self._pidfd = pidfd
        self._child = child
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._died)

    @property
    def is_alive(self) -> bool:
        """Until the kernel says it ended."""
        return not self.dead.is_set()

    def kill(self) -> None:
        """SIGKILL, to exactly this process."""
        with contextlib.suppress(ProcessLookupError):
            if self.is_alive:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def hang_up(self) -> None:
        """SIGHUP, to exactly this process."""
        with contextlib.suppress(ProcessLookupError):
            if self.is_alive:
                signal.pidfd_send_signal(self._pidfd, signal.SIGHUP)

    async def wait(self, timeout_s: float) -> bool:
        """Whether it ended within the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.dead.wait()
        return not self.is_alive

    def let_go(self) -> None:
        """Stop watching; it runs on. May be called again."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            if self._child is not None and self._child.returncode is None:
                # It is to outlive us: Popen would warn of a child that was not waited for.
                self._child.returncode = 0

    def _died(self) -> None:
        # Also one that an earlier driver of this very process started; never waited for, it would stay a zombie.
        with contextlib.suppress(ChildProcessError):
            _pid, status = os.waitpid(self.identity.pid, os.WNOHANG)
            self.exit_status = os.waitstatus_to_exitcode(status)
            if self._child is not None:
                self._child.returncode = self.exit_status
        self.dead.set()
        self.let_go()


def spawn(
    argv: Sequence[str],
    *,
    output: Path | int,
    pass_fds: Sequence[int],
    user: int | None,
    groups: Sequence[int],
    cgroups: Sequence[Path] = (),
) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own: no signal of our terminal or group reaches it.

    What it says goes to `output`: a file, which is emptied, or a descriptor.

    It runs as `user` and in the group of the same number, with `groups` besides; None: as this process does. Changing
    users is left to setpriv(1), in the same process: where Popen is to do it, it forks the agent with all its memory
    instead of vfork(2). Before that it enters the cgroups, by a shell that becomes it: what a program allocates stays
    charged to the group that it was in.

    Raises:
        OSError: the program cannot be executed.
    """
    if shutil.which(argv[0]) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    if user is not None:
        argv = [*_as_user(user, groups), *argv]
    if cgroups:
        argv = ["sh", "-c", _ENTER, "sh", *map(str, cgroups), "--", *argv]
    with contextlib.nullcontext(output) if isinstance(output, int) else output.open("wb") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=pass_fds,
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C"},
        )


def _as_user(user: int, groups: Sequence[int]) -> list[str]:
    further = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    return [SETPRIV, f"--reuid={user}", f"--regid={user}", further, "--"]


def watch_child(child: "subprocess.Popen[bytes]") -> GuestProcess:
    """Hold a process that `spawn` just started. A child's pid is its own until we wait for it."""
    identity = ProcessIdentity(boot_id(), child.pid, start_ticks(child.pid) or 0)
    return GuestProcess(identity, os.pidfd_open(child.pid), child)


def find(identity: ProcessIdentity) -> GuestProcess | None:
    """The process, if it is alive: same boot, same pid, same start."""
    if identity.boot_id != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError as error:
        # The last two: the number is a thread's by now (pidfd_open(2); ENOENT since Linux 6.9).
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        raise
    # In this order: what the pidfd holds cannot be replaced after the look at its start time.
    if start_ticks(identity.pid) != identity.start_ticks:
        os.close(pidfd)
        return None
    return GuestProcess(identity, pidfd)


def boot_id() -> str:
    """Of the running kernel; another one after each boot."""
    return _BOOT_ID.read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started; None when there is none, or only a zombie.

    What was killed while one of its threads waits for a device is not over: its first thread is a zombie, that one may
    still write.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold anything, brackets and blanks too.
    fields = stat.rpartition(")")[2].split()
    state, threads, ticks = fields[0], int(fields[17]), int(fields[19])
    return None if state in ("Z", "X") and threads <= 1 else ticks


def command_lines() -> dict[int, list[str]]:
    """Command line of every process that can be read. What a process says there of itself proves nothing."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return found


def user_of(pid: int) -> int | None:
    """The user that a process is of; None when it is gone, or of several (a setuid program that another one started).

    Not the owner of /proc/PID: that is root's for any process that wants it so (prctl(2), PR_SET_DUMPABLE).
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    users = {int(word) for line in lines if line.startswith("Uid:") for word in line.split()[1:]}
    return users.pop() if len(users) == 1 else None
