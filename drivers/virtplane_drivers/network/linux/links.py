"""The inside of a router namespace: the bridge that is the gateway, the routes behind machines, and the taps.

What is not asked for is not answered: IPv6 is off on every device that has no IPv6 address to give (a tap would
otherwise send of its own, and a bridge of a network of mode Bridge would be met on the host's network), and ARP is
answered only for an address of the device that was asked (the transit addresses are nobody's business).
"""

import errno
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host import netns
from virtplane_drivers.host.network_stack import Link, NetworkStack, StackRoute
from virtplane_drivers.network.contract import Network, Subnet
from virtplane_drivers.network.linux.dnsmasq.configuration import own_addresses
from virtplane_drivers.network.linux.eui64 import LINK_LOCAL, link_local
from virtplane_drivers.network.linux.names import BRIDGE, router_mac, tap_name
from virtplane_drivers.network.linux.namespace import in_namespace
from virtplane_drivers.network.linux.shaping import apply_limits
from virtplane_drivers.network.linux.values import Finding

_BRIDGED_TO_INET = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
TAP = "tun"
"""What the kernel calls the kind of a tap."""


async def apply_router(path: Path, network: Network) -> list[Finding]:
    """Make loopback, bridge, its addresses and routes, settings and taps so. What is so already is not touched.

    A limit that this kernel cannot keep is a finding: guests are not kept from each other by it.

    Raises:
        Unavailable: the kernel refused something (NetworkError), which the message names.
    """
    try:
        return await in_namespace(path, _apply, network)
    except OSError as error:
        message = f"the router of {network.namespace}/{network.name} could not be set up: {error}"
        raise Unavailable(message, reason=Reason.NETWORK_ERROR) from error


async def ports_held(path: Path) -> frozenset[str]:
    """Names of the taps that are there now, each held by a hypervisor. Of a namespace that is gone: none."""
    try:
        return await in_namespace(path, _taps)
    except FileNotFoundError:
        return frozenset()


def router_sysctls(network: Network) -> Mapping[str, str]:
    """What holds of the whole namespace, by path below /proc/sys. New devices take the defaults."""
    routes = "0" if network.mode is NetworkMode.BRIDGE else "1"
    return {
        # First: the kernel changes accept_redirects of all with it.
        "net/ipv4/ip_forward": routes,
        "net/ipv6/conf/all/forwarding": routes,
        # A new namespace takes IPv4's settings from the host, and IPv6's from the kernel: none is left to chance.
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/default/rp_filter": "1",
        "net/ipv4/conf/all/arp_ignore": "1",
        "net/ipv4/conf/all/arp_announce": "2",
        "net/ipv4/conf/all/accept_redirects": "0",
        "net/ipv4/conf/default/accept_redirects": "0",
        # A guest that is told a shorter way to another's network would be taken for one that spoofs.
        "net/ipv4/conf/all/send_redirects": "0",
        "net/ipv4/conf/default/send_redirects": "0",
        "net/ipv4/conf/all/accept_source_route": "0",
        "net/ipv6/conf/default/disable_ipv6": "1",
        "net/ipv6/conf/default/accept_ra": "0",
        # Bridged frames are none of inet's business in a network without a firewall; one with it says when they are.
        **({} if network.has_firewall else dict.fromkeys(_BRIDGED_TO_INET, "0")),
        "net/bridge/bridge-nf-call-arptables": "0",
    }


def bridge_sysctls(network: Network) -> Mapping[str, str]:
    """What holds of the bridge alone."""
    ipv6 = any(interface.version == 6 for interface in bridge_interfaces(network))
    conf4, conf6 = f"net/ipv4/conf/{BRIDGE}", f"net/ipv6/conf/{BRIDGE}"
    return {
        f"{conf4}/rp_filter": "1",
        f"{conf4}/accept_redirects": "0",
        f"{conf4}/send_redirects": "0",
        f"{conf6}/addr_gen_mode": "1",  # its link-local address is given with the others, at once usable
        f"{conf6}/accept_ra": "0",
        f"{conf6}/accept_redirects": "0",
        f"{conf6}/disable_ipv6": "0" if ipv6 else "1",
    }


