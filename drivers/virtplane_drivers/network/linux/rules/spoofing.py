"""Anti-spoofing: the table of family bridge in a router namespace, which all frames of its ports meet.

What a port may send as is in sets that are keyed by the name of its tap; there is no chain for a port, so 1,000 of them
cost a frame as much as one. Whatever is not known to be right is dropped: a tap that is in no set passes nothing, in
neither direction.

::

    prerouting (from a port of the bridge)
      ├── from the uplink of mode Bridge: accepted, it is no guest's
      ├── from the tunnel of mode Overlay: what may cross, see `overlay`
      ├── TCP from an address of the tap: accepted, as all of the below would      (port_ipv4, port_ipv6)
      ├── not the MAC of the tap: dropped                                               (port_mac)
      ├── ARP    from_arp     sender is the tap's; a probe (RFC 5227) asks for its own   (port_ipv4)
      ├── IPv4   from_ipv4    no DHCP server, no redirect, no IGMP querier; source       (port_ipv4, behind_ipv4)
      ├── IPv6   from_ipv6    no DHCPv6 server; source                                   (port_ipv6, behind_ipv6)
      │            └ from_icmpv6    no router, no redirect, no MLD querier; then by type:
      │                from_solicit, from_advert, from_router_solicit, from_report       (nd_target, nd_option)
      └── anything else: announcements (RARP) of its own MAC. On a network without subnets any type but VLAN tags.
    postrouting (to a port of the bridge): to the uplink, what may cross to the tunnel, to known taps only    (port)

The router's own MAC and addresses are in none of the sets, whatever a port claims.

A family that the network does not manage, and of which the port has no address, is free (free_ipv4, free_ipv6): only
the MAC counts there, and still no DHCP server and no router advertisement.

By SLAAC a port chooses addresses in the network's prefix (slaac_ipv6), but none that is somebody's: the router's, one
that is claimed, or one that goes with another port's MAC (taken). Whose the others are, nobody knows.

Messages of neighbour discovery pass with one option at most, as their length says, so that it is where it is looked
for. Link-local addresses are not claimed by anybody: a guest may make up its own (RFC 7217). The one that goes with the
MAC of a port, or of the router, is taken, and is nobody else's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import IpAddress, IpNetwork, Network, Port
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.eui64 import by_mac, link_local
from virtplane_drivers.network.linux.rules.overlay import crossing
from virtplane_drivers.network.linux.rules.ruleset import Chain, NamedSet, Table

_SOURCE_OPTION, _TARGET_OPTION = 0x0101, 0x0201
"""Type and length (in units of 8 bytes) of the link-layer address options (RFC 4861, 4.6.1)."""
_NONCE_OPTION = 0x0E01
"""RFC 7527: a guest tells its own DAD messages from those of others."""
_ETHER_BITS = 48
_IPV4, _IPV6 = 4, 6


def spoofing_table(network: Network) -> Table:
    """The table for the network's ports. Pure."""
    router_mac = names.router_mac(network.uid)
    senders = [_sender(network, port) for port in network.ports if port.mac != router_mac]
    taken = _taken(network, senders, router_mac)
    return Table("bridge", names.ROUTER_TABLE, tuple(_sets(senders, taken)), tuple(_chains(network)))


def certain_addresses(network: Network, port: Port) -> tuple[IpAddress, ...]:
    """Those that are the port's and nobody else's: claimed, or made of its MAC. By SLAAC it may choose others too."""
    prefix = network.chosen_prefix
    by_prefix = (by_mac(prefix, port.mac),) if prefix is not None else ()
    return (*port.addresses, link_local(port.mac), *by_prefix)


@dataclass(frozen=True, slots=True)
class _Sender:
    """A port as the sets have it."""

    tap: str
    mac: str
    mac_number: int
    ipv4: tuple[IpAddress, ...]
    ipv6: tuple[IpAddress, ...]
    behind: tuple[IpNetwork, ...]
    free: frozenset[int]
    """IP versions of which only its MAC counts."""
    chooses: bool
    """Whether it has more addresses of the network's prefix than `ipv6`: by SLAAC."""


