"""Networks as tests want them."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from tests.drivers.network.numbered import subnet
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Network, Port

MAC, OTHER_MAC, THIRD_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"


def port(mac: str, name: str, *addresses: str, interface: str = "lan") -> Port:
    """Of a machine of that name."""
    return Port(f"uid-of-{name}", name, interface, mac, tuple(ip_address(address) for address in addresses))


IPV4, IPV6 = subnet("10.20.0.0/24", "10.20.0.1"), subnet("fd00:20::/64", "fd00:20::1")
WEB = port(MAC, "web", "10.20.0.9", "fd00:20::9")
DB = port(OTHER_MAC, "db", "10.20.0.10", "fd00:20::a")


def network(uid: str = "uid-1", *ports: Port, **changes: Any) -> Network:
    """10.20.0.0/24 and fd00:20::/64 with NAT, unless changed."""
    one = Network(
        uid=uid,
        namespace="shop",
        name="lan",
        mode=NetworkMode.NAT,
        ipv4=IPV4,
        ipv6=IPV6,
        mtu=1400,
        domain="shop.test",
        ports=ports,
    )
    return replace(one, **changes)


def addresses(*texts: str) -> tuple[IPv4Address | IPv6Address, ...]:
    return tuple(ip_address(text) for text in texts)
