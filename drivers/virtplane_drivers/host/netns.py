"""Network namespaces, which threads enter.

A thread stays in the one that it entered, and so do the threads that it starts. So whoever enters one does it in a
thread that ends soon (`blocking.in_thread`, or `call` here), never in one that is used again.

What a thread opens belongs to the namespace that it is in then, and stays with it: sockets, /dev/net/tun, files below
/proc/sys/net (network_namespaces(7)).
"""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

OWN = Path("/proc/self/ns/net")
"""The process's own: that of its first thread."""
OF_THREAD = Path("/proc/thread-self/ns/net")
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: Path) -> None:
    """Take the calling thread into the namespace that a file holds, for good.

    Raises:
        OSError: there is no such file, or it is no namespace.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        checked(_libc.setns(descriptor, CLONE_NEWNET), path)
    finally:
        os.close(descriptor)


def enter_new() -> None:
    """Take the calling thread into a new one, for good. It ends when nothing is in it and no file holds it.

    Raises:
        OSError: not permitted, or too many.
    """
    checked(_libc.unshare(CLONE_NEWNET), OF_THREAD)


def call(path: Path, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function returns or raises in a thread of its own in the namespace. Blocks until then.

    Raises:
        OSError: the namespace cannot be entered.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            enter(path)
            results.append(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            failures.append(error)

    thread = threading.Thread(target=run, name=f"in namespace {path.name}", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def checked(result: int, path: Path) -> None:
    """Raises what a call of the C library said, if it failed."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
