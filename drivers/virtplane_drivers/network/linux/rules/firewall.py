"""The firewall of a router namespace: what of their flows the ports of its bridge let through.

It is keyed by the name of the tap, in the family bridge, which each frame of a guest meets, bridged or routed, unicast
or not: so there is no address under which a frame passes by. Two maps lead from a tap to the chain of its firewall; all
ports of one firewall share one chain for each direction.

Which flow a frame belongs to only the families of IP know here. With br_netfilter bridged frames meet their hooks on
the way, and those leave a mark; a kernel whose family bridge knows `ct` itself needs neither (see `Way`).

::

    inet    prerouting   of a flow that is known: mark PASSES      (with br_netfilter)
    bridge  forward      to another port: mark BRIDGED             egress of the tap that it came by
    inet    forward      BRIDGED: accepted, nothing is routed      (with br_netfilter)
    bridge  input        to the router, or routed                  its services, then egress of the tap
    inet    output       from the router itself: mark PASSES
    inet    forward      from outside, to an address of a port     ingress of that port
    bridge  postrouting  to a port, from wherever                  ingress of the tap that it goes to

A packet that is dropped is to leave no flow behind: the answer to it would pass as established. What is routed is known
as a flow before it meets the bridge, so it is asked for by the address that it goes to; and what is bridged to an
address that a port has goes out by that port, or nowhere. Of addresses that nobody claimed neither can be told: there
two who are in league may begin a flow from the side that no rule stops.

Anti-spoofing is in front of it all. ARP, neighbour discovery and MLD pass whatever the rules say: else no flow would.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from virtplane_api.vocabulary import FirewallAction, FirewallDirection, FirewallProtocol
from virtplane_drivers.network.contract import AddressGroup, Firewall, FirewallRule, IpAddress, IpNetwork, Network
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.rules.ruleset import Chain, NamedSet, Table, braced
from virtplane_drivers.network.linux.rules.spoofing import certain_addresses

_PASSES, _BRIDGED = 1, 2
"""Bits of the mark of a packet, within its router namespace."""
SERVICES_UDP, SERVICES_TCP = (53, 67, 547), (53,)
"""Of the router, for everybody: names and addresses."""
_TO_SERVERS_IPV4, _TO_SERVERS_IPV6 = "255.255.255.255", "ff02::1:2"
_VERDICTS = {FirewallAction.ALLOW: "accept", FirewallAction.DENY: "drop"}
_FAMILIES = ((4, "ip"), (6, "ip6"))


class Way(Enum):
    """How the state of a flow is known of a bridged frame."""

    BRIDGE_NETFILTER = "br_netfilter"
    """By the hooks of IP, where `bridge-nf-call-iptables` of the namespace is on."""
    BRIDGE_CONNTRACK = "ct in the bridge family"


def with_firewall(table: Table, network: Network, router_addresses: Iterable[IpAddress], way: Way) -> Table:
    """The table of the family bridge, with the firewalls of the network's ports behind what it does already. Pure."""
    if not network.has_firewall:
        return table
    firewalls = _used(network)
    return replace(
        table,
        sets=(*table.sets, *_sets(network, firewalls)),
        chains=(*table.chains, *_chains(firewalls, sorted(router_addresses, key=str), way)),
    )


def with_states(table: Table, network: Network, way: Way) -> Table:
    """The table of the families of IP, which tells the other one what it knows of a packet. Pure."""
    if not network.has_firewall:
        return table
    passes = f"meta mark set meta mark | {_PASSES}"
    own = Chain("firewall_own", (passes,), "type filter hook output priority mangle; policy accept;")
    table = _with_routed(table, network)
    if way is Way.BRIDGE_CONNTRACK:
        return replace(table, chains=(*table.chains, own))
    state = Chain(
        "firewall_state",
        (f"ct state established,related {passes}",),
        "type filter hook prerouting priority mangle; policy accept;",
    )
    chains = tuple(
        replace(chain, rules=(f"meta mark & {_BRIDGED} == {_BRIDGED} accept", *chain.rules))
        if chain.name == "forward"
        else chain
        for chain in table.chains
    )
    return replace(table, chains=(*chains, own, state))


