"""Child processes that read hostile bytes: bounded in memory, CPU, output and time; never outliving the job.

`setpriv` and `prlimit` (util-linux) set the bounds and become the program, so the process known here is the program
itself. The kernel kills it when this process dies.

Each is started, read and waited for in a thread of its own. A fork waits until its child has closed what it inherited,
and a file of a pool that hangs is not closed before that pool answers: in the event loop that would stop the agent. And
a child that waits for such a pool does not die when it is killed.
"""

import asyncio
import os
import selectors
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from virtplane_drivers.host.blocking import in_thread

KEPT_OUTPUT_BYTES = 16 * 1024
_READ_BYTES = 4096
_DEATH_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use."""

    wall_s: float
    cpu_s: int
    address_space_bytes: int = 1 << 30
    file_bytes: int | None = None
    """The largest file that it may write."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended."""

    exit_status: int
    """Negative: the signal that killed it."""
    stdout: str
    stderr: str


class OutOfTime(Exception):
    """The child was killed when its wall-clock time was over."""


def confined(argv: Sequence[str], limits: Limits) -> list[str]:
    """`argv`, with the limits that the kernel keeps put around it."""
    file_bytes = [] if limits.file_bytes is None else [f"--fsize={limits.file_bytes}"]
    bounds = [f"--as={limits.address_space_bytes}", f"--cpu={limits.cpu_s}", "--core=0", *file_bytes]
    return ["setpriv", "--no-new-privs", "--pdeathsig", "KILL", "prlimit", *bounds, "--", *argv]


async def run(argv: Sequence[str], limits: Limits) -> Finished:
    """Runs a child to its end; when cancelled, kills and reaps it first, unless it waits for a pool that hangs.

    Raises:
        OutOfTime: it ran longer than `limits.wall_s`.
        FileNotFoundError: util-linux is not installed.
    """
    child = _Child(confined(argv, limits))
    running = asyncio.create_task(in_thread(child.run), name=f"run {argv[0]}")
    try:
        await asyncio.wait([running], timeout=limits.wall_s)
        if running.done():
            return running.result()
        raise OutOfTime(f"{argv[0]} took longer than {limits.wall_s:.0f} s")
    finally:
        if not running.done():
            child.kill()
            await asyncio.wait([running], timeout=_DEATH_TIMEOUT_S)
            running.cancel()


class _Child:
    """One child, of a thread that runs it and of those who want its end."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def run(self) -> Finished:
        """Start it, and wait for its end. Blocking."""
        process = subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "LC_ALL": "C.UTF-8"},
        )
        with process:
            self._process = process
            if self._is_killed:  # while it was being started
                process.kill()
            stdout, stderr = _kept(process)
        return Finished(process.returncode, stdout, stderr)

    def kill(self) -> None:
        """SIGKILL, now or as soon as it is started."""
        self._is_killed = True
        if self._process is not None:
            self._process.kill()


def _kept(process: "subprocess.Popen[bytes]") -> tuple[str, str]:
    """The last KEPT_OUTPUT_BYTES of both its streams, at their ends."""
    streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
    kept = {stream.fileno(): b"" for stream in streams}
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                piece = os.read(key.fd, _READ_BYTES)
                kept[key.fd] = (kept[key.fd] + piece)[-KEPT_OUTPUT_BYTES:]
                if not piece:
                    selector.unregister(key.fileobj)
    stdout, stderr = (kept[stream.fileno()].decode(errors="replace") for stream in streams)
    return stdout, stderr
