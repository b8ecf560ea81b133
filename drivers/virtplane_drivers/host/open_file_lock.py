"""A lock that belongs to an open file (fcntl(2), open file description locks), and goes with its last descriptor.

Unlike flock(2) it works over NFS (mounted without `nolock` and `local_lock`), unlike a process's lock it is inherited.
"""

import fcntl
import os
import struct

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""


def hold(descriptor: int) -> None:
    """Lock the whole file for writing, for as long as the open file lasts.

    Raises:
        BlockingIOError: another open file holds it.
        OSError: the file system has no locks.
    """
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except PermissionError as error:  # EACCES, which some systems say instead of EAGAIN
        raise BlockingIOError(*error.args) from error
