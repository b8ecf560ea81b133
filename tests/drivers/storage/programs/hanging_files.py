"""A file system that can be told to hang: a folder shown again through FUSE, whose answers can be kept back.

It speaks the kernel's own protocol on /dev/fuse (linux/fuse.h, 7.31), without a library, and does as its standard input
says, a word a line: `hang` (requests are taken and not answered: who asked is in an uninterruptible sleep, as with a
dying disk) and `answer`. While it is stopped (SIGSTOP) who asks waits too, and can be killed. The mount is in a
namespace of its own, and goes with this process; so does the sleep of all who wait: the kernel then answers for it.
"""

import ctypes
import errno
import json
import os
import selectors
import stat
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_REQUEST = struct.Struct("IIQQIIII")
"""fuse_in_header: length, opcode, unique, node, uid, gid, pid, extensions."""
_ANSWER = struct.Struct("IiQ")
_ATTRIBUTES = struct.Struct("QQQQQQIIIIIIIIII")
_INIT = struct.Struct("IIIIHHIIHHI7I")
_ROOT = 1
_MAX_WRITE_BYTES = 1 << 17
_NOT_ANSWERED = frozenset({2, 36, 42})
"""FORGET, INTERRUPT, BATCH_FORGET."""
_BY_HANDLE, _SIZE, _MODE = 1 << 6, 1 << 3, 1 << 0
"""Of fuse_setattr_in.valid."""


