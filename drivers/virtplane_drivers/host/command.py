"""Commands of the host that answer and end."""

import asyncio
import contextlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    exit_status: int
    """Negative: the signal that killed it."""
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All that it said, what it complained of last."""
        return self.stdout + self.stderr


async def execute(*argv: str, stdin: str = "", timeout_s: float) -> Finished:
    """Run a command to its end. One whose caller is cancelled is killed, and waited for: nothing of it comes later.

    Raises:
        OSError: it cannot be run.
        TimeoutError: it was killed, as it took longer.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(stdin.encode())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return Finished(process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
