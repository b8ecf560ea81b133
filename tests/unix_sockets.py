"""Unix sockets below a test's own folder, whose path grows with the number of runs and the names of tests."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """To bind or to connect to within the block: an address holds 107 bytes (unix(7)), a path may be longer."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextmanager
def bound(path: Path) -> Iterator[socket.socket]:
    """A stream socket of this path, which does not listen yet; its `getsockname` is good within the block."""
    with address_of(path) as address, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        yield listener
