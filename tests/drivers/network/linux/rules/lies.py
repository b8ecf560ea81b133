"""What a guest may not send, each with what it may: machine 2 sends, machine 3 is beside it.

`Case.lie` is to arrive nowhere and `Case.truth`, which differs from it in what makes the lie, everywhere.
"""

from dataclasses import dataclass

from tests.drivers.network.linux.rules import frames as f
from tests.drivers.network.numbered import GATEWAY_IPV4, GATEWAY_IPV6
from virtplane_drivers.network.linux.eui64 import link_local
from virtplane_drivers.network.linux.names import router_mac

UID = "network-one"
A_MAC, B_MAC, ROUTER_MAC = "52:54:01:00:00:02", "52:54:01:00:00:03", router_mac(UID)
A4, B4, FREE4 = "10.0.0.2", "10.0.0.3", "10.0.0.77"
A6, B6, FREE6 = "fd00::2", "fd00::3", "fd00::77"
A_LOCAL, B_LOCAL, ROUTER_LOCAL = (str(link_local(mac)) for mac in (A_MAC, B_MAC, ROUTER_MAC))
MADE_UP_LOCAL = "fe80::1234:5678:9abc:def0"
"""An address of RFC 7217: of no MAC."""


@dataclass(frozen=True)
class Case:
    name: str
    lie: bytes
    truth: bytes

    def __str__(self) -> str:
        return self.name


def _ip4(payload: bytes, source: str = A_MAC) -> bytes:
    return f.frame(source, f.IPV4, payload)


def _ip6(payload: bytes, source: str = A_MAC) -> bytes:
    return f.frame(source, f.IPV6, payload)


def _arp(payload: bytes) -> bytes:
    return f.frame(A_MAC, f.ARP, payload)


def _nd(source: str, target: str, message: bytes) -> bytes:
    return _ip6(f.ipv6(source, target, f.ICMPV6, message))


OWN_4, OWN_6 = f.datagram(A4, B4), f.datagram(A6, B6)
_TCP_4, _TCP_6 = f.segment(A4, B4), f.segment(A6, B6)
_DHCP = f.ipv4("0.0.0.0", "255.255.255.255", f.UDP, f.udp(68, 67, f.dhcp(A_MAC)))  # noqa: S104
_OTHER_DHCP = f.ipv4("0.0.0.0", "255.255.255.255", f.UDP, f.udp(68, 67, f.dhcp(B_MAC)))  # noqa: S104
_HIDDEN_MAC = bytes(4) + bytes.fromhex(A_MAC.replace(":", ""))
"""Behind the first 32 bytes of a message, where the client's MAC would be."""
_OWN_OPTION, _OTHER_OPTION = f.option(f.SOURCE_OPTION, A_MAC), f.option(f.SOURCE_OPTION, B_MAC)
_OWN_TARGET, _OTHER_TARGET = f.option(f.TARGET_OPTION, A_MAC), f.option(f.TARGET_OPTION, B_MAC)
_NONCE = f.option(f.NONCE_OPTION, "01:02:03:04:05:06")
_ARP_REQUEST = _arp(f.arp(A_MAC, A4, B4))
_ADVERT = f.discovery(f.ADVERT, A6, _OWN_TARGET)
_SOLICIT = f.discovery(f.SOLICIT, B6, _OWN_OPTION)
_PING6 = f.icmpv6(128)


def _behind_options(message: bytes) -> bytes:
    """An advertisement whose length is the right one because a header of 8 bytes is before it, and no option behind."""
    payload = f.destination_options(f.ICMPV6) + message
    return _ip6(f.ipv6(A6, f.ALL_NODES, f.DESTINATION_OPTIONS, payload))


def _first_fragment(following: int, payload: bytes) -> bytes:
    header = f.fragment_header(following, 0, more=True)
    return _ip6(f.ipv6(A6, B6, f.FRAGMENT, header + payload))


