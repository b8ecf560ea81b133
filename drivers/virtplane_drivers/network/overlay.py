"""What a network of mode Overlay is on a host besides: its tunnels, and who is at their other ends."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from virtplane_api.overlay import UDP_PORT

IpAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Underlay:
    """This host's end of all tunnels."""

    address: IpAddress
    mtu: int
    """Of the link that has the address, in bytes."""


@dataclass(frozen=True, slots=True)
class RemoteMachine:
    """A machine of the network on another host, or without one at the moment."""

    name: str
    addresses: tuple[IpAddress, ...]


@dataclass(frozen=True, slots=True)
class Overlay:
    """The network beyond this host."""

    vni: int
    """By which its frames are told from those of other networks: 24 bits, unique in the cluster."""
    local: IpAddress
    peers: tuple[IpAddress, ...] = ()
    """Underlay addresses of the other hosts that have it."""
    machines: tuple[RemoteMachine, ...] = ()
    """All that are no port of this host: the network's DNS knows them."""
    udp_port: int = UDP_PORT
