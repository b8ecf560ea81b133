"""What of a host its networks may have. Who may make a network in a namespace is not who looks after the hosts.

A bridge of the host leads to whatever that is joined to, and a route of the host takes its own traffic too: both are
given by the agent's flags, and nothing is without them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from virtplane_api.host_networks import GivenNetwork, HostNetwork, VlanRange, gives, routes
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import Refused
from virtplane_drivers.network.contract import IpNetwork, Network

_MAX_NAME_BYTES = 15
_FIRST_VLAN, _LAST_VLAN = 1, 4094
"""0 is a frame without one, 4095 is reserved (IEEE 802.1Q, 9.6)."""
MODES = frozenset({NetworkMode.ISOLATED, NetworkMode.NAT, NetworkMode.ROUTED, NetworkMode.BRIDGE, NetworkMode.OVERLAY})
"""That the driver has where all is allowed."""


def check_bridge_name(name: str) -> None:
    """Raises ValueError of a name that no network device (Linux: dev_valid_name), or no spec.bridge.name, can have."""
    is_long = len(name.encode(errors="surrogateescape")) > _MAX_NAME_BYTES
    if is_long or not name.isprintable() or not re.fullmatch(r"[^\s/:.][^\s/:]*", name):
        raise ValueError(
            f"{name!r} is no name of a bridge: 1 to {_MAX_NAME_BYTES} bytes of UTF-8, no white space, '/' or ':', and "
            f"no '.' first; `ip link show type bridge` lists the host's"
        )


class BridgeVlans(NamedTuple):
    """VLANs of a bridge of the host, from `first` to `last`."""

    bridge: str
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `NAME:VLAN` or `NAME:FIRST-LAST`. Raises ValueError, which says what is wrong."""
        bridge, _, vlans = text.partition(":")
        first, dash, last = vlans.partition("-")
        numbers = (first, last if dash else first)
        if not bridge or not all(re.fullmatch(r"[0-9]{1,4}", number) for number in numbers):
            raise ValueError(
                f"{text!r} is not of the form NAME, NAME:VLAN or NAME:FIRST-LAST, for example br-lan:100-199"
            )
        check_bridge_name(bridge)
        found = cls(bridge, int(first), int(last if dash else first))
        if not _FIRST_VLAN <= found.first <= found.last <= _LAST_VLAN:
            raise ValueError(f"{text!r}: VLANs are from {_FIRST_VLAN} to {_LAST_VLAN}, the lower one first")
        return found

    def __str__(self) -> str:
        return f"{self.bridge}:{self.first}" + ("" if self.first == self.last else f"-{self.last}")


@dataclass(frozen=True, slots=True)
class Allowances:
    """The host's bridges that networks may join, and the addresses that it routes for them."""

    bridges: frozenset[str] = frozenset()
    """Untagged."""
    routed: tuple[IpNetwork, ...] = ()
    vlans: tuple[BridgeVlans, ...] = ()
    """By tag: who may join a bridge in one VLAN may join it neither in another one nor untagged."""

    @property
    def bridge_names(self) -> frozenset[str]:
        """Of the bridges that are given in any way."""
        return self.bridges | {one.bridge for one in self.vlans}

    @property
    def host_networks(self) -> tuple[GivenNetwork, ...]:
        """The bridges as placements know them."""
        tagged = (GivenNetwork(one.bridge, VlanRange(one.first, one.last)) for one in self.vlans)
        return (*map(GivenNetwork, sorted(self.bridges)), *tagged)

    @property
    def missing(self) -> Mapping[NetworkMode, str]:
        """Modes that nothing is allowed of, and the flag that would."""
        missing = {}
        if not self.bridges and not self.vlans:
            missing[NetworkMode.BRIDGE] = "no bridge is given to networks: start the agent with --allow-bridge NAME"
        if not self.routed:
            missing[NetworkMode.ROUTED] = (
                "no addresses are routed for networks: start the agent with --allow-routed CIDR"
            )
        return missing

    def check(self, network: Network) -> None:
        """Raises Refused (NetworkNotAllowed) of a network that would have more."""
        asked = HostNetwork(network.host_bridge, network.vlan)
        if network.mode is NetworkMode.BRIDGE and not gives(self.host_networks, asked):
            given = ", ".join(sorted([*self.bridges, *map(str, self.vlans)]))
            what = f"VLAN {network.vlan} of its bridge" if network.vlan is not None else "its bridge"
            given = f" (given: {given})" if given else ""
            message = f"the host does not give {what} {network.host_bridge} to networks{given}: {asked.flag}"
            raise Refused(message, reason=Reason.NETWORK_NOT_ALLOWED)
        if network.mode is NetworkMode.ROUTED:
            for subnet in network.subnets:
                if not routes(self.routed, subnet.cidr):
                    message = f"the host does not route {subnet.cidr} for networks: --allow-routed {subnet.cidr}"
                    raise Refused(message, reason=Reason.NETWORK_NOT_ALLOWED)


NOTHING_ALLOWED = Allowances()
