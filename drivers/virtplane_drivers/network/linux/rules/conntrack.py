"""The flows that the kernel knows in a network namespace, read and ended by netlink.

One message for each flow. conntrack(8) would read all of them anew for each address and side that is asked for: for 20
guests on a router with 100,000 flows that takes 20 s of CPU, and this 0.7 s.

Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import socket
from collections.abc import Callable, Set
from ipaddress import ip_address

from virtplane_drivers.network.linux.rules.affected import EVERYBODY, Affected
from virtplane_drivers.network.linux.rules.judgement import Flow
from virtplane_drivers.network.linux.rules.nfnetlink import (
    ACK,
    ATTRIBUTE,
    NESTED,
    REQUEST,
    TYPE_MASK,
    asked,
    attribute,
    attributes,
    dumped,
    opened,
    padded,
)

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_ORIGINAL, _REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_IPV4_SOURCE, _IPV4_DESTINATION, _IPV6_SOURCE, _IPV6_DESTINATION = 1, 2, 3, 4
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3


def end_flows_unless(is_kept: Callable[[Flow], bool], among: Affected = EVERYBODY) -> int:
    """How many flows of the thread's namespace were ended: those of which `is_kept` says no. Blocking.

    Only flows with an end in `among` are asked for.

    Raises:
        OSError: the kernel does not say.
    """

    def condemned(body: bytes) -> dict[int, bytes] | None:
        flow = _if_among(body, among)
        return None if flow is None or is_kept(_flow(flow)) else flow

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
        flow = dict(attributes(body))
        asked_for, answered = _directions(flow)
        of_router = (
            _address(asked_for, _IPV4_DESTINATION, _IPV6_DESTINATION),
            _address(answered, _IPV4_SOURCE, _IPV6_SOURCE),
        )
        protocol = dict(attributes(asked_for[_TUPLE_PROTOCOL]))
        port = protocol[_NUMBER][0], int.from_bytes(protocol.get(_DESTINATION_PORT, b""))
        return flow if port in ports and not addresses.isdisjoint(of_router) else None

    return _end_each(condemned)


def _end_each(condemned: Callable[[bytes], dict[int, bytes] | None]) -> int:
    """How many were ended: those of which `condemned` gives the attributes."""
    ended = 0
    with opened() as kernel:
        # All first: to a request in the midst of it the kernel would not answer.
        each = [
            (family, flow)
            for family, body in dumped(kernel, _GET, socket.AF_UNSPEC)
            if family in (socket.AF_INET, socket.AF_INET6) and (flow := condemned(body)) is not None
        ]
        for family, flow in each:
            ended += _end(kernel, family, flow)
    return ended


def _if_among(body: bytes, among: Affected) -> dict[int, bytes] | None:
    """The attributes of a flow that has an end among these. Of 100,000 flows most are looked at no further."""
    ends = _ends(body)
    if ends is not None and ends[0] not in among and ends[1] not in among:
        return None
    flow = dict(attributes(body))
    source, destination = (_address(one, _IPV4_SOURCE, _IPV6_SOURCE) for one in _directions(flow))
    return flow if source in among or destination in among else None


def _ends(body: bytes) -> tuple[bytes, bytes] | None:
    """Sources of both directions, where the kernel puts them: tuple, in it the addresses, the source first of them."""
    found = []
    offset = 0
    for kind in (_ORIGINAL, _REPLY):
        length, tuple_kind = ATTRIBUTE.unpack_from(body, offset)
        _, ip_kind = ATTRIBUTE.unpack_from(body, offset + 4)
        size, source_kind = ATTRIBUTE.unpack_from(body, offset + 8)
        kinds = tuple_kind & TYPE_MASK, ip_kind & TYPE_MASK, source_kind & TYPE_MASK
        if kinds not in ((kind, _TUPLE_IP, _IPV4_SOURCE), (kind, _TUPLE_IP, _IPV6_SOURCE)):
            return None
        found.append(body[offset + 12 : offset + 8 + size])
        offset += padded(length)
    return found[0], found[1]


def _end(kernel: socket.socket, family: int, flow: dict[int, bytes]) -> int:
    # Its zone too: somebody else's rules may have put it into one (OVS does), and the same tuple may be in each.
    told = b"".join(attribute(kind, flow[kind]) for kind in (_ID, _ZONE) if kind in flow)
    which = attribute(_ORIGINAL | NESTED, flow[_ORIGINAL]) + told
    try:
        asked(kernel, _DELETE, REQUEST | ACK, family, which)
    except OSError as error:
        if error.errno != errno.ENOENT:  # it ended by itself
            raise
        return 0
    return 1


def _flow(flow: dict[int, bytes]) -> Flow:
    """Whom it is from tells its first packet; whom it is to, the answer: in between addresses may be replaced."""
    asked_for, answered = _directions(flow)
    protocol, answers_by = (dict(attributes(one[_TUPLE_PROTOCOL])) for one in (asked_for, answered))
    return Flow(
        protocol[_NUMBER][0],
        ip_address(_address(asked_for, _IPV4_SOURCE, _IPV6_SOURCE)),
        ip_address(_address(answered, _IPV4_SOURCE, _IPV6_SOURCE)),
        int.from_bytes(answers_by.get(_SOURCE_PORT, b"")),
    )


def _directions(flow: dict[int, bytes]) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """How a flow was asked for, and how it is answered."""
    return dict(attributes(flow[_ORIGINAL])), dict(attributes(flow[_REPLY]))


def _address(tuple_: dict[int, bytes], ipv4: int, ipv6: int) -> bytes:
    addresses = dict(attributes(tuple_[_TUPLE_IP]))
    return addresses.get(ipv4) or addresses[ipv6]
