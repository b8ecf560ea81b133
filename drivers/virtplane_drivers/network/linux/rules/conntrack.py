"""The flows that the kernel knows in a network namespace, read and ended by netlink.

One message for each flow. conntrack(8) would read all of them anew for each address and side that is asked for: for 20
guests on a router with 100,000 flows that takes 20 s of CPU, and this 0.7 s.

Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Set
from ipaddress import ip_address

from virtplane_drivers.network.linux.rules.affected import EVERYBODY, Affected
from virtplane_drivers.network.linux.rules.judgement import Flow

_TIMEOUT_S = 30.0
_NETLINK_NETFILTER = 12
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIGINAL, _REPLY, _ID = 1, 2, 12
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_IPV4_SOURCE, _IPV4_DESTINATION, _IPV6_SOURCE, _IPV6_DESTINATION = 1, 2, 3, 4
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_TYPE_MASK = 0x3FFF
"""Without the flags that say how an attribute is to be read."""
_HEADER, _NF_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("!BBH"), struct.Struct("=HH")


def end_flows_unless(is_kept: Callable[[Flow], bool], among: Affected = EVERYBODY) -> int:
    """How many flows of the thread's namespace were ended: those of which `is_kept` says no. Blocking.

    Only flows with an end in `among` are asked for.

    Raises:
        OSError: the kernel does not say.
    """

    def condemned(body: bytes) -> dict[int, bytes] | None:
        attributes = _if_among(body, among)
        return None if attributes is None or is_kept(_flow(attributes)) else attributes

    return _end_each(condemned)


def end_flows_through(ports: Set[tuple[int, int]], addresses: Set[bytes]) -> int:
    """How many flows of the thread's namespace were ended: those to one of the ports (protocol, number) whose first
    packet was to one of the addresses, or that one of them answers. Blocking.

    Raises:
        OSError: the kernel does not say.
    """

    def condemned(body: bytes) -> dict[int, bytes] | None:
        if not any(address in body for address in addresses):  # most are looked at no further
            return None
        attributes = _attributes(body)
        asked, answered = _directions(attributes)
        of_router = (
            _address(asked, _IPV4_DESTINATION, _IPV6_DESTINATION),
            _address(answered, _IPV4_SOURCE, _IPV6_SOURCE),
        )
        protocol = _attributes(asked[_TUPLE_PROTOCOL])
        port = protocol[_NUMBER][0], int.from_bytes(protocol.get(_DESTINATION_PORT, b""))
        return attributes if port in ports and not addresses.isdisjoint(of_router) else None

    return _end_each(condemned)


def _end_each(condemned: Callable[[bytes], dict[int, bytes] | None]) -> int:
    """How many were ended: those of which `condemned` gives the attributes."""
    ended = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        # All first: to a request in the midst of it the kernel would not answer.
        each = [(family, attributes) for family, body in _known(kernel) if (attributes := condemned(body)) is not None]
        for family, attributes in each:
            ended += _end(kernel, family, attributes)
    return ended


def _if_among(body: bytes, among: Affected) -> dict[int, bytes] | None:
    """The attributes of a flow that has an end among these. Of 100,000 flows most are looked at no further."""
    ends = _ends(body)
    if ends is not None and ends[0] not in among and ends[1] not in among:
        return None
    attributes = _attributes(body)
    asked, answered = _directions(attributes)
    source, destination = (_address(one, _IPV4_SOURCE, _IPV6_SOURCE) for one in (asked, answered))
    return attributes if source in among or destination in among else None


def _ends(body: bytes) -> tuple[bytes, bytes] | None:
    """Sources of both directions, where the kernel puts them: tuple, in it the addresses, the source first of them."""
    found = []
    offset = 0
    for kind in (_ORIGINAL, _REPLY):
        length, tuple_kind = _ATTRIBUTE.unpack_from(body, offset)
        _, ip_kind = _ATTRIBUTE.unpack_from(body, offset + 4)
        size, source_kind = _ATTRIBUTE.unpack_from(body, offset + 8)
        kinds = tuple_kind & _TYPE_MASK, ip_kind & _TYPE_MASK, source_kind & _TYPE_MASK
        if kinds not in ((kind, _TUPLE_IP, _IPV4_SOURCE), (kind, _TUPLE_IP, _IPV6_SOURCE)):
            return None
        found.append(body[offset + 12 : offset + 8 + size])
        offset += (length + 3) // 4 * 4
    return found[0], found[1]


def _known(kernel: socket.socket) -> Iterator[tuple[int, bytes]]:
    kernel.send(_message(_GET, _REQUEST | _DUMP, socket.AF_UNSPEC, b""))
    while True:
        for kind, body in _answers(kernel):
            if kind == _DONE:
                return
            family, _, _ = _NF_HEADER.unpack_from(body)
            if family in (socket.AF_INET, socket.AF_INET6):
                yield family, body[_NF_HEADER.size :]


def _end(kernel: socket.socket, family: int, attributes: dict[int, bytes]) -> int:
    which = b"".join(_attribute(kind, attributes[kind]) for kind in (_ORIGINAL, _ID) if kind in attributes)
    kernel.send(_message(_DELETE, _REQUEST | _ACK, family, which))
    try:
        list(_answers(kernel))
    except OSError as error:
        if error.errno != errno.ENOENT:  # it ended by itself
            raise
        return 0
    return 1


def _answers(kernel: socket.socket) -> Iterator[tuple[int, bytes]]:
    data = kernel.recv(1 << 17)
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        body = data[_HEADER.size : length]
        if kind == _ERROR:
            code = -int(struct.unpack_from("=i", body)[0])
            if code:
                raise OSError(code, os.strerror(code), "netlink")
        yield kind, body
        data = data[(length + 3) // 4 * 4 :]


def _flow(attributes: dict[int, bytes]) -> Flow:
    """Whom it is from tells its first packet; whom it is to, the answer: in between addresses may be replaced."""
    asked, answered = _directions(attributes)
    protocol, answers_by = _attributes(asked[_TUPLE_PROTOCOL]), _attributes(answered[_TUPLE_PROTOCOL])
    return Flow(
        protocol[_NUMBER][0],
        ip_address(_address(asked, _IPV4_SOURCE, _IPV6_SOURCE)),
        ip_address(_address(answered, _IPV4_SOURCE, _IPV6_SOURCE)),
        int.from_bytes(answers_by.get(_SOURCE_PORT, b"")),
    )


def _directions(attributes: dict[int, bytes]) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """How a flow was asked for, and how it is answered."""
    return _attributes(attributes[_ORIGINAL]), _attributes(attributes[_REPLY])


def _address(tuple_: dict[int, bytes], ipv4: int, ipv6: int) -> bytes:
    addresses = _attributes(tuple_[_TUPLE_IP])
    return addresses.get(ipv4) or addresses[ipv6]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        found[kind & _TYPE_MASK] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) // 4 * 4 :]
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    nested = 0x8000 if kind == _ORIGINAL else 0
    padding = -len(value) % 4
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind | nested) + value + bytes(padding)


def _message(kind: int, flags: int, family: int, attributes: bytes) -> bytes:
    length = _HEADER.size + _NF_HEADER.size + len(attributes)
    return _HEADER.pack(length, kind, flags, 1, 0) + _NF_HEADER.pack(family, 0, 0) + attributes
