"""A network's addresses beside the routes of its host: which ones they hide, and the host's routes to the network."""

from collections.abc import Iterable, Mapping

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.host.network_stack import MAIN_TABLE, Link, StackRoute
from virtplane_drivers.network.contract import IpNetwork, Network
from virtplane_drivers.network.linux.names import is_host_link_alias
from virtplane_drivers.network.linux.values import Finding, Transit

_NAMED = 3
"""More hidden routes than these say nothing new."""


def destinations(network: Network) -> tuple[IpNetwork, ...]:
    """All that is reached through the network's router."""
    return (*(subnet.cidr for subnet in network.subnets), *(route.destination for route in network.routes))


def routes_to(network: Network, link: Link, transit: Transit) -> frozenset[StackRoute]:
    """What the host's routes to a network of mode Routed are to be."""
    return frozenset(
        StackRoute(link.index, cidr, transit.router_ipv4 if cidr.version == 4 else transit.router_ipv6)
        for cidr in destinations(network)
    )


def overlapping_routes(network: Network, own: Link, routes: Iterable[StackRoute]) -> list[StackRoute]:
    """The host's routes to where the network's guests would look for each other.

    A route is hidden if it is inside of the network's addresses, and also if they are inside of it and it leads to
    neighbours. One that leads on by a router to much more than they are (10.0.0.0/8, say) is meant to have exceptions.
    """
    return [
        route
        for route in routes
        if route.link != own.index
        and route.destination.prefixlen > 0
        and not route.destination.is_link_local
        and not route.destination.is_multicast
        and any(_hides(cidr, route) for cidr in destinations(network))
    ]


def hidden_routes(network: Network, overlapping: Iterable[StackRoute], links: Mapping[int, Link]) -> list[StackRoute]:
    """Those that count: other networks of ours do only for mode Routed, as there both are in the host's table."""
    routed = network.mode is NetworkMode.ROUTED
    ours = {link.index for link in links.values() if is_host_link_alias(link.alias)}
    return [route for route in overlapping if routed or route.link not in ours]


def hidden_finding(network: Network, hidden: list[StackRoute], links: Mapping[int, Link]) -> Finding:
    """What a user is told of them."""
    names = {index: link.name for index, link in links.items()}
    named = ", ".join(
        f"{route.destination} by {names.get(route.link, '?')} (table {_table(route)})" for route in hidden[:_NAMED]
    )
    more = f" and {len(hidden) - _NAMED} more" if len(hidden) > _NAMED else ""
    what = (
        "the host does not route to the network, as it has other routes to its addresses"
        if network.mode is NetworkMode.ROUTED
        else "guests do not reach what their host reaches by routes to the network's own addresses"
    )
    return Finding(
        Reason.HIDES_HOST_ROUTE, f"{what}: {named}{more}; give the network addresses that are in no use there"
    )


def _hides(cidr: IpNetwork, route: StackRoute) -> bool:
    if cidr.version != route.destination.version:
        return False
    inside = route.destination.network_address in cidr and route.destination.prefixlen >= cidr.prefixlen
    around = cidr.network_address in route.destination and route.gateway is None
    return inside or around


def _table(route: StackRoute) -> str:
    return "main" if route.table == MAIN_TABLE else str(route.table)