class Files:
    """The folder's files by node, a number that stands for an inode for as long as the file system lives."""

    def __init__(self, folder: Path, *, flushes: bool) -> None:
        """`flushes`: is asked at each close(2), which waits for the answer."""
        self._folder = folder
        self._places: dict[int, tuple[int, str]] = {}
        """Node -> the node of its folder, and its name there."""
        self._nodes: dict[tuple[int, int], int] = {}
        self._operations: Mapping[int, Callable[[int, bytes], bytes]] = {
            1: lambda node, body: self._entry(node, body[:-1]),  # LOOKUP
            3: self._get_attributes,
            4: self._set_attributes,
            9: self._make_folder,
            10: self._unlink,
            11: self._remove_folder,
            12: self._rename,
            13: self._link,
            14: self._open,
            15: self._read,
            16: self._write,
            17: self._statfs,
            18: self._release,
            20: self._sync,
            26: lambda _node, _body: _INIT.pack(7, 31, 0, 0, 8, 8, _MAX_WRITE_BYTES, 1, 32, 0, *[0] * 8),
            27: self._open,
            28: self._read_folder,
            29: self._release,
            30: self._sync,
            35: self._create,
            45: lambda node, body: self._rename(node, body[:8] + body[16:]),  # RENAME2, without its flags
            **({25: lambda _node, _body: b""} if flushes else {}),  # FLUSH
        }

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """What a request comes to.

        Raises:
            OSError: with the number that the caller gets.
        """
        operation = self._operations.get(opcode)
        if operation is None:
            raise OSError(errno.ENOSYS, "")
        return operation(node, body)

    def _path(self, node: int, name: bytes = b"") -> Path:
        if node == _ROOT:
            return self._folder / os.fsdecode(name)
        folder, own_name = self._places[node]
        return self._path(folder) / own_name / os.fsdecode(name)

    def _entry(self, folder: int, name: bytes) -> bytes:
        """fuse_entry_out; the kernel is to keep nothing of it, so that every look asks anew."""
        path = self._path(folder, name)
        status = path.lstat()
        node = self._nodes.setdefault((status.st_dev, status.st_ino), len(self._nodes) + 2)
        self._places[node] = (folder, path.name)
        return struct.pack("QQQQII", node, 0, 0, 0, 0, 0) + _attributes(node, status)

    def _get_attributes(self, node: int, body: bytes) -> bytes:
        by_handle, _, handle = struct.unpack_from("IIQ", body)
        status = os.fstat(handle) if by_handle & 1 else self._path(node).lstat()
        return struct.pack("QII", 0, 0, 0) + _attributes(node, status)

    def _set_attributes(self, node: int, body: bytes) -> bytes:
        valid, _, handle, size = struct.unpack_from("IIQQ", body)
        where = handle if valid & _BY_HANDLE else self._path(node)
        if valid & _SIZE:
            os.truncate(where, size)
        if valid & _MODE:
            os.chmod(where, stat.S_IMODE(struct.unpack_from("I", body, 68)[0]))  # noqa: PTH101  # or a descriptor
        return self._get_attributes(node, struct.pack("IIQ", bool(valid & _BY_HANDLE), 0, handle))

    def _make_folder(self, node: int, body: bytes) -> bytes:
        self._path(node, body[8:-1]).mkdir(mode=struct.unpack_from("I", body)[0])
        return self._entry(node, body[8:-1])

    def _unlink(self, node: int, body: bytes) -> bytes:
        self._path(node, body[:-1]).unlink()
        return b""

    def _remove_folder(self, node: int, body: bytes) -> bytes:
        self._path(node, body[:-1]).rmdir()
        return b""

    def _rename(self, node: int, body: bytes) -> bytes:
        folder = struct.unpack_from("Q", body)[0]
        old, new = body[8:-1].split(b"\0")
        self._path(node, old).rename(self._path(folder, new))
        self._entry(folder, new)
        return b""

    def _link(self, node: int, body: bytes) -> bytes:
        self._path(node, body[8:-1]).hardlink_to(self._path(struct.unpack_from("Q", body)[0]))
        return self._entry(node, body[8:-1])

    def _open(self, node: int, body: bytes) -> bytes:
        flags = struct.unpack_from("I", body)[0]
        return struct.pack("QII", os.open(self._path(node), flags & ~(os.O_NOFOLLOW | os.O_APPEND)), 0, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("II", body)
        handle = os.open(self._path(node, body[16:-1]), (flags & ~os.O_APPEND) | os.O_CREAT, stat.S_IMODE(mode))
        return self._entry(node, body[16:-1]) + struct.pack("QII", handle, 0, 0)

    def _read(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("QQI", body)
        return os.pread(handle, size, offset)

    def _write(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("QQI", body)
        return struct.pack("II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    def _statfs(self, _node: int, _body: bytes) -> bytes:
        facts = os.statvfs(self._folder)
        sizes = (facts.f_blocks, facts.f_bfree, facts.f_bavail, facts.f_files, facts.f_ffree)
        return struct.pack("5Q10I", *sizes, facts.f_bsize, facts.f_namemax, facts.f_frsize, *[0] * 7)

    def _release(self, _node: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("Q", body)[0])
        return b""

    def _sync(self, _node: int, body: bytes) -> bytes:
        os.fsync(struct.unpack_from("Q", body)[0])
        return b""

    def _read_folder(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("QQI", body)
        answer = b""
        for position, path in enumerate(sorted(self._path(node).iterdir()), start=1):
            name = os.fsencode(path.name)
            record = struct.pack("QQII", path.lstat().st_ino, position, len(name), 0) + name
            record += bytes(-len(record) % 8)
            if position > offset:
                if len(answer) + len(record) > size:
                    break
                answer += record
        return answer


def _attributes(node: int, status: os.stat_result) -> bytes:
    """fuse_attr."""
    times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return _ATTRIBUTES.pack(
        node,
        status.st_size,
        status.st_blocks,
        *(time // 10**9 for time in times),
        *(time % 10**9 for time in times),
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        0,
        4096,
        0,
    )


def mounted(folder: Path) -> int:
    """Mounts a file system on the folder; the descriptor that its requests come from."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hanging", os.fsencode(folder), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount", str(folder))
    return device


def serve(files: Files, device: int) -> None:
    """Until the standard input ends."""
    selector = selectors.DefaultSelector()
    for source in (device, sys.stdin.fileno()):
        selector.register(source, selectors.EVENT_READ)
    kept: list[bytes] = []
    hangs = False
    while True:
        ready = {key.fd for key, _ in selector.select()}
        if sys.stdin.fileno() in ready:
            word = os.read(sys.stdin.fileno(), 64).decode().strip()
            if not word:
                return
            hangs = word == "hang"
            while kept and not hangs:
                _serve(files, device, kept.pop(0))
            print(word, flush=True)
        elif hangs:
            kept.append(os.read(device, _MAX_WRITE_BYTES + 4096))
        else:
            _serve(files, device, os.read(device, _MAX_WRITE_BYTES + 4096))


def _serve(files: Files, device: int, request: bytes) -> None:
    _, opcode, unique, node, *_ = _REQUEST.unpack_from(request)
    if opcode in _NOT_ANSWERED:
        return
    error, body = 0, b""
    try:
        body = files.answer(opcode, node, request[_REQUEST.size :])
    except OSError as failed:
        error = failed.errno or errno.EIO
    try:
        os.write(device, _ANSWER.pack(_ANSWER.size + len(body), -error, unique) + body)
    except FileNotFoundError:
        return  # who asked was killed meanwhile


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    opened = mounted(Path(wanted["mount"]))
    print("mounted", flush=True)
    serve(Files(Path(wanted["folder"]), flushes=wanted["flushes"]), opened)
