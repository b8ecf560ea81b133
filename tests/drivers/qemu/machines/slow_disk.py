"""A disk image that answers writes when a test lets it: one file, mounted by FUSE, whose server is a thread here.

A process that waits for an answer which FUSE's server has taken on and not given cannot be ended, not by SIGKILL: as on
a disk that is away (state D of proc(5)). When this process ends, the kernel answers in its place.
"""

import ctypes
import os
import struct
import threading
from enum import IntEnum
from pathlib import Path


class Operation(IntEnum):
    """Of linux/fuse.h, enum fuse_opcode: those that QEMU brings about. Others are answered with ENOSYS."""

    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    WRITE = 16
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    BATCH_FORGET = 42


_NOT_ANSWERED = (Operation.FORGET, Operation.INTERRUPT, Operation.BATCH_FORGET)
_HEADER = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_RANGE = struct.Struct("<QQI")
"""Handle, offset and size: how the arguments of READ and WRITE begin."""
_WRITE_ARGUMENTS_BYTES = 40
_MAX_WRITE_BYTES = 128 << 10
_MODE = 0o100600
_ENOSYS = 38


class SlowDisk:
    """The server, and the image while it is mounted. To be made in a mount namespace that goes with the process."""

    def __init__(self, image: Path) -> None:
        self.content = bytearray(image.read_bytes())
        self.holds_writes = False
        """Writes wait from now on, until `let_go`."""
        self.waiting: list[bytes] = []
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode={_MODE:o},user_id=0,group_id=0,allow_other"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"slow-disk", os.fsencode(image), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "FUSE cannot be mounted")
        self._changing = threading.Lock()
        threading.Thread(target=self._serve, daemon=True, name="FUSE server").start()

    def let_go(self) -> None:
        """Answer what waits, and hold nothing any more."""
        with self._changing:
            self.holds_writes = False
            waiting, self.waiting = self.waiting, []
        for request in waiting:
            self._answer(request)

    def _serve(self) -> None:
        while True:
            request = os.read(self._device, _MAX_WRITE_BYTES + 4096)
            _length, operation, *_ = _HEADER.unpack_from(request)
            with self._changing:
                is_held = operation == Operation.WRITE and self.holds_writes
                if is_held:
                    self.waiting.append(request)
            if not is_held and operation not in _NOT_ANSWERED:
                self._answer(request)

    def _answer(self, request: bytes) -> None:
        _length, operation, number, *_ = _HEADER.unpack_from(request)
        body = self._done(operation, request[_HEADER.size :])
        error = -_ENOSYS if body is None else 0
        body = body or b""
        os.write(self._device, _ANSWER.pack(_ANSWER.size + len(body), error, number) + body)

    def _done(self, operation: int, arguments: bytes) -> bytes | None:
        match operation:
            case Operation.INIT:
                return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, _MAX_WRITE_BYTES, 1, 0, 0, 0)
            case Operation.GETATTR:
                size, no_times, no_owner = len(self.content), (0,) * 6, (0,) * 3
                numbers = (1, size, size // 512, *no_times, _MODE, 1, *no_owner, 4096, 0)
                return struct.pack("<QII6Q3I7I", 3600, 0, 0, *numbers)
            case Operation.OPEN:
                return struct.pack("<QII", 1, 1, 0)  # each read and write comes here, none ends in the page cache
            case Operation.READ:
                _handle, offset, size = _RANGE.unpack_from(arguments)
                return bytes(self.content[offset : offset + size])
            case Operation.WRITE:
                _handle, offset, size = _RANGE.unpack_from(arguments)
                self.content[offset : offset + size] = arguments[_WRITE_ARGUMENTS_BYTES:]
                return struct.pack("<II", size, 0)
            case Operation.FSYNC | Operation.FLUSH | Operation.RELEASE:
                return b""
            case _:
                return None
