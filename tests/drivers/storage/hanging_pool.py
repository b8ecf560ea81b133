"""A folder on a real file system that hangs when told, for this process and for all others.

It is reached through /proc/PID/root of the program that serves it, which has the mount in a namespace of its own: when
that program is gone, by whatever end, so is the mount, and nobody waits for it any more.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

_PROGRAM = "tests.drivers.storage.programs.hanging_files"


class HangingPool:
    """A folder that answers until told otherwise; `behind` is the same, and always answers."""

    def __init__(self, process: "subprocess.Popen[str]", mount: Path, behind: Path) -> None:
        self._process = process
        self.folder = Path(f"/proc/{process.pid}/root{mount}")
        self.behind = behind

    def hang(self) -> None:
        """Whoever asks from now on waits in the kernel, unkillable."""
        self._tell("hang")

    def answer(self) -> None:
        """All that waits is answered, in its order."""
        self._tell("answer")

    def go_away(self) -> None:
        """As an NFS server does: whoever asks from now on waits, and can be killed."""
        self._process.send_signal(signal.SIGSTOP)

    def come_back(self) -> None:
        """After `go_away`."""
        self._process.send_signal(signal.SIGCONT)

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(word, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline().strip() == word


@contextmanager
def hanging_pool(folder: Path, *, flushes: bool = False) -> Iterator[HangingPool]:
    """One below the folder, until the end of the block. `flushes`: also close(2) waits for it."""
    mount, behind = folder / "hanging", folder / "behind"
    for path in (mount, behind):
        path.mkdir()
    request = json.dumps({"mount": str(mount), "folder": str(behind), "flushes": flushes})
    wrapper = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [*wrapper, sys.executable, "-m", _PROGRAM, request],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "mounted"
            pool = HangingPool(process, mount, behind)
            # The kernel learns with the first close(2) whether it is to tell of each.
            (pool.folder / "first").touch()
            (pool.folder / "first").unlink()
            yield pool
        finally:
            process.kill()


@cache
def _can_hang() -> bool:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        return False
    return subprocess.run(["unshare", "--mount", "--", "true"], check=False, capture_output=True).returncode == 0


needs_fuse = pytest.mark.skipif(not _can_hang(), reason="FUSE takes root, /dev/fuse and a mount namespace")
