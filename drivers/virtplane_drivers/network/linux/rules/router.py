"""The rules of a router namespace: anti-spoofing of its bridge, and what the router lets through and serves.

The router drops what its guests send to the host's own addresses by itself, so that they stay out of reach when
somebody flushes the host's rules. So is what would go to another network's router: IPv6 transits have one prefix, and
IPv4 ones are link-local addresses, which nobody forwards (RFC 3927, 2.7); that also keeps guests from the metadata
service of a host that is a cloud's machine itself. Another `transitCIDR` is to be among `host_addresses`.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from virtplane_api.overlay import UDP_PORT
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import IpAddress, IpNetwork, Network
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.links import bridge_interfaces
from virtplane_drivers.network.linux.rules.firewall import Way, with_firewall, with_states
from virtplane_drivers.network.linux.rules.heard import with_heard
from virtplane_drivers.network.linux.rules.overlay import guard_tables
from virtplane_drivers.network.linux.rules.ruleset import Chain, NamedSet, Ruleset, Table
from virtplane_drivers.network.linux.rules.spoofing import spoofing_table
from virtplane_drivers.network.linux.transit import IPV6_TRANSIT
from virtplane_drivers.network.linux.values import Transit

_NEVER_FORWARDED = (
    IPv4Network("127.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),
    IPv6Network("::1/128"),
    IPv6Network("fe80::/10"),
    IPV6_TRANSIT,
)
MASQUERADED = frozenset({NetworkMode.NAT, NetworkMode.OVERLAY})
"""Modes whose machines reach out under the host's addresses."""
_FROM_GUESTS, _TO_GUESTS = f'iifname "{names.BRIDGE}"', f'oifname "{names.BRIDGE}"'
_FROM_HOST, _TO_HOST = f'iifname "{names.UPLINK}"', f'oifname "{names.UPLINK}"'


def router_ruleset(
    network: Network,
    transit: Transit | None,
    host_addresses: Sequence[IpAddress | IpNetwork],
    way: Way = Way.BRIDGE_NETFILTER,
    *,
    listens: bool = True,
) -> Ruleset:
    """The tables of the router namespace. Pure. Without a transit nothing is forwarded but between guests."""
    bridged = with_heard(spoofing_table(network), network) if listens else spoofing_table(network)
    own_addresses = [interface.ip for interface in bridge_interfaces(network)]
    return (
        with_firewall(bridged, network, own_addresses, way),
        with_states(_routing_table(network, transit, host_addresses), network, way),
        *guard_tables(network),
    )


def _routing_table(network: Network, transit: Transit | None, host_addresses: Sequence[IpAddress | IpNetwork]) -> Table:
    refused: list[IpNetwork] = [*_NEVER_FORWARDED, *(ip_network(address) for address in host_addresses)]
    if transit is not None:
        own = (transit.host_ipv4, transit.router_ipv4, transit.host_ipv6, transit.router_ipv6)
        refused += [ip_network(address) for address in own]
    sets = (
        _refused("refused_ipv4", "ipv4_addr", (one for one in refused if one.version == 4)),
        _refused("refused_ipv6", "ipv6_addr", (one for one in refused if one.version == 6)),
        _forwards("forward_ipv4", network, "ip", 4),
        _forwards("forward_ipv6", network, "ip6", 6),
    )
    return Table("inet", names.ROUTER_TABLE, sets, tuple(_chains(network, transit)))


def _refused(name: str, type_: str, prefixes: Iterable[IpNetwork]) -> NamedSet:
    elements = frozenset(map(str, prefixes))
    return NamedSet(name, f"type {type_}; flags interval; auto-merge", elements, in_place=False)


def _forwards(name: str, network: Network, family: str, version: int) -> NamedSet:
    """Protocol and port on the router's transit address -> address and port of a guest. The first port has it."""
    guests: dict[str, str] = {}
    for port in network.ports:
        for forward in port.forwards:
            for address in port.addresses:
                if address.version == version:
                    key = f"{forward.protocol.lower()} . {forward.host_port}"
                    guests.setdefault(key, f"{address} . {forward.port}")
    elements = frozenset(f"{key} : {guest}" for key, guest in guests.items())
    type_ = f"typeof meta l4proto . th dport : {family} daddr . th dport"
    return NamedSet(name, type_, elements, kind="map", in_place=False)


def _chains(network: Network, transit: Transit | None) -> Iterator[Chain]:
    yield Chain("input", tuple(_input(transit)), "type filter hook input priority filter; policy drop;")
    yield Chain("forward", tuple(_forward(network, transit)), "type filter hook forward priority filter; policy drop;")
    if transit is None:
        return
    yield Chain(
        "prerouting",
        (
            f"{_FROM_HOST} ip daddr {transit.router_ipv4} dnat ip to meta l4proto . th dport map @forward_ipv4",
            f"{_FROM_HOST} ip6 daddr {transit.router_ipv6} dnat ip6 to meta l4proto . th dport map @forward_ipv6",
        ),
        "type nat hook prerouting priority dstnat; policy accept;",
    )
    if network.mode in MASQUERADED:
        # In the host every guest is its router, so that two networks may have the same addresses.
        postrouting = (f"{_FROM_GUESTS} {_TO_HOST} masquerade",)
        yield Chain("postrouting", postrouting, "type nat hook postrouting priority srcnat; policy accept;")


def _input(transit: Transit | None) -> Iterator[str]:
    """What the router serves: names, addresses, and its neighbours."""
    yield 'iifname "lo" accept'
    yield "ct state established,related accept"
    yield "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    if transit is not None:
        yield f"{_FROM_GUESTS} ip daddr {{ {transit.router_ipv4}, {transit.host_ipv4} }} drop"
        yield f"{_FROM_GUESTS} ip6 daddr {{ {transit.router_ipv6}, {transit.host_ipv6} }} drop"
        yield f"{_FROM_HOST} ip saddr {transit.host_ipv4} icmp type echo-request accept"
        yield f"{_FROM_HOST} ip6 saddr {transit.host_ipv6} icmpv6 type echo-request accept"
    yield f"{_FROM_GUESTS} meta l4proto {{ tcp, udp }} th dport 53 accept"
    yield f"{_FROM_GUESTS} udp dport {{ 67, 547 }} accept"
    yield f"{_FROM_GUESTS} meta l4proto {{ icmp, icmpv6 }} accept"


def _forward(network: Network, transit: Transit | None) -> Iterator[str]:
    # Of one link: no router passes them on (RFC 4861, RFC 2710). Firewalls let them through, and conntrack passes by.
    yield "icmpv6 type { 130-137, 143 } drop"
    # Masqueraded it would come from this host, whom the others take tunnelled frames from.
    yield f"{_FROM_GUESTS} udp dport {UDP_PORT} drop"
    yield "ct state established,related accept"
    # What conntrack cannot place is not masqueraded either.
    yield "ct state invalid drop"
    yield f"{_FROM_GUESTS} ip daddr @refused_ipv4 drop"
    yield f"{_FROM_GUESTS} ip6 daddr @refused_ipv6 drop"
    yield f"{_FROM_GUESTS} {_TO_GUESTS} accept"
    if transit is None:
        return
    yield f"{_FROM_GUESTS} {_TO_HOST} accept"
    yield f"{_FROM_HOST} {_TO_GUESTS} ct status dnat accept"
    if network.mode is NetworkMode.ROUTED:
        yield f"{_FROM_HOST} {_TO_GUESTS} accept"
