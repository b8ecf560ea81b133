"""One writer per disk, enforced at the disk itself, for hosts that share it and for managers that err.

Beside each image that is written lies `<image>.lock`. Its lock (fcntl(2), open file description) is held by an open
file that QEMU inherits and knows nothing of, so it lasts exactly as long as QEMU does. Its content says who started
last: it outlives the process, so that an owner of a past that was put back (an API server restored from a backup) is
told from the present one by its smaller token.

All functions block: they are called in a thread.
"""

import fcntl
import json
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.attachment import LOCK_SUFFIX
from virtplane_drivers.errors import Refused, StaleToken, Unavailable

_FORMAT = 1
_MAX_RECORD_BYTES = 4096
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""


@dataclass(frozen=True, slots=True)
class DiskOwner:
    """Who starts a machine with the disk."""

    cluster_id: str
    machine_uid: str
    machine: str
    """namespace/name, for people."""
    token: int
    hypervisor: str

    def __str__(self) -> str:
        return f"machine {self.machine} ({self.machine_uid}) on {self.hypervisor} under token {self.token}"


def lock_disk(image: Path, owner: DiskOwner, *, claim_is_confirmed: bool) -> int:
    """A descriptor that holds the disk's lock for `owner`, whose name is in the record by then.

    `claim_is_confirmed`: the disk was just seen to be given to this machine; only then it is taken from another.

    Raises:
        Unavailable: a process holds the lock, of whatever host; or another machine's disk without a confirmed claim.
        StaleToken: the machine was started under a greater token.
        OSError: the lock's file cannot be used.
    """
    path = image.with_name(f"{image.name}{LOCK_SUFFIX}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        before = _read(descriptor)
        _lock(descriptor, image, before)
        # Only what is read under the lock counts.
        _check(image, _read(descriptor), owner, claim_is_confirmed=claim_is_confirmed)
        _write(descriptor, owner)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, image: Path, holder: DiskOwner | None) -> None:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError) as error:
        message = f"the disk {image.name} is in use by {holder or 'another process'}"
        raise Unavailable(message, reason=Reason.DISK_IN_USE, retry_after_s=5.0) from error


def _check(image: Path, last: DiskOwner | None, owner: DiskOwner, *, claim_is_confirmed: bool) -> None:
    if last is None:
        return
    if (last.cluster_id, last.machine_uid) == (owner.cluster_id, owner.machine_uid):
        if last.token > owner.token:
            raise StaleToken(f"the disk {image.name} was last used by {last}", seen=last.token)
    elif not claim_is_confirmed:
        message = f"the disk {image.name} was last used by {last}, and the API server cannot be asked whose it is now"
        raise Unavailable(message, reason=Reason.CLAIM_NOT_CONFIRMED, retry_after_s=5.0)


def _read(descriptor: int) -> DiskOwner | None:
    content = os.pread(descriptor, _MAX_RECORD_BYTES, 0)
    if not content.strip():
        return None
    try:
        values = json.loads(content)
        if values.pop("format") > _FORMAT:
            raise Refused("its lock's record is of a newer version of Virtplane", reason=Reason.LOCK_RECORD_TOO_NEW)
        return DiskOwner(**values)
    except (ValueError, KeyError, TypeError):
        # Torn: whoever wrote it was killed in that moment, and held the lock, which is free now.
        return None


def _write(descriptor: int, owner: DiskOwner) -> None:
    content = json.dumps({"format": _FORMAT, **asdict(owner)}).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content + b"\n", 0)
    os.fsync(descriptor)