def bridge_interfaces(network: Network) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The addresses of the bridge: the gateways, and what DHCP takes where there is none.

    Those of mode Bridge have their gateway outside.
    """
    if network.mode is NetworkMode.BRIDGE:
        return ()
    gateways = tuple(_interface(subnet) for subnet in network.subnets if subnet.gateway is not None)
    own = (*gateways, *own_addresses(network))
    own_link_local = tuple(router_link_local(network.uid) for one in own if one.version == 6)
    return (*own, *own_link_local)


def router_link_local(network_uid: str) -> IPv6Interface:
    """Of the bridge, as its MAC gives it (RFC 4291, appendix A): by which guests know their router."""
    return IPv6Interface((link_local(router_mac(network_uid)), LINK_LOCAL.prefixlen))


def apply_sysctls(stack: NetworkStack, wanted: Mapping[str, str]) -> None:
    """Sets them, but for those of a part of the kernel that is not there (IPv6, br_netfilter).

    Raises:
        OSError: one could not be set.
    """
    absent = {part for part in ("net/ipv6", "net/bridge") if not stack.has_sysctls(part)}
    for name, value in wanted.items():
        if not any(name.startswith(f"{part}/") for part in absent):
            stack.set_sysctl(name, value)


def apply_addresses(stack: NetworkStack, link: Link, wanted: tuple[IPv4Interface | IPv6Interface, ...]) -> None:
    """The link has exactly these."""
    present = {address.interface for address in stack.addresses(link.index)}
    # First: were the new one of the same network, it would be a secondary of the old one, and end with it.
    for interface in sorted(present - set(wanted), key=str):
        if not interface.is_link_local or interface.version == 4:
            stack.delete_address(link, interface)
    for interface in wanted:
        if interface not in present:
            stack.add_address(link, interface)


def apply_routes(stack: NetworkStack, link: Link, found: Iterable[StackRoute], wanted: frozenset[StackRoute]) -> None:
    """Of routes by a gateway the link has exactly these, if it had those found. Metrics are the kernel's to choose."""
    present = {_by_gateway(route): route for route in found if route.link == link.index and route.gateway}
    for key in present.keys() - {_by_gateway(route) for route in wanted}:
        stack.delete_route(present[key])
    for route in sorted(wanted, key=str):
        if _by_gateway(route) not in present:
            stack.add_route(route)


def _by_gateway(route: StackRoute) -> tuple[object, ...]:
    return route.destination, route.gateway, route.table


def _interface(subnet: Subnet) -> IPv4Interface | IPv6Interface:
    return ip_interface(f"{subnet.gateway}/{subnet.cidr.prefixlen}")


def _apply(network: Network) -> list[Finding]:
    with NetworkStack(netns.OF_THREAD) as stack:
        apply_sysctls(stack, router_sysctls(network))
        links = stack.links()
        if not links["lo"].up:
            stack.change_link(links["lo"], state="up")
        bridge = _bridge(stack, network, links.get(BRIDGE))
        apply_sysctls(stack, bridge_sysctls(network))
        apply_addresses(stack, bridge, bridge_interfaces(network))
        _repair_taps(stack, network, bridge, links)
        # After the taps: a bridge whose MTU nobody ever changed takes the least of its ports.
        _set_mtu(stack, bridge, network.mtu)
        if not bridge.up:
            stack.change_link(bridge, state="up")
        apply_routes(stack, bridge, stack.routes(), _routes(network, bridge))
        try:
            apply_limits(stack, network.ports, network.mtu, links)
        except OSError as error:
            return [Finding(Reason.NETWORK_ERROR, f"bandwidth of ports is not limited: {error}")]
    return []


def _bridge(stack: NetworkStack, network: Network, found: Link | None) -> Link:
    mac = router_mac(network.uid)
    if found is not None and found.kind != "bridge":
        stack.delete_link(found)
        found = None
    bridge = found or stack.make_bridge(BRIDGE, mac)
    if bridge.mac != mac:
        stack.change_link(bridge, address=mac)
    if not bridge.plain_bridge:
        stack.make_plain(bridge)
    return bridge


def _routes(network: Network, bridge: Link) -> frozenset[StackRoute]:
    if network.mode is NetworkMode.BRIDGE:
        return frozenset()
    return frozenset(StackRoute(bridge.index, route.destination, route.via) for route in network.routes)


def _repair_taps(stack: NetworkStack, network: Network, bridge: Link, links: Mapping[str, Link]) -> None:
    names = {tap_name(port) for port in network.ports}
    for tap in links.values():
        if tap.kind != TAP:
            continue
        try:
            _set_mtu(stack, tap, network.mtu)
            # One that is no port any more is left as it is: the rules keep it apart until its hypervisor lets it go.
            if tap.name in names and (tap.master != bridge.index or not tap.up):
                stack.change_link(tap, master=bridge.index, state="up")
        except OSError as error:
            if error.errno != errno.ENODEV:  # its hypervisor ended meanwhile
                raise


def _set_mtu(stack: NetworkStack, link: Link, mtu: int) -> None:
    if link.mtu != mtu:
        stack.change_link(link, mtu=mtu)


def _taps() -> frozenset[str]:
    with NetworkStack(netns.OF_THREAD) as stack:
        return frozenset(name for name, link in stack.links().items() if link.kind == TAP)
