"""What networks ask of a host, whether for a machine that is on them or for themselves."""

from collections.abc import Sequence
from dataclasses import replace

from virtplane_operator.networks.catalog import Network
from virtplane_operator.placement import Request


def with_networks(request: Request, networks: Sequence[Network]) -> Request:
    """The request of a machine that is on these networks."""
    if not networks:
        return request
    return replace(
        request,
        networks=frozenset(one.uid for one in networks),
        network_modes=frozenset(one.mode for one in networks),
        network_capabilities=request.network_capabilities.union(*(one.capabilities for one in networks)),
        host_networks=frozenset(one.host_network for one in networks if one.host_network is not None),
        routed=frozenset(cidr for one in networks for cidr in one.routed),
        tunnel_mtu=max((one.tunnel_mtu for one in networks), default=0),
    )


def of_network(network: Network) -> Request:
    """What the network asks of any host, whoever is on it."""
    return with_networks(Request(cores=0, memory_mib=0), [network])
