"""How a job says why its volume could not be made."""

import errno

from virtplane_api.reasons import Reason
from virtplane_drivers.storage.contract import Failure

_MESSAGE_CHARS = 4096


class VolumeFailed(Exception):
    """Ends a job; `failure` is what `observe` then shows. What strangers put into the message is made harmless."""

    def __init__(self, reason: str, message: str, *, retry_after_s: float | None) -> None:
        message = "".join(char if char.isprintable() else " " for char in message)[:_MESSAGE_CHARS]
        super().__init__(message)
        self.failure = Failure(reason, message, retry_after_s)


def from_os_error(error: OSError, doing: str) -> VolumeFailed:
    """The failure that an error of the file system means to the user; all of these may heal."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return VolumeFailed(Reason.NO_SPACE, f"no space is left while {doing}", retry_after_s=60.0)
    return VolumeFailed(Reason.STORAGE_ERROR, f"{doing}: {error.strerror or error}", retry_after_s=30.0)
