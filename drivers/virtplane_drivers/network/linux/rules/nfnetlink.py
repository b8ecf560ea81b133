"""What nftables and the tracking of connections are asked by: nfnetlink, in the thread's namespace. Blocking.

Sources: linux/netlink.h, linux/netfilter/nfnetlink.h.
"""

import os
import socket
import struct
from collections.abc import Iterator

REQUEST, ACK, DUMP = 1, 4, 0x300
NESTED = 0x8000
"""In the kind of an attribute that has attributes."""
TYPE_MASK = 0x3FFF
"""The kind without such flags."""
ATTRIBUTE = struct.Struct("=HH")
_HEADER, _FAMILY_HEADER = struct.Struct("=IHHII"), struct.Struct("!BBH")
_TIMEOUT_S = 30.0
_NETLINK_NETFILTER = 12
_ERROR, _DONE = 2, 3
_BUFFER_BYTES = 1 << 17


def opened() -> socket.socket:
    """A socket for requests, one after the other; to be closed."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    kernel.settimeout(_TIMEOUT_S)
    return kernel


def asked(kernel: socket.socket, kind: int, flags: int, family: int, body: bytes = b"") -> list[tuple[int, bytes]]:
    """Kinds and attributes of what the kernel answers at once.

    Raises:
        OSError: what it refuses with.
    """
    _send(kernel, kind, flags, family, body)
    return [(kind, body[_FAMILY_HEADER.size :]) for kind, body in _received(kernel)]


def dumped(kernel: socket.socket, kind: int, family: int, body: bytes = b"") -> Iterator[tuple[int, bytes]]:
    """Families and attributes of all that there is. Until it is at its end the kernel answers nothing else.

    Raises:
        OSError: what it refuses with.
    """
    _send(kernel, kind, REQUEST | DUMP, family, body)
    while True:
        for answer, message in _received(kernel):
            if answer == _DONE:
                return
            yield message[0], message[_FAMILY_HEADER.size :]


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kinds and values, in their order."""
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        yield kind & TYPE_MASK, data[offset + ATTRIBUTE.size : offset + length]
        offset += padded(length)


def attribute(kind: int, value: bytes) -> bytes:
    """One, as it is sent."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def padded(length: int) -> int:
    """Where what follows begins."""
    return (length + 3) // 4 * 4


def _send(kernel: socket.socket, kind: int, flags: int, family: int, body: bytes) -> None:
    length = _HEADER.size + _FAMILY_HEADER.size + len(body)
    kernel.send(_HEADER.pack(length, kind, flags, 1, 0) + _FAMILY_HEADER.pack(family, 0, 0) + body)


def _received(kernel: socket.socket) -> Iterator[tuple[int, bytes]]:
    data = kernel.recv(_BUFFER_BYTES)
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        body = data[offset + _HEADER.size : offset + length]
        if kind in (_ERROR, _DONE):
            code = -int(struct.unpack_from("=i", body)[0])
            if code:
                raise OSError(code, os.strerror(code), "netlink")
        yield kind, body
        offset += padded(length)
