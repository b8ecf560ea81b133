"""The one table of an agent in the host's namespace, for all its networks that reach out through the host.

::

    outside ──► host's address:port ──► router's transit address:port ──► guest      (a forward: translated twice)
    guest ──► router (masqueraded, NAT) ──► host (masqueraded, NAT) ──► outside

Never from one network to another, and never to a service of the host. Nothing here overrides what another table drops:
see `forwarding`.

A forward of the host's own 127.0.0.1 needs `route_localnet` on the link to the router, and one of ::1 needs a local
route on it (`loopback`): without them the kernel does not take the answers. `route_localnet` opens nothing else: what
comes from a router for 127.0.0.1 is dropped like all that is for services of the host (for ::1 the kernel does so
itself), and the router refuses it before.
"""

from collections.abc import Collection, Iterable, Mapping

from virtplane_api.overlay import UDP_PORT
from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.rules.overlay import tunnel_chains, tunnel_sets
from virtplane_drivers.network.linux.rules.router import MASQUERADED
from virtplane_drivers.network.linux.rules.ruleset import Chain, NamedSet, Ruleset, Table
from virtplane_drivers.network.linux.values import Transit
from virtplane_drivers.network.overlay import Overlay

Networks = Mapping[str, tuple[Network, Transit]]
"""By UID, each with its transit addresses."""


def host_ruleset(state_id: str, networks: Networks, overlays: Collection[Overlay] = ()) -> Ruleset:
    """The table for these networks, and for the tunnels of those of mode Overlay. Pure."""
    links = [names.host_link(uid) for uid in networks]
    nat = [names.host_link(uid) for uid, (network, _) in networks.items() if network.mode in MASQUERADED]
    sets = (
        _links("link", links),
        _links("nat_link", nat),
        _forwards("forward_ipv4", "ip", networks, 4),
        _forwards("forward_ipv6", "ip6", networks, 6),
        *tunnel_sets(overlays),
    )
    return (Table("inet", names.host_table(state_id), sets, (*_CHAINS, *tunnel_chains(overlays))),)


def forwarded_families(network: Network) -> frozenset[int]:
    """IP versions of which the network has a forward."""
    return frozenset(address.version for port in network.ports if port.forwards for address in port.addresses)


def _links(name: str, links: Iterable[str]) -> NamedSet:
    return NamedSet(name, "typeof iifname", frozenset(f'"{link}"' for link in links))


def _forwards(name: str, family: str, networks: Networks, version: int) -> NamedSet:
    """Protocol and port of the host -> the router's transit address. A port of two networks: the first UID has it."""
    routers: dict[str, str] = {}
    for _, (network, transit) in sorted(networks.items()):
        router = transit.router_ipv4 if version == 4 else transit.router_ipv6
        for port in network.ports:
            if any(address.version == version for address in port.addresses):
                for forward in port.forwards:
                    routers.setdefault(f"{forward.protocol.lower()} . {forward.host_port}", str(router))
    elements = frozenset(f"{key} : {router}" for key, router in routers.items())
    return NamedSet(name, f"typeof meta l4proto . th dport : {family} daddr", elements, kind="map", in_place=False)


_TO_ROUTERS = (
    "meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @forward_ipv4",
    "meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @forward_ipv6",
)
_CHAINS = (
    Chain("prerouting", _TO_ROUTERS, "type nat hook prerouting priority dstnat; policy accept;"),
    Chain("output", _TO_ROUTERS, "type nat hook output priority -100; policy accept;"),
    Chain(
        "input",
        (
            "iifname != @link accept",
            "ct state established,related accept",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
            "drop",
        ),
        "type filter hook input priority filter; policy accept;",
    ),
    Chain(
        "forward",
        (
            f"iifname @link udp dport {UDP_PORT} drop",
            "iifname @link oifname @link drop",
            "iifname @link accept",
            "oifname @nat_link ct state established,related accept",
            "oifname @nat_link ct status dnat accept",
            "oifname @nat_link drop",
        ),
        "type filter hook forward priority filter; policy accept;",
    ),
    Chain(
        "postrouting",
        (
            "iifname @nat_link oifname != @link masquerade",
            # Loopback addresses mean the router itself there.
            "oifname @link ip saddr 127.0.0.0/8 masquerade",
            "oifname @link ip6 saddr ::1 masquerade",
        ),
        "type nat hook postrouting priority srcnat; policy accept;",
    ),
)