def _sender(network: Network, port: Port) -> _Sender:
    gateways = {subnet.gateway for subnet in network.subnets}
    managed = {subnet.cidr.version for subnet in network.subnets} | {address.version for address in port.addresses}
    own = [address for address in port.addresses if address not in gateways]
    behind = tuple(route.destination for route in network.routes if route.via in own)
    prefix = network.chosen_prefix
    if _IPV6 in managed:
        own.append(link_local(port.mac))
    if prefix is not None:
        own.append(by_mac(prefix, port.mac))
    return _Sender(
        tap=f'"{names.tap_name(port)}"',
        mac=port.mac,
        mac_number=int(port.mac.replace(":", ""), 16),
        ipv4=tuple(address for address in own if address.version == _IPV4),
        ipv6=tuple(address for address in own if address.version == _IPV6),
        behind=behind,
        free=frozenset({_IPV4, _IPV6} - managed),
        chooses=prefix is not None,
    )


def _taken(network: Network, senders: Sequence[_Sender], router_mac: str) -> frozenset[IPv6Address]:
    """What no port may choose: of its own, `_Sender.ipv6` has more."""
    macs = (router_mac, *(one.mac for one in senders))
    taken = {link_local(mac) for mac in macs}
    prefix = network.chosen_prefix
    if prefix is not None:
        taken |= {by_mac(prefix, mac) for mac in macs}
        taken.add(prefix.network_address)  # of all routers (RFC 4291, 2.6.1)
        named = (*(subnet.gateway for subnet in network.subnets), *(a for one in senders for a in one.ipv6))
        taken |= {address for address in named if isinstance(address, IPv6Address)}
    return frozenset(taken)


def _sets(senders: Sequence[_Sender], taken: Iterable[IPv6Address]) -> Iterator[NamedSet]:
    yield _set("port", "iifname", (one.tap for one in senders))
    yield _set("port_mac", "iifname . ether saddr", (f"{one.tap} . {one.mac}" for one in senders))
    own_ipv4 = (f"{one.tap} . {one.mac} . {address}" for one in senders for address in one.ipv4)
    yield _set("port_ipv4", "iifname . ether saddr . ip saddr", own_ipv4)
    own_ipv6 = (f"{one.tap} . {one.mac} . {address}" for one in senders for address in one.ipv6)
    yield _set("port_ipv6", "iifname . ether saddr . ip6 saddr", own_ipv6)
    for version, source in ((_IPV4, "ip"), (_IPV6, "ip6")):
        behind = (f"{one.tap} . {net}" for one in senders for net in one.behind if net.version == version)
        yield _set(f"behind_ipv{version}", f"iifname . {source} saddr", behind, flags="interval")
        yield _set(f"free_ipv{version}", "iifname", (one.tap for one in senders if version in one.free))
    yield _set("slaac_ipv6", "iifname", (one.tap for one in senders if one.chooses))
    yield _set("dhcp_client", "iifname . @th,288,48", (f"{one.tap} . {one.mac_number:#x}" for one in senders))
    options = (
        f"{one.tap} . {option << _ETHER_BITS | one.mac_number:#x}"
        for one in senders
        for option in (_SOURCE_OPTION, _TARGET_OPTION)
    )
    yield _set("nd_option", "iifname . @th,192,64", options)
    targets = (f"{one.tap} . {int(address):#x}" for one in senders for address in one.ipv6)
    yield _set("nd_target", "iifname . @th,64,128", targets)
    yield _set("taken", "ip6 saddr", map(str, taken))
    yield _set("taken_target", "@th,64,128", (f"{int(address):#x}" for address in taken))


def _set(name: str, type_: str, elements: Iterable[str], *, flags: str = "") -> NamedSet:
    typed = f"typeof {type_}" + (f"; flags {flags}" if flags else "")
    return NamedSet(name, typed, frozenset(elements), in_place=not flags)


