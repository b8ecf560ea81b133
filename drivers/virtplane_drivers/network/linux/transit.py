"""The addresses between routers and their host: one /31 and one /127 for each network, told by the links themselves.

There is no list of who has which: the /31 of a network is looked for from a place that its UID gives, past all that
other links of the host hold, and once the host's end has it, that is the record. The /127 is that of the /31, so it
is as free as that one.
"""

import hashlib
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from virtplane_drivers.network.linux.values import Transit

IPV6_TRANSIT = IPv6Network("fd76:7274:706c:616e::/96")
"""A ULA (RFC 4193) of our own: never routed beyond a host. Its last 32 bits are the IPv4 address."""
_PAIR = 2


def transit_at(host_ipv4: IPv4Address) -> Transit:
    """The addresses that go with a host's end, which is the even one of its /31."""
    host_ipv6 = IPv6Address(int(IPV6_TRANSIT.network_address) + int(host_ipv4))
    return Transit(host_ipv4, host_ipv4 + 1, host_ipv6, host_ipv6 + 1)


def host_interfaces(transit: Transit, *, ipv6: bool) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The addresses of the host's end."""
    return _interfaces(transit.host_ipv4, transit.host_ipv6 if ipv6 else None, "fe80::1/64")


def router_interfaces(transit: Transit, *, ipv6: bool) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The addresses of the router's end."""
    return _interfaces(transit.router_ipv4, transit.router_ipv6 if ipv6 else None, "fe80::2/64")


def held_transit(cidr: IPv4Network, held: Collection[IPv4Address]) -> Transit | None:
    """What a host's end with these addresses has already."""
    fitting = sorted(address for address in held if address in cidr and int(address) % _PAIR == 0)
    return transit_at(fitting[0]) if fitting else None


def free_transit(cidr: IPv4Network, network_uid: str, taken: Collection[IPv4Network]) -> Transit | None:
    """The first /31 for that network that is no part of what is taken; None: there is none."""
    pairs = cidr.num_addresses // _PAIR
    first = int.from_bytes(hashlib.sha256(network_uid.encode()).digest()[:8]) % pairs
    start = int(cidr.network_address)
    blocked = _blocked(cidr, taken)
    for step in range(pairs):
        index = (first + step) % pairs
        if index not in blocked:
            return transit_at(IPv4Address(start + index * _PAIR))
    return None


def _interfaces(
    ipv4: IPv4Address, ipv6: IPv6Address | None, link_local: str
) -> tuple[IPv4Interface | IPv6Interface, ...]:
    pair = IPv4Interface(f"{ipv4}/31")
    if ipv6 is None:
        return (pair,)
    # Who forwards for others asks for its neighbours from a link-local address (Linux, ndisc_send_ns), or not at all.
    return pair, IPv6Interface(f"{ipv6}/127"), IPv6Interface(link_local)


def _blocked(cidr: IPv4Network, taken: Collection[IPv4Network]) -> set[int]:
    """Indices of the /31s that something is in."""
    start, end = int(cidr.network_address), int(cidr.broadcast_address)
    blocked: set[int] = set()
    for network in taken:
        first, last = max(start, int(network.network_address)), min(end, int(network.broadcast_address))
        blocked.update(range((first - start) // _PAIR, (last - start) // _PAIR + 1) if first <= last else ())
    return blocked
