"""What of a host its networks may have. Who may make a network in a namespace is not who looks after the hosts.

A bridge of the host leads to whatever that is joined to, and a route of the host takes its own traffic too: both are
given by the agent's flags, and nothing is without them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import Refused
from virtplane_drivers.network.contract import IpNetwork, Network

MODES = frozenset({NetworkMode.ISOLATED, NetworkMode.NAT, NetworkMode.ROUTED, NetworkMode.BRIDGE, NetworkMode.OVERLAY})
"""That the driver has where all is allowed."""


@dataclass(frozen=True, slots=True)
class Allowances:
    """The host's bridges that networks may join, and the addresses that it routes for them."""

    bridges: frozenset[str] = frozenset()
    routed: tuple[IpNetwork, ...] = ()

    @property
    def missing(self) -> Mapping[NetworkMode, str]:
        """Modes that nothing is allowed of, and the flag that would."""
        missing = {}
        if not self.bridges:
            missing[NetworkMode.BRIDGE] = "no bridge is given to networks: start the agent with --allow-bridge NAME"
        if not self.routed:
            missing[NetworkMode.ROUTED] = (
                "no addresses are routed for networks: start the agent with --allow-routed CIDR"
            )
        return missing

    def check(self, network: Network) -> None:
        """Raises Refused (NetworkNotAllowed) of a network that would have more."""
        if network.mode is NetworkMode.BRIDGE and network.host_bridge not in self.bridges:
            given = f" (given: {', '.join(sorted(self.bridges))})" if self.bridges else ""
            message = f"the host does not give its bridge {network.host_bridge} to networks{given}: --allow-bridge"
            raise Refused(message, reason=Reason.NETWORK_NOT_ALLOWED)
        if network.mode is NetworkMode.ROUTED:
            for subnet in network.subnets:
                if not any(_holds(allowed, subnet.cidr) for allowed in self.routed):
                    message = f"the host does not route {subnet.cidr} for networks: --allow-routed"
                    raise Refused(message, reason=Reason.NETWORK_NOT_ALLOWED)


NOTHING_ALLOWED = Allowances()


def _holds(allowed: IpNetwork, cidr: IpNetwork) -> bool:
    # Of two families `subnet_of` raises.
    return allowed.version == cidr.version and cidr.subnet_of(allowed)  # type: ignore[arg-type]