def _chains(network: Network) -> Iterator[Chain]:
    yield from _from_ports(network.chosen_prefix)
    other, verdict = "", ""  # of no guest of this host
    if network.mode is NetworkMode.BRIDGE:
        other, verdict = names.UPLINK, "accept"
    elif network.mode is NetworkMode.OVERLAY:
        yield crossing(network)
        other, verdict = names.TUNNEL, "goto crossing"
    by_type = "ether type vmap { ip : goto from_ipv4, ip6 : goto from_ipv6, arp : goto from_arp, 0x8035 : accept }"
    yield Chain(
        "prerouting",
        (
            *([f'iifname "{other}" {verdict}'] if other else []),
            *_USUAL,
            "iifname . ether saddr != @port_mac drop",
            by_type,
            # To the bridge next to us: spanning tree, LLDP and the like (IEEE 802.1D, 7.12.6).
            "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop",
            *([] if network.subnets else ["ether type != { 8021q, 8021ad, 0x9100, 0x9200, 0x9300 } accept"]),
        ),
        "type filter hook prerouting priority dstnat; policy drop;",
    )
    yield Chain(
        "postrouting",
        (*([f'oifname "{other}" {verdict}'] if other else []), "oifname @port accept"),
        "type filter hook postrouting priority srcnat; policy drop;",
    )


_USUAL = (
    # Most of what guests send, found right by one look. Not `ip protocol tcp` alone, which a VLAN's frame is too; and
    # TCP at once behind the header of IPv6, as of a fragment what follows may be anything.
    "ether type ip ip protocol tcp iifname . ether saddr . ip saddr @port_ipv4 accept",
    "ether type ip6 ip6 nexthdr tcp iifname . ether saddr . ip6 saddr @port_ipv6 accept",
)
_FROM_ARP = (
    "arp htype != 1 drop",
    "arp ptype != ip drop",
    "arp hlen != 6 drop",
    "arp plen != 4 drop",
    "arp operation != { request, reply } drop",
    "iifname . arp saddr ether . arp saddr ip @port_ipv4 accept",
    # Is anybody there? Of an address of another, it would keep that one from taking it.
    "arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @port_ipv4 accept",
    "iifname @free_ipv4 iifname . arp saddr ether @port_mac accept",
    "drop",
)
_FROM_IPV4 = (
    # Clients do not look at the port that an answer comes from, relays do.
    "udp sport 67 drop",
    "udp dport 68 drop",
    "icmp type { redirect, router-advertisement } drop",
    "ip protocol igmp igmp type membership-query drop",
    "iifname @free_ipv4 accept",
    "udp dport 67 goto from_dhcp_client",
    "goto from_source_ipv4",
)
_FROM_DHCP_CLIENT = (
    # Whose lease is asked for, released or declined is told by the hardware address inside (after htype and hlen). It
    # must not be in another fragment: then what is behind the packet in its frame would be looked at.
    "ip frag-off & 0x3fff != 0 drop",
    "@th,72,16 0x0106 iifname . @th,288,48 @dhcp_client jump from_own_dhcp_client",
    "drop",
)
_FROM_OWN_DHCP_CLIENT = (
    "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 accept",
    "goto from_source_ipv4",
)
_FROM_SOURCE_IPV4 = (
    "iifname . ether saddr . ip saddr @port_ipv4 accept",
    "iifname . ip saddr @behind_ipv4 accept",
    "drop",
)
_OWN_IPV6 = (
    "iifname . ether saddr . ip6 saddr @port_ipv6 accept",
    "ip6 saddr fe80::/10 ip6 saddr != @taken accept",
)
_BEHIND_IPV6 = ("iifname . ip6 saddr @behind_ipv6 accept", "drop")
_IS_FREE_LINK_LOCAL = "@th,64,10 0x3fa @th,64,128 != @taken_target"
_FROM_SOLICIT = (
    "ip6 length != { 24, 32 } drop",
    "ip6 saddr != :: ip6 length 32 iifname . @th,192,64 != @nd_option drop",
    "ip6 saddr != :: goto from_source_ipv6",
    # Duplicate address detection: of an address of another, it would keep that one from taking it.
    f"ip6 length 32 @th,192,16 != {_NONCE_OPTION:#x} drop",
    "iifname . @th,64,128 @nd_target accept",
    f"{_IS_FREE_LINK_LOCAL} accept",
)
_FROM_ADVERT = (
    "ip6 length != { 24, 32 } drop",
    "ip6 length 32 iifname . @th,192,64 != @nd_option drop",
    "iifname . @th,64,128 @nd_target goto from_source_ipv6",
    f"{_IS_FREE_LINK_LOCAL} goto from_source_ipv6",
)
_FROM_ROUTER_SOLICIT = (
    "ip6 saddr :: ip6 length 8 accept",
    "ip6 length 8 goto from_source_ipv6",
    "ip6 length 16 iifname . @th,64,64 @nd_option goto from_source_ipv6",
    "drop",
)
_FROM_REPORT = ("ip6 saddr :: accept", "goto from_source_ipv6")
_FROM_ICMPV6 = (
    # 141 and 142 are inverse discovery, 151 a router of multicast.
    "icmpv6 type { nd-router-advert, nd-redirect, mld-listener-query, router-renumbering, 141, 142, 151 } drop",
    "iifname @free_ipv6 accept",
    "icmpv6 type nd-neighbor-solicit goto from_solicit",
    "icmpv6 type nd-neighbor-advert goto from_advert",
    "icmpv6 type nd-router-solicit goto from_router_solicit",
    "icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } goto from_report",
    "goto from_source_ipv6",
)
_FROM_IPV6 = (
    # Else a first fragment could end before the upper layer's header (RFC 7112), and what is behind the packet in its
    # frame be taken for that: hop-by-hop, routing, fragment, AH, options, mobility, HIP, shim6 and experiments.
    "frag frag-off 0 frag nexthdr { 0, 43, 44, 51, 60, 135, 139, 140, 253, 254 } drop",
    "udp sport 547 drop",
    "udp dport 546 drop",
    "icmpv6 type 0-255 goto from_icmpv6",
    "iifname @free_ipv6 accept",
    "goto from_source_ipv6",
)


