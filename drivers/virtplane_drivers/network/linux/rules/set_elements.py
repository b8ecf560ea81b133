"""The elements of a set of nftables as the kernel has them, read by netlink.

nft(8) would be a process for each set, and takes the whole rule set into its memory to print one. Source:
linux/netfilter/nf_tables.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_TIMEOUT_S = 30.0
_NETLINK_NETFILTER = 12
_REQUEST, _DUMP = 1, 0x300
_ERROR, _DONE = 2, 3
_GET_ELEMENTS = 10 << 8 | 13
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_KEY, _EXPIRATION = 1, 5
_VALUE = 1
_TYPE_MASK = 0x3FFF
"""Without the flags that say how an attribute is to be read."""
_FAMILIES = {"inet": 1, "bridge": socket.AF_BRIDGE}
_HEADER, _NF_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("!BBH"), struct.Struct("=HH")
_BUFFER_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set."""

    key: bytes
    """Its parts, each padded to four bytes: of a packet in the order of the network, else in the machine's."""
    expires_s: float
    """How long it stays; 0 of one that stays for ever."""


def elements_of(family: str, table: str, name: str) -> list[Element]:
    """What is in the set of that name, in the thread's namespace; nothing where there is no such set. Blocking.

    Raises:
        OSError: the kernel does not say.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(_request(_FAMILIES[family], table, name))
        try:
            return [element for message in _messages(kernel) for element in _elements(message)]
        except FileNotFoundError:
            return []


def _request(family: int, table: str, name: str) -> bytes:
    body = _NF_HEADER.pack(family, 0, 0) + _text(_TABLE, table) + _text(_SET, name)
    return _HEADER.pack(_HEADER.size + len(body), _GET_ELEMENTS, _REQUEST | _DUMP, 1, 0) + body


def _text(kind: int, value: str) -> bytes:
    encoded = value.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(encoded), kind) + encoded + bytes(-len(encoded) % 4)


def _messages(kernel: socket.socket) -> Iterator[bytes]:
    while True:
        data = kernel.recv(_BUFFER_BYTES)
        while len(data) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            body = data[_HEADER.size : length]
            if kind in (_ERROR, _DONE):
                code = -int(struct.unpack_from("=i", body)[0])
                if code:
                    raise OSError(code, os.strerror(code), "netlink")
                if kind == _DONE:
                    return
                raise OSError(errno.EPROTO, "netlink acknowledges a question")
            yield body[_NF_HEADER.size :]
            data = data[(length + 3) // 4 * 4 :]


def _elements(message: bytes) -> Iterator[Element]:
    for kind, listed in _attributes(message):
        if kind == _ELEMENTS:
            for _, element in _attributes(listed):
                parts = dict(_attributes(element))
                key = dict(_attributes(parts[_KEY]))[_VALUE]
                yield Element(key, int.from_bytes(parts.get(_EXPIRATION, b"")) / 1000)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        yield kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) // 4 * 4
