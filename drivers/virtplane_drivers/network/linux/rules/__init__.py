"""What may pass: nftables rules of the router namespaces, and the one table of the host's namespace."""

from virtplane_drivers.network.linux.rules.apply import HostRules, RouterRules
from virtplane_drivers.network.linux.rules.flows import end_flows, end_forwards
from virtplane_drivers.network.linux.rules.forwarding import forwarding_findings

__all__ = ["HostRules", "RouterRules", "end_flows", "end_forwards", "forwarding_findings"]
