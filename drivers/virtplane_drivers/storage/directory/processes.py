"""Child processes that read hostile bytes: bounded in memory, CPU, output and time; never outliving the job.

`setpriv` and `prlimit` (util-linux) set the bounds and become the program, so the process known here is the program
itself. The kernel kills it when this process dies.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

KEPT_OUTPUT_BYTES = 16 * 1024
_READ_BYTES = 4096


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


async def run(
    argv: Sequence[str],
    limits: Limits,
    *,
    stdin_fd: int = asyncio.subprocess.DEVNULL,
    on_output: Callable[[str], None] | None = None,
) -> Finished:
    """Runs a child to its end; when cancelled, kills and reaps it first.

    `on_output` gets each piece of standard output as it comes.

    Raises:
        OutOfTime: it ran longer than `limits.wall_s`.
        FileNotFoundError: util-linux is not installed.
    """
    process = await asyncio.create_subprocess_exec(
        *confined(argv, limits),
        stdin=stdin_fd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "LC_ALL": "C.UTF-8"},
    )
    try:
        async with asyncio.timeout(limits.wall_s):
            stdout, stderr, exit_status = await asyncio.gather(
                _kept(process.stdout, on_output), _kept(process.stderr, None), process.wait()
            )
    except TimeoutError as timeout:
        raise OutOfTime(f"{argv[0]} took longer than {limits.wall_s:.0f} s") from timeout
    finally:
        await _end(process)
    return Finished(exit_status, stdout, stderr)


async def _kept(stream: asyncio.StreamReader | None, on_output: Callable[[str], None] | None) -> str:
    """The last KEPT_OUTPUT_BYTES of the stream."""
    kept = b""
    while stream is not None and (piece := await stream.read(_READ_BYTES)):
        kept = (kept + piece)[-KEPT_OUTPUT_BYTES:]
        if on_output is not None:
            on_output(piece.decode(errors="replace"))
    return kept.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # Drains the pipes too, so that nothing of the transport is left open.
        await process.communicate()
