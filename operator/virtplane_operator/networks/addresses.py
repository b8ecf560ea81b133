"""The addresses of a subnet that machines may have, and which one a machine gets. Pure arithmetic over integers.

A subnet may have 2^64 addresses: nothing here lists them. Not given to machines are the network's own address (of IPv6
the subnet-router anycast address, RFC 4291 2.6.1), the broadcast address of IPv4, the gateway's, and what is excluded.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network
from operator import attrgetter
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any, Literal

from virtplane_api.subnets import gateway_of
from virtplane_api.vocabulary import Addressing

Version = Literal[4, 6]
VERSIONS: tuple[Version, ...] = (4, 6)


class Unusable(Enum):
    """Why a machine cannot have an address."""

    OUTSIDE = "outside"
    NETWORK = "network"
    BROADCAST = "broadcast"
    GATEWAY = "gateway"
    EXCLUDED = "excluded"


_STEPS, _JUMPS = 32, 16
"""How many held addresses in a row are tried at one place, and at how many places, before all are tried in order."""
_FAR_AWAY = 0x9E3779B97F4A7C15
"""Odd, and without a pattern: 2^64 by the golden ratio (Knuth, multiplicative hashing)."""


@dataclass(frozen=True, slots=True)
class Span:
    """Addresses from `start` to `end`, both included."""

    start: int
    end: int


_START = attrgetter("start")


@dataclass(frozen=True, slots=True)
class Subnet:
    """The addresses of one family of a network."""

    cidr: IPv4Network | IPv6Network
    version: Version
    first: int
    """The lowest address that is neither the network's own nor outside."""
    last: int
    """The highest address that is neither the broadcast address nor outside."""
    gateway: int | None
    """None: the network has no router."""
    excluded: tuple[Span, ...]
    """As in the spec, those that run from a higher to a lower address included."""
    blocked: tuple[Span, ...]
    """Excluded addresses and the gateway, within `first` to `last`, in order and apart from each other."""
    size: int
    """How many addresses machines may have."""
    is_claimed: bool = True
    """False: machines choose within it by themselves, and nobody knows what (SLAAC)."""

    def unusable(self, address: int) -> Unusable | None:
        """Why a machine cannot have the address of this family; None: it can."""
        network, broadcast = int(self.cidr.network_address), int(self.cidr.broadcast_address)
        if not network <= address <= broadcast:
            return Unusable.OUTSIDE
        if address == network:
            return Unusable.NETWORK
        if address > self.last:
            return Unusable.BROADCAST
        if address == self.gateway:
            return Unusable.GATEWAY
        return Unusable.EXCLUDED if self._blocked_to(address) is not None else None

    def left(self, held: Iterable[int]) -> int:
        """How many addresses are left when these are held; what is held and may not be (any more) takes nothing."""
        return self.size - sum(1 for address in held if self.unusable(address) is None)

    def choose(self, position: int, held: Container[int], also_held: Container[int] = ()) -> int:
        """The first address from the position on, and round, that nobody holds. There must be one left.

        `position` is any number: the same one leads to the same address while nobody else holds it. In a long row of
        held ones the search goes on elsewhere, so that a network half full of one row is not walked through each time.
        """
        for attempt in range(_JUMPS):
            found = self._next_free(position * _FAR_AWAY**attempt, held, also_held, _STEPS)
            if found is not None:
                return found
        found = self._next_free(position, held, also_held, self.size)
        if found is None:
            raise ValueError(f"no address of {self.cidr} is left")
        return found

    def _next_free(self, position: int, held: Container[int], also_held: Container[int], within: int) -> int | None:
        """The first free address from the position on, and round, unless `within` that many all are held."""
        first, last = self.first, self.last
        address = first + position % (last - first + 1)
        while within > 0:
            if address > last:
                address = first
            blocked_to = self._blocked_to(address) if self.blocked else None
            if blocked_to is not None:
                address = blocked_to + 1
            elif address in held or address in also_held:
                address += 1
                within -= 1
            else:
                return address
        return None

    def _blocked_to(self, address: int) -> int | None:
        """The end of the blocked span that the address is in."""
        index = bisect_right(self.blocked, address, key=_START) - 1
        if index >= 0 and address <= self.blocked[index].end:
            return self.blocked[index].end
        return None


def subnet_of(spec: Mapping[str, Any]) -> Subnet:
    """The subnet that `spec.ipv4` or `spec.ipv6` of a VirtualNetwork describes; its schema is taken for granted."""
    cidr = ip_network(spec["cidr"])
    first = int(cidr.network_address) + 1
    version: Version = 4 if cidr.version == 4 else 6
    last = int(cidr.broadcast_address) - (1 if version == 4 else 0)
    router = gateway_of(spec)
    gateway = int(router) if router is not None else None
    excluded = tuple(
        Span(number_of(one["start"])[1], number_of(one["end"])[1]) for one in spec.get("excludedRanges") or ()
    )
    spans = [*excluded, *([Span(gateway, gateway)] if gateway is not None else [])]
    blocked = _joined(Span(max(first, span.start), min(last, span.end)) for span in spans)
    size = last - first + 1 - sum(span.end - span.start + 1 for span in blocked)
    return Subnet(
        cidr=cidr,
        version=version,
        first=first,
        last=last,
        gateway=gateway,
        excluded=excluded,
        blocked=blocked,
        size=size,
        is_claimed=spec.get("addressing") != Addressing.SLAAC,
    )


def position_of(namespace: str, machine: str, interface: str) -> int:
    """Where the search for an interface's address begins: by names alone, so that a machine made anew begins there."""
    digest = hashlib.sha256(f"{namespace}/{machine}/{interface}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def number_of(address: str) -> tuple[Version, int]:
    """Family and number of an address as text."""
    if ":" in address:
        return 6, int.from_bytes(inet_pton(AF_INET6, address), "big")
    return 4, int.from_bytes(inet_pton(AF_INET, address), "big")


def text_of(version: Version, address: int) -> str:
    """The canonical form of an address (RFC 5952)."""
    if version == 4:
        return inet_ntop(AF_INET, address.to_bytes(4, "big"))
    return inet_ntop(AF_INET6, address.to_bytes(16, "big"))


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """In order, and those that meet as one."""
    joined: list[Span] = []
    for span in sorted((span for span in spans if span.start <= span.end), key=lambda span: span.start):
        if joined and span.start <= joined[-1].end + 1:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return tuple(joined)