def _from_ports(prefix: IPv6Network | None) -> Iterator[Chain]:
    """What ports may send; with a prefix, those of slaac_ipv6 also what is within it."""
    sources, solicited, advertised = _chosen(prefix) if prefix is not None else ((), (), ())
    yield Chain("from_arp", _FROM_ARP)
    yield Chain("from_source_ipv4", _FROM_SOURCE_IPV4)
    yield Chain("from_own_dhcp_client", _FROM_OWN_DHCP_CLIENT)
    yield Chain("from_dhcp_client", _FROM_DHCP_CLIENT)
    yield Chain("from_ipv4", _FROM_IPV4)
    yield Chain("from_source_ipv6", (*_OWN_IPV6, *sources, *_BEHIND_IPV6))
    yield Chain("from_solicit", (*_FROM_SOLICIT, *solicited, "drop"))
    yield Chain("from_advert", (*_FROM_ADVERT, *advertised, "drop"))
    yield Chain("from_router_solicit", _FROM_ROUTER_SOLICIT)
    yield Chain("from_report", _FROM_REPORT)
    yield Chain("from_icmpv6", _FROM_ICMPV6)
    yield Chain("from_ipv6", _FROM_IPV6)


def _chosen(prefix: IPv6Network) -> tuple[tuple[str], tuple[str], tuple[str]]:
    """Of what is sent from, asked for and said to be one's own."""
    first_half = prefix.network_address.packed[:8].hex()
    target = f"iifname @slaac_ipv6 @th,64,64 0x{first_half} @th,64,128 != @taken_target"
    return (
        (f"iifname @slaac_ipv6 ip6 saddr {prefix} ip6 saddr != @taken accept",),
        (f"{target} accept",),
        (f"{target} goto from_source_ipv6",),
    )
