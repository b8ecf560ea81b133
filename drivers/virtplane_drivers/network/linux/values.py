"""What the parts of the driver tell each other."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address


@dataclass(frozen=True, slots=True)
class Transit:
    """The addresses on both ends of the veth between a router and its host: a /31 and a /127."""

    host_ipv4: IPv4Address
    router_ipv4: IPv4Address
    host_ipv6: IPv6Address
    router_ipv6: IPv6Address


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a network while its guests are served: shown as FAILED, never raised."""

    reason: str
    message: str
    """With what a person can do about it."""
