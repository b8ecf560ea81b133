"""Addresses that an interface makes of its MAC (modified EUI-64: RFC 4291, appendix A)."""

from ipaddress import IPv6Address, IPv6Network

LINK_LOCAL = IPv6Network("fe80::/64")


def by_mac(prefix: IPv6Network, mac: str) -> IPv6Address:
    """The one within a /64."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return IPv6Address(prefix.network_address.packed[:8] + identifier)


def link_local(mac: str) -> IPv6Address:
    """The one by which neighbours know it."""
    return by_mac(LINK_LOCAL, mac)
