"""The files of a pool, and how they come and go.

::

    <pool>/<uid>.qcow2 | <uid>.raw      a made volume, mode 0600
    <pool>/<volume's file>.lock         made by who writes the volume, see attachment.LOCK_SUFFIX
    <pool>/.<uid>.<token>.partial       a volume that a job is making
    <pool>/.<uid>.<token>.lock          held by that job (flock); one that nobody holds: a job was killed

Several agents may share the folder. Each job has a token of its own, and a volume gets its name by `link`, which never
replaces: of two jobs for one volume the first to end makes it, and a job whose partial file was deleted ends with
nothing. Every name is made here, opened relative to the folder's descriptor, and no symbolic link is followed.

All functions block: they are called in a thread.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.attachment import LOCK_SUFFIX
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.host.open_file_lock import hold

SECTOR_BYTES = 512
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,62}")
_QCOW2_MAGIC = b"QFI\xfb"
_QCOW2_HEADER = struct.Struct(">4sIQIIQ")
"""Magic, version, backing file's offset and length, cluster bits, virtual size (QEMU, docs/interop/qcow2.txt)."""


@dataclass(frozen=True, slots=True)
class MadeVolume:
    """A volume's file as it lies on the pool."""

    path: Path
    format: DiskFormat
    size_bytes: int | None
    """The virtual size. None: the file is there, but is not what its name says."""


class WorkFile:
    """A volume in the making: an empty file of mode 0600 under a name of its own, and the lock that says so.

    The file is held: what is published is this very file. qemu-img would make another one of its name, if somebody
    deleted this one, and the volume would come back. It is held by its place only (O_PATH): every process that is
    forked meanwhile closes what it inherits, and a file that was open for writing is flushed then, which waits for a
    server that is away.
    """

    def __init__(self, pool: Path, uid: str, token: str, folder_fd: int, lock_fd: int, file_fd: int) -> None:
        self._pool = pool
        self._uid = uid
        self._token = token
        self._folder_fd = folder_fd
        self._lock_fd = lock_fd
        self._file_fd = file_fd

    @property
    def path(self) -> Path:
        """Where the job writes."""
        return self._pool / _partial_name(self._uid, self._token)

    def size_bytes(self, disk_format: DiskFormat) -> int | None:
        """The virtual size of what was written so far, read as `disk_format`."""
        with self._opened(os.O_RDONLY) as file_fd:
            return _virtual_size(file_fd, disk_format)

    def publish(self, disk_format: DiskFormat) -> None:
        """Makes the written file the volume, for good: its bytes and its name are on the disk.

        Raises:
            FileNotFoundError: somebody deleted the volume meanwhile.
        """
        with self._opened(os.O_RDWR) as file_fd:
            os.fsync(file_fd)
        with contextlib.suppress(FileExistsError):  # another job for the same volume was faster
            os.link(
                f"/proc/self/fd/{self._file_fd}",
                volume_name(self._uid, disk_format),
                dst_dir_fd=self._folder_fd,
                follow_symlinks=True,
            )
        _unlink(self._folder_fd, self.path.name)
        os.fsync(self._folder_fd)

    @contextlib.contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        file_fd = os.open(f"/proc/self/fd/{self._file_fd}", flags | os.O_CLOEXEC)
        try:
            yield file_fd
        finally:
            os.close(file_fd)

    def discard(self) -> None:
        """Removes what is left of the work. Called once, at the end of every job."""
        try:
            _unlink(self._folder_fd, self.path.name)
            _unlink(self._folder_fd, _lock_name(self._uid, self._token))
        finally:
            os.close(self._file_fd)
            os.close(self._lock_fd)
            os.close(self._folder_fd)


def volume_name(uid: str, disk_format: DiskFormat) -> str:
    """The name of a made volume's file."""
    return f"{uid}.{disk_format.value}"


def check_uid(uid: str) -> None:
    """Refuses what could be a path or collide with another name: everything but letters, digits and dashes."""
    if not _UID.fullmatch(uid):
        raise Refused(f"{uid!r} cannot name a volume's file", reason=Reason.INVALID_UID)