LAYER_2 = [
    Case("MAC of another guest", _ip4(OWN_4, B_MAC), _ip4(OWN_4)),
    Case("MAC of the router", _ip4(OWN_4, ROUTER_MAC), _ip4(OWN_4)),
    Case("MAC of nobody", _ip6(OWN_6, "52:54:01:00:00:99"), _ip6(OWN_6)),
    Case("tagged for a VLAN", f.tagged(_ip4(OWN_4), vlan=5), _ip4(OWN_4)),
    Case("tagged with a priority", f.tagged(_ip6(OWN_6)), _ip6(OWN_6)),
    Case("tagged by a provider", f.tagged(_ip4(OWN_4), f.PROVIDER_VLAN, 5), _ip4(OWN_4)),
    Case("TCP tagged for a VLAN", f.tagged(_ip4(_TCP_4), vlan=5), _ip4(_TCP_4)),
    Case("TCP over IPv6 tagged with a priority", f.tagged(_ip6(_TCP_6)), _ip6(_TCP_6)),
    Case("TCP under the MAC of another guest", _ip4(_TCP_4, B_MAC), _ip4(_TCP_4)),
    Case("TCP over IPv6 under the MAC of the router", _ip6(_TCP_6, ROUTER_MAC), _ip6(_TCP_6)),
    Case("of an unknown type", f.frame(A_MAC, f.LOCAL_EXPERIMENT, bytes(46)), _ip4(OWN_4)),
    Case("RARP with another's MAC", f.frame(B_MAC, f.RARP, bytes(46)), f.frame(A_MAC, f.RARP, bytes(46))),
]
ARP = [
    Case("ARP reply with another's address", _arp(f.arp(A_MAC, B4, A4, 2)), _arp(f.arp(A_MAC, A4, B4, 2))),
    Case("ARP reply with the gateway's address", _arp(f.arp(A_MAC, GATEWAY_IPV4, A4, 2)), _arp(f.arp(A_MAC, A4, B4))),
    Case("ARP request with another's address", _arp(f.arp(A_MAC, B4, FREE4)), _arp(f.arp(A_MAC, A4, B4))),
    Case("ARP with another's MAC inside", _arp(f.arp(B_MAC, A4, B4)), _arp(f.arp(A_MAC, A4, B4))),
    Case("ARP with the router's MAC inside", _arp(f.arp(ROUTER_MAC, A4, B4)), _arp(f.arp(A_MAC, A4, B4))),
    Case("ARP announcement of another", _arp(f.arp(A_MAC, B4, B4)), _arp(f.arp(A_MAC, A4, A4))),
    Case("ARP probe for another's", _arp(f.arp(A_MAC, "0.0.0.0", B4)), _arp(f.arp(A_MAC, "0.0.0.0", A4))),  # noqa: S104
    *(
        Case(f"ARP that is not of IPv4 over Ethernet: {kinds}", _arp(f.arp(A_MAC, A4, B4, kinds=kinds)), _ARP_REQUEST)
        for kinds in ((6, f.IPV4, 6, 4), (1, f.IPV6, 6, 4), (1, f.IPV4, 8, 4), (1, f.IPV4, 6, 16))
    ),
    Case("ARP of an unknown operation", _arp(f.arp(A_MAC, A4, B4, 9)), _arp(f.arp(A_MAC, A4, B4, 2))),
]
IPV4 = [
    Case("IPv4 of another guest", _ip4(f.datagram(B4, A4)), _ip4(OWN_4)),
    Case("TCP of another guest", _ip4(f.segment(B4, A4)), _ip4(_TCP_4)),
    Case("IPv4 of nobody", _ip4(f.datagram(FREE4, B4)), _ip4(OWN_4)),
    Case("IPv4 of the gateway", _ip4(f.datagram(GATEWAY_IPV4, B4)), _ip4(OWN_4)),
    Case("IPv4 of elsewhere", _ip4(f.datagram("198.51.100.1", B4)), _ip4(OWN_4)),
    Case("IPv4 without a source", _ip4(f.datagram("0.0.0.0", "255.255.255.255")), _ip4(_DHCP)),  # noqa: S104
    Case("DHCP server", _ip4(f.datagram(A4, B4, 67, 68)), _ip4(OWN_4)),
    Case("DHCP server to a relay", _ip4(f.datagram(A4, B4, 67, 5001)), _ip4(OWN_4)),
    Case("DHCPv6 server to a relay", _ip6(f.datagram(A6, B6, 547, 5001)), _ip6(OWN_6)),
    Case("DHCP answer from another port", _ip4(f.datagram(A4, B4, 6767, 68)), _ip4(OWN_4)),
    Case("DHCP for another's MAC", _ip4(_OTHER_DHCP), _ip4(_DHCP)),
    Case(
        "DHCP release of another's",
        _ip4(f.ipv4(A4, GATEWAY_IPV4, f.UDP, f.udp(68, 67, f.dhcp(B_MAC)))),
        _ip4(f.ipv4(A4, GATEWAY_IPV4, f.UDP, f.udp(68, 67, f.dhcp(A_MAC)))),
    ),
    Case(
        "DHCP in pieces that hide whose it is",
        _ip4(f.ipv4(A4, GATEWAY_IPV4, f.UDP, f.udp(68, 67, f.dhcp(B_MAC))[:32], fragment=0x2000) + _HIDDEN_MAC),
        _ip4(f.ipv4(A4, GATEWAY_IPV4, f.UDP, f.udp(68, 6700, f.dhcp(B_MAC))[:32], fragment=0x2000)),
    ),
    Case(
        "ICMP redirect", _ip4(f.ipv4(A4, B4, f.ICMP, bytes([5, 1]) + bytes(10))), _ip4(f.ipv4(A4, B4, 1, b"\x08" * 8))
    ),
    Case("ICMP router", _ip4(f.ipv4(A4, B4, f.ICMP, bytes([9, 0]) + bytes(10))), _ip4(f.ipv4(A4, B4, 1, b"\x08" * 8))),
    Case(
        "IGMP querier",
        _ip4(f.ipv4(A4, "224.0.0.1", f.IGMP, bytes([0x11]) + bytes(7))),
        _ip4(f.ipv4(A4, "224.0.0.22", f.IGMP, bytes([0x22]) + bytes(15))),
    ),
]
IPV6 = [
    Case("IPv6 of another guest", _ip6(f.datagram(B6, A6)), _ip6(OWN_6)),
    Case("TCP over IPv6 of another guest", _ip6(f.segment(B6, A6)), _ip6(_TCP_6)),
    Case("IPv6 of nobody", _ip6(f.datagram(FREE6, B6)), _ip6(OWN_6)),
    Case("IPv6 of the gateway", _ip6(f.datagram(GATEWAY_IPV6, B6)), _ip6(OWN_6)),
    Case("IPv6 without a source", _ip6(f.datagram("::", f.ALL_NODES)), _ip6(OWN_6)),
    Case("link-local of another guest", _ip6(f.datagram(B_LOCAL, A6)), _ip6(f.datagram(A_LOCAL, B_LOCAL))),
    Case("link-local of the router", _ip6(f.datagram(ROUTER_LOCAL, B6)), _ip6(f.datagram(MADE_UP_LOCAL, B_LOCAL))),
    Case("ping of another guest", _nd(B6, A6, _PING6), _nd(A6, B6, _PING6)),
    Case(
        "DHCPv6 server", _ip6(f.datagram(A_LOCAL, B_LOCAL, 547, 546)), _ip6(f.datagram(A_LOCAL, "ff02::1:2", 546, 547))
    ),
    Case("DHCPv6 answer from another port", _ip6(f.datagram(A_LOCAL, B_LOCAL, 5470, 546)), _ip6(OWN_6)),
    Case(
        "DHCPv6 server behind options",
        _ip6(f.ipv6(A6, B6, f.DESTINATION_OPTIONS, f.destination_options(f.UDP) + f.udp(547, 546))),
        _ip6(f.ipv6(A6, B6, f.DESTINATION_OPTIONS, f.destination_options(f.UDP) + f.udp(546, 547))),
    ),
    Case(
        "fragment that hides a UDP header",
        _first_fragment(f.DESTINATION_OPTIONS, f.destination_options(f.UDP)),
        _first_fragment(f.UDP, f.udp(546, 547, bytes(8))),
    ),
    Case(
        "fragment that ends within its options",
        _first_fragment(f.DESTINATION_OPTIONS, b""),
        _first_fragment(f.TCP, bytes(24)),
    ),
    Case(
        "fragment that hides what is not TCP",
        _first_fragment(f.DESTINATION_OPTIONS, f.destination_options(f.TCP) + bytes(24)),
        _first_fragment(f.TCP, bytes(24)),
    ),
    Case(
        "fragment that hides an ICMPv6 header",
        _first_fragment(f.DESTINATION_OPTIONS, f.destination_options(f.ICMPV6)),
        _first_fragment(f.ICMPV6, _PING6),
    ),
]
DISCOVERY = [
    Case("router advertisement", _nd(A_LOCAL, f.ALL_NODES, f.icmpv6(f.ROUTER_ADVERT, bytes(12))), _nd(A6, B6, _PING6)),
    Case(
        "router advertisement behind options",
        _behind_options(f.icmpv6(f.ROUTER_ADVERT, bytes(12))),
        _behind_options(_PING6),
    ),
    Case("redirect", _nd(A_LOCAL, B6, f.icmpv6(f.REDIRECT, bytes(36))), _nd(A6, B6, _PING6)),
    Case(
        "MLD querier",
        _nd(A_LOCAL, f.ALL_NODES, f.icmpv6(f.MLD_QUERY, bytes(20))),
        _nd(A_LOCAL, f.MLD_ROUTERS, f.icmpv6(f.MLD_REPORT, bytes(24))),
    ),
    Case(
        "MLD report of another",
        _nd(B_LOCAL, f.MLD_ROUTERS, f.icmpv6(f.MLD_REPORT, bytes(24))),
        _nd("::", f.MLD_ROUTERS, f.icmpv6(f.MLD_REPORT, bytes(24))),
    ),
    Case(
        "advertisement of another's", _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, B6, _OWN_TARGET)), _nd(A6, B6, _ADVERT)
    ),
    Case(
        "advertisement of the gateway's",
        _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, GATEWAY_IPV6, _OWN_TARGET)),
        _nd(A_LOCAL, f.ALL_NODES, _ADVERT),
    ),
    Case(
        "advertisement of nobody's",
        _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, FREE6)),
        _nd(A6, B6, f.discovery(f.ADVERT, A6)),
    ),
    Case(
        "advertisement of the router's link-local",
        _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, ROUTER_LOCAL, _OWN_TARGET)),
        _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, A_LOCAL, _OWN_TARGET)),
    ),
    Case(
        "advertisement of another's link-local",
        _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, B_LOCAL, _OWN_TARGET)),
        _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, MADE_UP_LOCAL, _OWN_TARGET)),
    ),
    Case(
        "advertisement with another's MAC",
        _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, A6, _OTHER_TARGET)),
        _nd(A6, f.ALL_NODES, _ADVERT),
    ),
    Case(
        "advertisement with a second option",
        _nd(A6, f.ALL_NODES, f.discovery(f.ADVERT, A6, _OWN_TARGET, _OTHER_TARGET)),
        _nd(A6, f.ALL_NODES, _ADVERT),
    ),
    Case("advertisement from another's address", _nd(B6, f.ALL_NODES, _ADVERT), _nd(A6, f.ALL_NODES, _ADVERT)),
    Case(
        "solicitation with a second option",
        _nd(A6, B6, f.discovery(f.SOLICIT, B6, _OWN_OPTION, _OTHER_OPTION)),
        _nd(A6, B6, _SOLICIT),
    ),
    Case(
        "DAD with a MAC behind its nonce",
        _nd("::", f.ALL_NODES, f.discovery(f.SOLICIT, A6, _NONCE, _OTHER_OPTION)),
        _nd("::", f.ALL_NODES, f.discovery(f.SOLICIT, A6, _NONCE)),
    ),
    Case(
        "solicitation with another's MAC", _nd(A6, B6, f.discovery(f.SOLICIT, B6, _OTHER_OPTION)), _nd(A6, B6, _SOLICIT)
    ),
    Case("solicitation from another's address", _nd(B6, A6, _SOLICIT), _nd(A6, B6, _SOLICIT)),
    Case(
        "DAD for another's",
        _nd("::", f.ALL_NODES, f.discovery(f.SOLICIT, B6)),
        _nd("::", B6, f.discovery(f.SOLICIT, A6)),
    ),
    Case(
        "DAD with a nonce for another's",
        _nd("::", f.ALL_NODES, f.discovery(f.SOLICIT, B_LOCAL, _NONCE)),
        _nd("::", f.ALL_NODES, f.discovery(f.SOLICIT, A_LOCAL, _NONCE)),
    ),
    Case(
        "DAD with a MAC",
        _nd("::", f.ALL_NODES, f.discovery(f.SOLICIT, A6, _OTHER_OPTION)),
        _nd("::", f.ALL_NODES, f.discovery(f.SOLICIT, MADE_UP_LOCAL, _NONCE)),
    ),
    Case(
        "router solicitation with another's MAC",
        _nd(A_LOCAL, f.ALL_ROUTERS, f.icmpv6(f.ROUTER_SOLICIT, bytes(4) + _OTHER_OPTION)),
        _nd(A_LOCAL, f.ALL_ROUTERS, f.icmpv6(f.ROUTER_SOLICIT, bytes(4) + _OWN_OPTION)),
    ),
    Case(
        "router solicitation of a link-local address of another",
        _nd(B_LOCAL, f.ALL_ROUTERS, f.icmpv6(f.ROUTER_SOLICIT, bytes(4) + _OWN_OPTION)),
        _nd(A_LOCAL, f.ALL_ROUTERS, f.icmpv6(f.ROUTER_SOLICIT)),
    ),
    Case(
        "router solicitation of another",
        _nd(B_LOCAL, f.ALL_ROUTERS, f.icmpv6(f.ROUTER_SOLICIT)),
        _nd("::", f.ALL_ROUTERS, f.icmpv6(f.ROUTER_SOLICIT)),
    ),
]
ALL = [*LAYER_2, *ARP, *IPV4, *IPV6, *DISCOVERY]
