"""What of a host its networks may have: as its agent reports it, as the operator reads it, and the rule of both.

A *host network* is what a network of mode Bridge is joined to: a bridge of a Linux host, elsewhere a port group or a
virtual switch. *Routed* are the addresses that the host routes to networks of mode Routed. What is not known (an agent
that does not say, a driver without such limits) is None, and holds nobody up: the driver itself refuses what it must.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, NamedTuple

IpNetwork = IPv4Network | IPv6Network
MAX_GIVEN = 256
"""How many host networks, and how many ranges, a Hypervisor's status has room for."""
MAX_NETWORKS = 256
"""How many VirtualNetworks its status has room for: so many it can have. Each may say why it failed, in 1 KiB."""


class VlanRange(NamedTuple):
    """VLANs from `first` to `last`, both included."""

    first: int
    last: int


class GivenNetwork(NamedTuple):
    """A host network that networks may join, untagged or in some of its VLANs; a name may be given more than once."""

    name: str
    vlans: VlanRange | None = None
    """None: untagged, and in no VLAN."""
    missing: str = ""
    """Why it cannot be joined now, and what would bring it."""

    def holds(self, asked: "HostNetwork") -> bool:
        """Whether it is what is asked for."""
        if self.name != asked.name:
            return False
        if self.vlans is None or asked.vlan is None:
            return self.vlans is None and asked.vlan is None
        return self.vlans.first <= asked.vlan <= self.vlans.last


class HostNetwork(NamedTuple):
    """A host network as a network of mode Bridge asks for it."""

    name: str
    vlan: int | None = None
    """None: untagged."""

    def __str__(self) -> str:
        return f"bridge {self.name}" if self.vlan is None else f"VLAN {self.vlan} of bridge {self.name}"

    @property
    def flag(self) -> str:
        """The agent's flag that gives it."""
        return f"--allow-bridge {self.name}" + (f":{self.vlan}" if self.vlan is not None else "")


def gives(given: Iterable[GivenNetwork] | None, asked: HostNetwork) -> bool:
    """Whether a network may join it there, as far as is known."""
    return given is None or any(one.holds(asked) for one in given)


def why_missing(given: Iterable[GivenNetwork] | None, asked: HostNetwork) -> str:
    """Why what is given there cannot be joined now; empty: it can, as far as is known."""
    return next((one.missing for one in given or () if one.missing and one.holds(asked)), "")


def routes(ranges: Iterable[IpNetwork] | None, cidr: IpNetwork) -> bool:
    """Whether the addresses of a network are routed there, as far as is known: all of them by one of the ranges."""
    # Of two families `subnet_of` raises.
    return ranges is None or any(
        one.version == cidr.version and cidr.subnet_of(one)  # type: ignore[arg-type]
        for one in ranges
    )


# --- in the status of a Hypervisor ------------------------------------------------------------------------------------


def host_networks_json(given: Iterable[GivenNetwork]) -> list[dict[str, Any]]:
    """Hypervisor.status.hostNetworks, the same for the same networks in any order."""
    order = sorted(set(given), key=lambda one: (one.name, one.vlans or VlanRange(0, 0)))
    return [_row_of(one) for one in order]


def routed_json(ranges: Iterable[IpNetwork]) -> list[str]:
    """Hypervisor.status.routedCIDRs, the same for the same ranges in any order."""
    order = sorted(set(ranges), key=lambda one: (one.version, int(one.network_address), one.prefixlen))
    return [str(one) for one in order]


def _row_of(one: GivenNetwork) -> dict[str, Any]:
    row = {"name": one.name, "vlans": one.vlans._asdict() if one.vlans else None, "missing": one.missing}
    return {field: value for field, value in row.items() if value}


def host_networks_of(status: Mapping[str, Any]) -> tuple[GivenNetwork, ...] | None:
    """Of a Hypervisor's status; None: it does not say."""
    rows: Sequence[Mapping[str, Any]] | None = status.get("hostNetworks")
    if rows is None:
        return None
    return tuple(GivenNetwork(row["name"], _vlans_of(row), row.get("missing", "")) for row in rows)


def _vlans_of(row: Mapping[str, Any]) -> VlanRange | None:
    vlans = row.get("vlans")
    return VlanRange(vlans["first"], vlans["last"]) if vlans else None


def routed_of(status: Mapping[str, Any]) -> tuple[IpNetwork, ...] | None:
    """Of a Hypervisor's status; None: it does not say."""
    rows: Sequence[str] | None = status.get("routedCIDRs")
    return None if rows is None else tuple(map(ip_network, rows))