@contextlib.contextmanager
def opened(pool: Path, *, make: bool = False) -> Iterator[int]:
    """The pool's folder as a descriptor.

    Raises:
        Unavailable: it cannot be opened (or made), with its path and the reason.
    """
    try:
        if make:
            pool.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder_fd = os.open(pool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unavailable(pool, error) from error
    try:
        yield folder_fd
    except OSError as error:
        raise unavailable(pool, error) from error
    finally:
        os.close(folder_fd)


def unavailable(pool: Path, error: OSError) -> Unavailable:
    """The error of a pool that cannot be used now."""
    return Unavailable(f"the folder {pool} cannot be used: {error.strerror or error}", reason=Reason.POOL_UNAVAILABLE)


def made_volume(folder_fd: int, pool: Path, uid: str) -> MadeVolume | None:
    """The volume's file and its size: one open and one read."""
    for disk_format in DiskFormat:
        name = volume_name(uid, disk_format)
        with contextlib.suppress(FileNotFoundError):
            return MadeVolume(pool / name, disk_format, _virtual_size_of(folder_fd, name, disk_format))
    return None


def leftovers(folder_fd: int, uid: str) -> list[str]:
    """The names of unfinished work on the volume, by whichever job."""
    return [name for name in os.listdir(folder_fd) if name.startswith(f".{uid}.")]


def begin_work(pool: Path, uid: str) -> WorkFile:
    """Removes what killed jobs left of the volume, and begins a file of its own.

    Raises:
        OSError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as undo:
        folder_fd = os.open(pool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, folder_fd)
        _remove_abandoned(folder_fd, uid)
        while True:
            token = secrets.token_hex(8)
            lock_fd = _lock(folder_fd, _lock_name(uid, token), os.O_CREAT | os.O_EXCL)
            if lock_fd is not None:
                break
        undo.callback(os.close, lock_fd)
        undo.callback(_unlink, folder_fd, _lock_name(uid, token))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file_fd = os.open(_partial_name(uid, token), flags, 0o600, dir_fd=folder_fd)
        undo.callback(os.close, file_fd)
        place_fd = os.open(f"/proc/self/fd/{file_fd}", os.O_PATH | os.O_CLOEXEC)
        undo.pop_all()
        os.close(file_fd)
        return WorkFile(pool, uid, token, folder_fd, lock_fd, place_fd)


def remove(folder_fd: int, uid: str) -> None:
    """Removes the volume and all work on it, also that of other agents: their jobs then end with nothing."""
    made = [volume_name(uid, disk_format) for disk_format in DiskFormat]
    locks = [f"{name}{LOCK_SUFFIX}" for name in made]
    with contextlib.ExitStack() as stack:
        for name in locks:
            _hold_unused(folder_fd, name, stack)
        # Partial files first: a job of another agent could otherwise make the volume again in between.
        for name in [*leftovers(folder_fd, uid), *made, *locks]:
            _unlink(folder_fd, name)
        os.fsync(folder_fd)


def _hold_unused(folder_fd: int, name: str, stack: contextlib.ExitStack) -> None:
    """Hold a volume's lock, if there is one, until its files are gone: nothing is removed under a guest."""
    try:
        lock_fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except OSError:  # none, or something odd under its name, which nobody can have locked
        return
    stack.callback(os.close, lock_fd)
    try:
        hold(lock_fd)
    except BlockingIOError as error:
        message = f"{name.removesuffix(LOCK_SUFFIX)} is in use by a process that runs; it is removed when that ends"
        raise Unavailable(message, reason=Reason.DISK_IN_USE, retry_after_s=10.0) from error


def _remove_abandoned(folder_fd: int, uid: str) -> None:
    for token in {name.split(".")[2] for name in leftovers(folder_fd, uid)}:
        lock_fd = _lock(folder_fd, _lock_name(uid, token), os.O_CREAT)
        if lock_fd is None:
            continue  # another agent is at work
        for name in (_partial_name(uid, token), _lock_name(uid, token)):
            _unlink(folder_fd, name)
        os.close(lock_fd)


def _lock(folder_fd: int, name: str, flags: int) -> int | None:
    """The descriptor of the locked file, or None when another holds it or has just removed it."""
    lock_fd = os.open(name, flags | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock_fd)
        return None
    except OSError:
        os.close(lock_fd)
        raise
    # Between open and flock another agent may have taken the file for abandoned, and removed it.
    if os.fstat(lock_fd).st_nlink == 0:
        os.close(lock_fd)
        return None
    return lock_fd


def _unlink(folder_fd: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder_fd)


def _partial_name(uid: str, token: str) -> str:
    return f".{uid}.{token}.partial"


def _lock_name(uid: str, token: str) -> str:
    return f".{uid}.{token}.lock"


def _virtual_size_of(folder_fd: int, name: str, disk_format: DiskFormat) -> int | None:
    """The size that a guest sees; None when the name stands for something else than an image.

    Raises:
        FileNotFoundError: there is no such file.
    """
    # O_NONBLOCK: a FIFO of that name must not hold the thread.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file_fd = os.open(name, flags, dir_fd=folder_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link; a socket
            return None
        raise
    try:
        return _virtual_size(file_fd, disk_format)
    finally:
        os.close(file_fd)


def _virtual_size(file_fd: int, disk_format: DiskFormat) -> int | None:
    status = os.fstat(file_fd)
    if not stat.S_ISREG(status.st_mode):
        return None
    if disk_format is DiskFormat.RAW:
        return status.st_size
    header = os.pread(file_fd, _QCOW2_HEADER.size, 0)
    if len(header) < _QCOW2_HEADER.size:
        return None
    magic, _, backing_file_offset, _, _, size_bytes = _QCOW2_HEADER.unpack(header)
    # A volume made here never has a backing file.
    return int(size_bytes) if magic == _QCOW2_MAGIC and backing_file_offset == 0 else None