def _with_routed(table: Table, network: Network) -> Table:
    """Ingress by address, of what comes from outside and begins a flow."""
    firewalls = _used(network)
    ports = [port for port in network.ports if port.firewall]
    maps = tuple(
        NamedSet(
            f"ingress_ipv{version}",
            f"typeof {family} daddr : verdict",
            frozenset(
                f"{address} : goto {_ingress(port.firewall)}"
                for port in ports
                for address in certain_addresses(network, port)
                if address.version == version and not address.is_link_local
            ),
            kind="map",
        )
        for version, family in _FAMILIES
    )
    holders = {address: port for port in ports for address in port.addresses}
    # Of two that hold one address the narrower one counts, as for the router.
    routes = sorted(network.routes, key=lambda route: -route.destination.prefixlen)
    behind = tuple(
        f"{'ip' if route.destination.version == 4 else 'ip6'} daddr {route.destination} "
        f"goto {_ingress(holders[route.via].firewall)}"
        for route in routes
        if route.via in holders
    )
    chains = tuple(
        Chain(_ingress(one.name), tuple(_policy(one, FirewallDirection.INGRESS, is_bridged=False))) for one in firewalls
    )
    routed = Chain(
        "firewall_routed",
        (
            f"meta mark & {_BRIDGED} == {_BRIDGED} accept",
            "ct state established,related accept",
            *(f"{family} daddr vmap @ingress_ipv{version}" for version, family in _FAMILIES),
            *behind,
        ),
        "type filter hook forward priority filter + 1; policy accept;",
    )
    groups = tuple(_groups(network, firewalls, is_bridged=False))
    return replace(table, sets=(*table.sets, *groups, *maps), chains=(*table.chains, *chains, routed))


def router_services(router_addresses: Iterable[IpAddress]) -> tuple[frozenset[str], frozenset[str]]:
    """Addresses under which the router is asked, of IPv4 and of IPv6."""
    own = list(router_addresses)
    ipv4 = {_TO_SERVERS_IPV4, *(str(address) for address in own if address.version == 4)}
    ipv6 = {_TO_SERVERS_IPV6, *(str(address) for address in own if address.version == 6)}
    return frozenset(ipv4), frozenset(ipv6)


def _used(network: Network) -> list[Firewall]:
    used = {port.firewall for port in network.ports}
    # In an order of their own: else all would be put in anew when the machine that had one first goes.
    return sorted((one for one in network.firewalls if one.name in used), key=lambda one: one.name)


def _sets(network: Network, firewalls: list[Firewall]) -> Iterator[NamedSet]:
    ports = [port for port in network.ports if port.firewall]
    for name, chain in (("egress", _egress), ("ingress", _ingress)):
        ways = frozenset(f'"{names.tap_name(port)}" : goto {chain(port.firewall)}' for port in ports)
        yield NamedSet(name, "type ifname : verdict", ways, kind="map")
    yield from _groups(network, firewalls, is_bridged=True)
    for version, family in _FAMILIES:
        held = [
            (names.tap_name(port), address)
            for port in network.ports
            for address in certain_addresses(network, port)
            if address.version == version
        ]
        yield NamedSet(f"held_ipv{version}", f"typeof {family} daddr", frozenset(str(address) for _, address in held))
        at = frozenset(f'"{tap}" . {address}' for tap, address in held)
        yield NamedSet(f"held_ipv{version}_at", f"typeof oifname . {family} daddr", at)


def _groups(network: Network, firewalls: list[Firewall], *, is_bridged: bool) -> Iterator[NamedSet]:
    used = {
        name
        for firewall in firewalls
        for rule in firewall.rules
        for name in rule.groups
        if is_bridged or rule.direction is FirewallDirection.INGRESS
    }
    denied = {
        name
        for firewall in firewalls
        for rule in firewall.rules
        for name in rule.groups
        if rule.action is FirewallAction.DENY and is_bridged
    }
    for group in network.groups:
        if group.name in used:
            yield from _group(group)
        if group.name in denied:
            yield NamedSet(_group_macs(group.name), "typeof ether saddr", frozenset(group.macs))


def _group(group: AddressGroup) -> Iterator[NamedSet]:
    for version, family in _FAMILIES:
        addresses = frozenset(str(address) for address in group.addresses if address.version == version)
        yield NamedSet(_group_name(group.name, version), f"typeof {family} saddr", addresses)


