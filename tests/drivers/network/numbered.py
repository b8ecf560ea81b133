"""Machines by number: the port of each, and a network that they are on."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network

from virtplane_api.vocabulary import Addressing, NetworkMode
from virtplane_drivers.network.contract import Firewall, Network, Port, PortForward, Subnet

GATEWAY_IPV4, GATEWAY_IPV6 = "10.0.0.1", "fd00::1"


def subnet(cidr: str, gateway: str | None = None, addressing: Addressing = Addressing.DHCP) -> Subnet:
    """With addresses by DHCP unless said otherwise."""
    return Subnet(ip_network(cidr), None if gateway is None else ip_address(gateway), addressing)


def port(
    number: int,
    firewall: str = "",
    *,
    cidrs: Iterable[str] = ("10.0.0.0/16", "fd00::/64"),
    addresses: Sequence[str] | None = None,
    forwards: tuple[PortForward, ...] = (),
    machine: str = "vm",
) -> Port:
    """The interface of machine `number`, with the MAC and, unless said otherwise, the addresses of that number."""
    held = [ip_network(cidr)[number] for cidr in cidrs] if addresses is None else map(ip_address, addresses)
    mac = f"52:54:01:00:{number >> 8:02x}:{number & 255:02x}"
    return Port(f"uid-of-{machine}{number}", f"{machine}{number}", "lan", mac, tuple(held), forwards, firewall)


def network(
    uid: str, *ports: Port, mode: NetworkMode = NetworkMode.NAT, firewalls: tuple[Firewall, ...] = ()
) -> Network:
    """Both families, with the same addresses for each network."""
    ipv4, ipv6 = subnet("10.0.0.0/24", GATEWAY_IPV4), subnet("fd00::/64", GATEWAY_IPV6)
    return Network(uid, "default", uid, mode, ipv4, ipv6, domain="test", ports=ports, firewalls=firewalls)
