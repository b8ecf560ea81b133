"""Frames as bytes, with whatever lie a test wants in them. No checksums but IPv4's own: nobody looks at them."""

import os
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES_MAC = "33:33:00:00:00:01"
ALL_NODES, ALL_ROUTERS, MLD_ROUTERS = "ff02::1", "ff02::2", "ff02::16"
IPV4, ARP, RARP, IPV6, VLAN, PROVIDER_VLAN, LOCAL_EXPERIMENT = 0x0800, 0x0806, 0x8035, 0x86DD, 0x8100, 0x88A8, 0x88B5
ICMP, IGMP, TCP, UDP, FRAGMENT, ICMPV6, DESTINATION_OPTIONS = 1, 2, 6, 17, 44, 58, 60
SOLICIT, ADVERT, ROUTER_SOLICIT, ROUTER_ADVERT, REDIRECT, MLD_QUERY, MLD_REPORT = 135, 136, 133, 134, 137, 130, 143
SOURCE_OPTION, TARGET_OPTION, NONCE_OPTION = 1, 2, 14
TRAILER_BYTES = 8


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def frame(source: str, ether_type: int, payload: bytes, destination: str = BROADCAST) -> bytes:
    """With a trailer behind the packet, by which it is told from all others."""
    header = mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", ether_type)
    return header + payload + os.urandom(TRAILER_BYTES)


def tagged(untagged: bytes, ether_type: int = VLAN, vlan: int = 0) -> bytes:
    return untagged[:12] + struct.pack("!HH", ether_type, vlan) + untagged[12:]


def arp(
    sender_mac: str, sender: str, target: str, operation: int = 1, *, kinds: tuple[int, int, int, int] = (1, IPV4, 6, 4)
) -> bytes:
    """`kinds`: of hardware and protocol, and how long their addresses are said to be."""
    addresses = mac_bytes(sender_mac), IPv4Address(sender).packed, bytes(6), IPv4Address(target).packed
    return struct.pack("!HHBBH", *kinds, operation) + b"".join(addresses)


def ipv4(source: str, target: str, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    head += IPv4Address(source).packed + IPv4Address(target).packed
    total = sum(struct.unpack("!10H", head))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + payload


def ipv6(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
    return head + IPv6Address(source).packed + IPv6Address(target).packed + payload


def udp(source_port: int, target_port: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHHH", source_port, target_port, 8 + len(payload), 0) + payload


def datagram(source: str, target: str, source_port: int = 5000, target_port: int = 5001) -> bytes:
    if ip_address(source).version == 4:
        return ipv4(source, target, UDP, udp(source_port, target_port, b"datagram"))
    return ipv6(source, target, UDP, udp(source_port, target_port, b"datagram"))


def segment(source: str, target: str) -> bytes:
    """Of a TCP flow that is established."""
    tcp = struct.pack("!HHIIBBHHH", 5000, 5001, 1, 1, 5 << 4, 0x10, 1000, 0, 0) + b"segment"
    of = ipv4 if ip_address(source).version == 4 else ipv6
    return of(source, target, TCP, tcp)


def dhcp(client_mac: str) -> bytes:
    """A client's message up to its hardware address (RFC 2131, 2)."""
    head = struct.pack("!BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0x8000) + bytes(16)
    return head + mac_bytes(client_mac) + bytes(10 + 64 + 128)


def icmpv6(kind: int, body: bytes = bytes(4)) -> bytes:
    return struct.pack("!BBH", kind, 0, 0) + body


def option(kind: int, mac: str) -> bytes:
    return struct.pack("!BB", kind, 1) + mac_bytes(mac)


def discovery(kind: int, target: str, *options: bytes) -> bytes:
    """A solicitation or an advertisement of a neighbour (RFC 4861, 4.3 and 4.4)."""
    return icmpv6(kind, bytes(4) + IPv6Address(target).packed + b"".join(options))


def fragment_header(following: int, offset: int, *, more: bool) -> bytes:
    return struct.pack("!BBHI", following, 0, offset | more, 0x1234)


def destination_options(following: int) -> bytes:
    """Eight bytes of padding."""
    return struct.pack("!BBBB", following, 0, 1, 4) + bytes(4)
