"""One writer per disk, enforced at the disk itself, for hosts that share it and for managers that err.

Beside each image that is written lies `<image>.lock`. Its lock (fcntl(2), open file description) is held by an open
file that QEMU inherits and knows nothing of, so it lasts exactly as long as QEMU does. Its content says who started
last: it outlives the process, so that an owner of a past that was put back (an API server restored from a backup) is
told from the present one by its smaller token.

All functions block: they are called in a thread.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from virtplane_api.reasons import Reason
from virtplane_drivers.attachment import LOCK_SUFFIX
from virtplane_drivers.errors import Refused, StaleToken, Unavailable
from virtplane_drivers.host.open_file_lock import hold

_FORMAT = 1
_RECORD_BYTES = 4096
_MAX_TOKEN = (1 << 53) - 1
_MAX_TEXT_CHARS = 320
_INCARNATION = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class DiskOwner:
    """Who starts a machine with the disk."""

    cluster_id: str
    machine_uid: str
    machine: str
    """namespace/name, for people."""
    token: int
    hypervisor: str
    incarnation: str
    """The run whose guest booted with the disk: one that goes on from its memory keeps it."""

    def __str__(self) -> str:
        return f"machine {self.machine} ({self.machine_uid}) on {self.hypervisor} under token {self.token}"


@dataclass(frozen=True, slots=True)
class DiskLock:
    """A disk whose lock is held, by an open file that a process may inherit."""

    image: Path
    descriptor: int
    last: DiskOwner | None
    """Who is on record; only what is read under the lock counts."""

    def check_owner(self, owner: DiskOwner, *, claim_is_confirmed: bool) -> None:
        """Whether `owner` may start with the disk.

        `claim_is_confirmed`: the disk was just seen to be given to its machine; only then it is taken from another.

        Raises:
            StaleToken: the machine was started under a greater token.
            Unavailable: it is another machine's, and the claim is not confirmed.
        """
        name, last = self.image.name, self.last
        if last is None:
            return
        if (last.cluster_id, last.machine_uid) == (owner.cluster_id, owner.machine_uid):
            if last.token > owner.token:
                raise StaleToken(f"the disk {name} was last used by {last}", seen=last.token)
        elif not claim_is_confirmed:
            message = f"the disk {name} was last used by {last}, and the API server cannot be asked whose it is now"
            raise Unavailable(message, reason=Reason.CLAIM_NOT_CONFIRMED, retry_after_s=5.0)

    def check_memory(self, incarnation: str) -> None:
        """Whether the memory of that run fits the disk: nobody else may have had it since.

        Raises:
            Refused: it does not.
        """
        if self.last is None or self.last.incarnation != incarnation:
            message = (
                f"the disk {self.image.name} was used by {self.last or 'somebody'} after the machine was suspended"
            )
            raise Refused(f"{message}: its memory does not fit any more", reason=Reason.MEMORY_STALE)

    def write(self, owner: DiskOwner) -> None:
        """Put on record whose the disk is from now on, durably.

        Raises:
            OSError: the lock's file cannot be written.
        """
        if owner == self.last:
            return
        # In place, in a block that is there already: on a full disk the record of before must not be lost.
        content = json.dumps({"format": _FORMAT, **asdict(owner)}).encode() + b"\n"
        os.pwrite(self.descriptor, content.ljust(_RECORD_BYTES), 0)
        os.fsync(self.descriptor)


def lock_disk(image: Path) -> DiskLock:
    """Hold the disk's lock. The descriptor is the caller's to close.

    Raises:
        Unavailable: a process holds the lock, of whatever host.
        OSError: the lock's file cannot be used.
    """
    path = image.with_name(f"{image.name}{LOCK_SUFFIX}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        hold(descriptor)
        return DiskLock(image, descriptor, _read(descriptor))
    except BlockingIOError as error:
        message = f"the disk {image.name} is in use by {_read(descriptor) or 'another process'}"
        os.close(descriptor)
        raise Unavailable(message, reason=Reason.DISK_IN_USE, retry_after_s=5.0) from error
    except BaseException:
        os.close(descriptor)
        raise


def booted_incarnation(image: Path) -> str:
    """Of the last owner of the disk; empty when nobody is on record.

    Raises:
        OSError: the lock's file cannot be read.
    """
    try:
        descriptor = os.open(image.with_name(f"{image.name}{LOCK_SUFFIX}"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    with os.fdopen(descriptor):
        last = _read(descriptor)
    # It becomes part of a path, and a guest that broke into its QEMU can write here.
    return last.incarnation if last is not None and _INCARNATION.fullmatch(last.incarnation) else ""


def _read(descriptor: int) -> DiskOwner | None:
    """The record, in which nothing is trusted: other hosts, and a guest that broke into its QEMU, can write it."""
    line = os.pread(descriptor, _RECORD_BYTES, 0).partition(b"\n")[0]
    if not line.strip(b" \0"):
        return None
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        # Torn: whoever wrote it was killed in that moment, and held the lock, which is free now.
        return None
    if not isinstance(values, dict) or not isinstance(values.pop("format", None), int):
        return None
    names = ("cluster_id", "machine_uid", "machine", "token", "hypervisor", "incarnation")
    texts = [values.get(name) for name in names if name != "token"]
    token = values.get("token")
    if not all(isinstance(text, str) for text in texts) or not isinstance(token, int) or not 0 < token <= _MAX_TOKEN:
        return None
    return DiskOwner(**{name: _clean(values[name]) for name in names})


def _clean(value: Any) -> Any:
    """A text as it may be shown to users."""
    if not isinstance(value, str):
        return value
    return "".join(character if character.isprintable() else "?" for character in value[:_MAX_TEXT_CHARS])
