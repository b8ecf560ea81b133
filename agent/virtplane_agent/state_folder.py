"""The agent's state folder: one agent at a time, and an identity that outlives it.

A second agent on the same folder would be a second writer to the same guests: an exclusive lock on a file in it, which
ends with the process that holds it, refuses the second and names the first.
"""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StateFolderInUse(Exception):
    """Another agent works on this folder."""


@contextmanager
def state_folder(path: Path) -> Iterator[str]:
    """Hold the folder, made where it is missing; yields the identity that is kept in it.

    Raises:
        StateFolderInUse: with the pid of the holder.
        OSError: it cannot be made or written.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StateFolderInUse(f"{path} is in use by the agent with pid {holder}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield _identity(path / "identity")
    finally:
        os.close(descriptor)


def _identity(path: Path) -> str:
    """A random ID, made once and written whole: a torn one would make this agent a stranger to its own Lease."""
    try:
        return str(uuid.UUID(path.read_text().strip()))
    except (FileNotFoundError, ValueError):
        identity = str(uuid.uuid4())
        fresh = path.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(f"{identity}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        return identity
