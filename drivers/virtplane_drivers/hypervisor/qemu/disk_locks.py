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
from virtplane_drivers.open_file_lock import hold

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


def lock_disk(image: Path, owner: DiskOwner, *, claim_is_confirmed: bool, is_waking: bool = False) -> int:
    """A descriptor that holds the disk's lock for `owner`, whose name is in the record by then.

    `claim_is_confirmed`: the disk was just seen to be given to this machine; only then it is taken from another.
    `is_waking`: a memory of `owner.incarnation` is to go on over the disk; nobody else may have had the disk since.

    Raises:
        Unavailable: a process holds the lock, of whatever host; or another machine's disk without a confirmed claim.
        StaleToken: the machine was started under a greater token.
        Refused: the disk was written since the memory was.
        OSError: the lock's file cannot be used.
    """
    path = image.with_name(f"{image.name}{LOCK_SUFFIX}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, image)
        # Only what is read under the lock counts.
        last = _read(descriptor)
        _check(image, last, owner, claim_is_confirmed=claim_is_confirmed)
        if is_waking and (last is None or last.incarnation != owner.incarnation):
            message = f"the disk {image.name} was used by {last or 'somebody'} after the machine was suspended"
            raise Refused(f"{message}: its memory does not fit any more", reason=Reason.MEMORY_STALE)
        if last != owner:
            _write(descriptor, owner)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def booted_incarnation(image: Path) -> str:
    """Of the last owner of the disk; empty when nobody is on record. Blocking.

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


def _lock(descriptor: int, image: Path) -> None:
    try:
        hold(descriptor)
    except BlockingIOError as error:
        message = f"the disk {image.name} is in use by {_read(descriptor) or 'another process'}"
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


def _write(descriptor: int, owner: DiskOwner) -> None:
    """In place, in a block that is there already: on a full disk the record of before must not be lost."""
    content = json.dumps({"format": _FORMAT, **asdict(owner)}).encode() + b"\n"
    os.pwrite(descriptor, content.ljust(_RECORD_BYTES), 0)
    os.fsync(descriptor)