def _chains(firewalls: list[Firewall], router_addresses: list[IpAddress], way: Way) -> Iterator[Chain]:
    for firewall in firewalls:
        yield Chain(_egress(firewall.name), tuple(_policy(firewall, FirewallDirection.EGRESS, is_bridged=True)))
        yield Chain(_ingress(firewall.name), tuple(_policy(firewall, FirewallDirection.INGRESS, is_bridged=True)))
    head = tuple(_head(way))
    bridged = (f"meta mark set meta mark | {_BRIDGED}",) if way is Way.BRIDGE_NETFILTER else ()
    yield Chain(
        "firewall_forward",
        (*bridged, *head, "iifname vmap @egress"),
        # Before br_netfilter's (-1), which asks the hook `forward` of IP.
        "type filter hook forward priority -10; policy accept;",
    )
    ipv4, ipv6 = router_services(router_addresses)
    services = (
        f"ip daddr {braced(ipv4)} jump firewall_services",
        f"ip6 daddr {braced(ipv6)} jump firewall_services",
    )
    yield Chain(
        "firewall_services",
        (f"udp dport {braced(map(str, SERVICES_UDP))} accept", f"tcp dport {braced(map(str, SERVICES_TCP))} accept"),
    )
    yield Chain(
        "firewall_input",
        (*head, *services, "iifname vmap @egress"),
        "type filter hook input priority -10; policy accept;",
    )
    yield Chain(
        "firewall_postrouting",
        (
            *head,
            *(
                f"{family} daddr @held_ipv{version} oifname . {family} daddr != @held_ipv{version}_at drop"
                for version, family in _FAMILIES
            ),
            "oifname vmap @ingress",
        ),
        # After anti-spoofing's (300), before br_netfilter's, the last.
        "type filter hook postrouting priority 310; policy accept;",
    )


def _head(way: Way) -> Iterator[str]:
    yield "ether type { arp, 0x8035 } accept"
    yield "icmpv6 type { 130, 131, 132, 133, 134, 135, 136, 143 } accept"
    yield f"meta mark & {_PASSES} == {_PASSES} accept"
    if way is Way.BRIDGE_CONNTRACK:
        yield "ct state established,related accept"


def _policy(firewall: Firewall, direction: FirewallDirection, *, is_bridged: bool) -> Iterator[str]:
    for rule in firewall.rules:
        if rule.direction is direction:
            for other_end in _other_ends(rule, is_bridged=is_bridged):
                yield " ".join(part for part in (_protocol(rule), other_end, _VERDICTS[rule.action]) if part)
    default = firewall.ingress if direction is FirewallDirection.INGRESS else firewall.egress
    yield _VERDICTS[default]


def _protocol(rule: FirewallRule) -> str:
    match rule.protocol:
        case FirewallProtocol.ANY:
            return ""
        case FirewallProtocol.ICMP:
            return "meta l4proto { icmp, icmpv6 }"
        case FirewallProtocol.TCP | FirewallProtocol.UDP:
            protocol = rule.protocol.lower()
            ranges = [f"{first}-{last}" if first != last else str(first) for first, last in _merged(rule.ports)]
            return f"{protocol} dport {braced(ranges)}" if ranges else f"meta l4proto {protocol}"


def _other_ends(rule: FirewallRule, *, is_bridged: bool) -> Iterator[str]:
    """A match for each way in which the other end may be meant.

    Who is denied is so by its MAC too: it may have addresses that nobody claimed. Who is allowed is so by claimed
    addresses alone.
    """
    if rule.is_of_everybody:
        yield ""
        return
    side = "saddr" if rule.direction is FirewallDirection.INGRESS else "daddr"
    for version, family in _FAMILIES:
        cidrs = _collapsed(rule.cidrs, version)
        if any(cidr.prefixlen == 0 for cidr in cidrs):
            yield f"meta protocol {family}"
            continue
        if cidrs:
            yield f"{family} {side} {braced(map(str, cidrs))}"
        for group in rule.groups:
            yield f"{family} {side} @{_group_name(group, version)}"
    if rule.action is FirewallAction.DENY and is_bridged:
        for group in rule.groups:
            yield f"ether {side} @{_group_macs(group)}"


def _collapsed(cidrs: Iterable[IpNetwork], version: int) -> list[IpNetwork]:
    """Without overlaps, which the kernel's intervals do not take."""
    if version == 4:
        return list(collapse_addresses([cidr for cidr in cidrs if isinstance(cidr, IPv4Network)]))
    return list(collapse_addresses([cidr for cidr in cidrs if isinstance(cidr, IPv6Network)]))


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _egress(firewall: str) -> str:
    return f"egress_{firewall}"


def _ingress(firewall: str) -> str:
    return f"ingress_{firewall}"


def _group_name(group: str, version: int) -> str:
    return f"group_ipv{version}_{group}"


def _group_macs(group: str) -> str:
    return f"group_mac_{group}"
