"""What operator and agents agree on about networks of mode Overlay: VXLAN (RFC 7348) between their hosts."""

from ipaddress import IPv4Address, IPv6Address

UDP_PORT = 4790
"""Not VXLAN's own 4789, which other software of a host (Kubernetes networks, Docker) takes for itself."""
MIN_VNI, MAX_VNI = 4096, (1 << 24) - 1
"""Small numbers are what people give by hand."""
MIN_MTU = 1280
"""Of the network: the least that IPv6 takes (RFC 8200, 5)."""
_OVERHEAD_BYTES = {4: 50, 6: 70}
"""Ethernet 14, VXLAN 8, UDP 8, and IP 20 or 40."""


def inner_mtu(underlay: IPv4Address | IPv6Address, mtu: int) -> int:
    """The largest packet in bytes of a network whose tunnels begin at that address, on links of that MTU."""
    return mtu - _OVERHEAD_BYTES[underlay.version]
