"""Router namespaces: each held by a file below the runtime folder that it is bind-mounted on.

The mount is all there is of it, so it is the record: one that was made is found again by whoever lists the folder.
"""

import ctypes
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from virtplane_drivers.host import netns
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.network.linux.names import namespace_path

P = ParamSpec("P")
T = TypeVar("T")

_MS_BIND = 0x1000
_MNT_DETACH = 2
_NS_GET_NSTYPE = 0xB703
"""ioctl_ns(2)."""
_libc = ctypes.CDLL(None, use_errno=True)


async def ensure_namespace(path: Path) -> bool:
    """Whether the namespace had to be made. A file in its place that holds none is replaced.

    Raises:
        OSError: not permitted, or something else is in the way.
    """
    return await in_thread(_ensure, path)


async def remove_namespace(path: Path) -> None:
    """Neither mount nor file is left. The kernel takes the links in it down some time later, once nothing holds it."""
    await in_thread(_remove, path)


async def in_namespace(path: Path | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What a blocking function returns or raises in a thread that entered the namespace, and ends after it.

    None: the process's own.

    Raises:
        OSError: there is no such namespace.
    """

    def entered() -> T:
        netns.enter(path or netns.OWN)
        return function(*args, **kwargs)

    return await in_thread(entered)


def namespaces(runtime_folder: Path) -> tuple[str, ...]:
    """UIDs of the networks whose namespace is there, in no order. Blocking."""
    return tuple(uid for uid in begun(runtime_folder) if is_namespace(namespace_path(runtime_folder, uid)))


def begun(runtime_folder: Path) -> tuple[str, ...]:
    """Those, and the ones that somebody was killed over before the mount. Blocking."""
    try:
        return tuple(file.name for file in namespace_path(runtime_folder, "any").parent.iterdir())
    except FileNotFoundError:
        return ()


def is_namespace(path: Path) -> bool:
    """Whether the file holds a network namespace. Blocking."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == netns.CLONE_NEWNET
    except OSError:  # a plain file knows no such question
        return False
    finally:
        os.close(descriptor)


def _ensure(path: Path) -> bool:
    if is_namespace(path):
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of somebody who was killed before the mount
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o400))
    # The thread is ours alone and ends after this: from the mount on, that holds the namespace.
    netns.enter_new()
    source, target = os.fsencode(netns.OF_THREAD), os.fsencode(path)
    netns.checked(_libc.mount(source, target, None, _MS_BIND, None), path)
    return True


def _remove(path: Path) -> None:
    while is_namespace(path):  # more than once: two were mounted on each other
        netns.checked(_libc.umount2(os.fsencode(path), _MNT_DETACH), path)
    path.unlink(missing_ok=True)
