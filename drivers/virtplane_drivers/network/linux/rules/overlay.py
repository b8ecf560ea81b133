"""The rules of mode Overlay: what crosses from host to host, and from which hosts it is taken.

Each host has the gateway, with one address and one MAC, for its own guests. Were it met across a tunnel, two would
answer, and bridges would learn that it is elsewhere. So the router neither hears nor speaks by the tunnel (`input`,
`output`), and between guests does not cross (`crossing`, in both directions): frames from or to the gateway's MAC, ARP
and neighbour discovery for its addresses, router discovery, DHCP. All else that comes by the tunnel was checked where
its sender is a port. The chain `crossing` is of anti-spoofing's table, in whose hooks each frame is anyway: hooks of
its own would cost a frame more than its rules do.

The host takes VXLAN for a network from the hosts that have it and from nobody else. Numbers (VNIs) of other networks
than this agent's are none of its business: another agent of this host may have them. What comes from a host is to be
of that host, and not of a guest behind it: routers forward nothing to the port of the tunnels.
"""

from collections.abc import Collection, Iterator

from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.links import bridge_interfaces
from virtplane_drivers.network.linux.rules.ruleset import Chain, NamedSet, Table, braced
from virtplane_drivers.network.overlay import Overlay

GUARD_TABLE = f"{names.ROUTER_TABLE}-tunnel"
_FROM_TUNNEL, _TO_TUNNEL = f'iifname "{names.TUNNEL}"', f'oifname "{names.TUNNEL}"'
_VNI = "@th,96,24"
"""Behind UDP's 8 bytes: flags and 24 reserved bits, then the number (RFC 7348, 5)."""


def guard_tables(network: Network) -> tuple[Table, ...]:
    """Of the router namespace: none but for mode Overlay. Pure."""
    if network.overlay is None:
        return ()
    hooked = (("input", f"{_FROM_TUNNEL} drop"), ("output", f"{_TO_TUNNEL} drop"))
    chains = (Chain(hook, (rule,), f"type filter hook {hook} priority filter; policy accept;") for hook, rule in hooked)
    return (Table("bridge", GUARD_TABLE, (), tuple(chains)),)


def crossing(network: Network) -> Chain:
    """What comes and goes by the tunnel, of a network of mode Overlay. Accepts the rest. Pure."""
    return Chain("crossing", (*_crossing(network), "accept"))


def tunnel_sets(overlays: Collection[Overlay]) -> tuple[NamedSet, ...]:
    """Of the host's table: who may send what; always there, so that a network more changes elements only."""
    return (
        _senders("tunnel_ipv4", "ip", overlays, 4),
        _senders("tunnel_ipv6", "ip6", overlays, 6),
        NamedSet("tunnel_vni", f"typeof {_VNI}", frozenset(_number(one) for one in overlays)),
    )


def tunnel_chains(overlays: Collection[Overlay]) -> tuple[Chain, ...]:
    """Of the host's table: none where no network has tunnels."""
    if not overlays:
        return ()
    ports = ", ".join(sorted({str(one.udp_port) for one in overlays}))
    rules = (
        f"udp dport {{ {ports} }} ip saddr . {_VNI} @tunnel_ipv4 accept",
        f"udp dport {{ {ports} }} ip6 saddr . {_VNI} @tunnel_ipv6 accept",
        f"udp dport {{ {ports} }} {_VNI} @tunnel_vni drop",
    )
    # Programs that speak for guests of mode User send as this host; the kernel's own tunnels have no user.
    own = (f"meta skuid != 0 udp dport {{ {ports} }} {_VNI} @tunnel_vni drop",)
    return (
        Chain("tunnels", rules, "type filter hook input priority filter - 1; policy accept;"),
        Chain("tunnels_own", own, "type filter hook output priority filter - 1; policy accept;"),
    )


def _senders(name: str, family: str, overlays: Collection[Overlay], version: int) -> NamedSet:
    elements = (f"{peer} . {_number(one)}" for one in overlays for peer in one.peers if peer.version == version)
    return NamedSet(name, f"typeof {family} saddr . {_VNI}", frozenset(elements))


def _number(overlay: Overlay) -> str:
    return f"{overlay.vni:#x}"


def _crossing(network: Network) -> Iterator[str]:
    mac = names.router_mac(network.uid)
    yield f"ether saddr {mac} drop"
    yield f"ether daddr {mac} drop"
    own = [interface.ip for interface in bridge_interfaces(network)]
    for version, family in ((4, "ip"), (6, "ip6")):
        addresses = [str(address) for address in own if address.version == version]
        if addresses:
            yield f"{family} saddr {braced(addresses)} drop"
    # Most of what guests send; no rule below is of TCP.
    yield "meta l4proto tcp accept"
    for address in own:
        if address.version == 4:
            yield f"arp saddr ip {address} drop"
            yield f"arp daddr ip {address} drop"
        else:
            yield f"icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} @th,64,128 {int(address):#x} drop"
    yield "icmpv6 type { nd-router-solicit, nd-router-advert, nd-redirect } drop"
    yield "udp sport { 67, 68, 546, 547 } drop"
    yield "udp dport { 67, 68, 546, 547 } drop"
