"""How routers reach outside: a veth for each network, from its namespace into the host's.

::

    NAT, Routed   host: v…, a host's end of a transit   ── veth ──   router: uplink, default routes by it
    (and Overlay) Routed also: the host's routes to the network
    Bridge        host: v…, a port of the named bridge  ── veth ──   router: uplink, a port of br0
                  with a VLAN: see `vlans`
    Isolated      nothing

The veth is all the record there is: the host's end has the addresses that were chosen, and in its alias whose it is.
What is found half-made, in another mode's shape, or joined to a namespace that is no more, is deleted and made again.
"""

import logging
import threading
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_network
from pathlib import Path
from typing import NamedTuple

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host import netns
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.network_stack import Link, NetworkStack, StackRoute
from virtplane_drivers.network.contract import IpAddress, Network
from virtplane_drivers.network.linux.forwarding import forward
from virtplane_drivers.network.linux.host_routes import hidden_finding, hidden_routes, overlapping_routes, routes_to
from virtplane_drivers.network.linux.links import apply_addresses, apply_routes, apply_sysctls
from virtplane_drivers.network.linux.names import (
    BRIDGE,
    TRUNK,
    UPLINK,
    host_link,
    host_link_alias,
    is_host_link_alias,
    network_uid_of,
)
from virtplane_drivers.network.linux.transit import free_transit, held_transit, host_interfaces, router_interfaces
from virtplane_drivers.network.linux.values import Finding, Transit
from virtplane_drivers.network.linux.vlans import join_vlan, vlan_device

_log = logging.getLogger(__name__)

_ROUTED_MODES = frozenset({NetworkMode.NAT, NetworkMode.ROUTED, NetworkMode.OVERLAY})
_VETH = "veth"
_IPV4_EVERYWHERE, _IPV6_EVERYWHERE = ip_network("0.0.0.0/0"), ip_network("::/0")


class BridgePort(NamedTuple):
    """Of a network of mode Bridge on its host."""

    has_bridge: bool
    """The host has that bridge."""
    is_joined: bool
    """The network's veth is a port of it."""


class Uplinks:
    """Those of one agent's networks. Holds no truth: a new one knows as much."""

    def __init__(self, state_id: str, transit_cidr: IPv4Network, host_namespace: Path | None) -> None:
        self._state_id = state_id
        self._transit_cidr = transit_cidr
        self._host = host_namespace or netns.OWN
        self._choosing = threading.Lock()
        """Two networks that are applied at once look for a free transit."""

    async def apply(self, path: Path, network: Network) -> tuple[Transit | None, list[Finding]]:
        """Make the uplink of the router at `path` so. None: the network's mode has no transit, or it could not be had.

        Raises:
            Unavailable: the kernel refused something (NetworkError), which the message names.
        """
        try:
            return await in_thread(self._apply, path, network)
        except OSError as error:
            message = f"the uplink of {network.namespace}/{network.name} could not be set up: {error}"
            raise Unavailable(message, reason=Reason.NETWORK_ERROR) from error

    async def remove(self, network_uid: str) -> None:
        """Leave nothing of it in the host's namespace. The host goes on to forward (see `forwarding`).

        Raises:
            Unavailable: the kernel refused it (NetworkError).
        """
        try:
            await in_thread(self._remove, network_uid)
        except OSError as error:
            message = f"the uplink of network {network_uid} could not be removed: {error}"
            raise Unavailable(message, reason=Reason.NETWORK_ERROR) from error

    async def inventory(self) -> tuple[str, ...]:
        """UIDs of the networks that have an uplink of ours, in no order."""
        return await in_thread(self._inventory)

    async def host_addresses(self) -> frozenset[IpAddress]:
        """Those of the host that guests could name from afar; of our own links none: routers refuse them by themselves.

        Raises:
            OSError: the kernel does not say.
        """
        return await in_thread(self._host_addresses)

    async def missing_bridges(self, names: Iterable[str]) -> dict[str, str]:
        """Those of these bridges of the host that cannot be joined, and why.

        Raises:
            OSError: the kernel does not say.
        """
        return await in_thread(self._missing_bridges, sorted(names))

    async def bridge_ports(self, networks: Iterable[Network]) -> dict[str, BridgePort]:
        """By UID: how it is with the bridges of networks of mode Bridge, and with our ports there. Without those of
        which the kernel does not say.

        Raises:
            OSError: it says nothing at all.
        """
        return await in_thread(self._bridge_ports, networks)

    def _missing_bridges(self, names: Iterable[str]) -> dict[str, str]:
        with NetworkStack(self._host) as host:
            found = {name: host.link(name) for name in names}
        return {name: _no_bridge(name, link) for name, link in found.items() if not _is_bridge(link)}

    def _bridge_ports(self, networks: Iterable[Network]) -> dict[str, BridgePort]:
        found = {}
        with NetworkStack(self._host) as host:
            for network in networks:
                try:
                    found[network.uid] = self._bridge_port(host, network)
                except OSError as error:
                    _log.warning("bridge %s of network %s: %s", network.host_bridge, network.uid, error)
        return found

    def _bridge_port(self, host: NetworkStack, network: Network) -> BridgePort:
        bridge, port = host.link(network.host_bridge), host.link(host_link(network.uid))
        if bridge is None or not _is_bridge(bridge):
            return BridgePort(has_bridge=False, is_joined=False)
        return BridgePort(has_bridge=True, is_joined=port is not None and port.master == bridge.index)

    def _host_addresses(self) -> frozenset[IpAddress]:
        with NetworkStack(self._host) as host:
            own = {link.index for link in host.links().values() if is_host_link_alias(link.alias)}
            addresses = (one.interface.ip for one in host.addresses() if one.link not in own)
            return frozenset(one for one in addresses if not (one.is_loopback or one.is_link_local))

    def _apply(self, path: Path, network: Network) -> tuple[Transit | None, list[Finding]]:
        with NetworkStack(self._host) as host, NetworkStack(path) as router:
            found = host.link(host_link(network.uid))
            if found is not None and not self._is_ours(found, network.uid):
                message = f"{found.name} on the host is of another agent ({found.alias}); one host has a network once"
                return None, [Finding(Reason.NETWORK_ERROR, message)]
            bridge = host.link(network.host_bridge) if network.mode is NetworkMode.BRIDGE else None
            wanted = network.mode in _ROUTED_MODES or _is_bridge(bridge)
            ends = self._ends(host, router, network, found, wanted=wanted)
            if network.mode is NetworkMode.BRIDGE:
                return None, self._bridged(host, router, network, ends, bridge)
            if ends is None:
                return None, []
            return self._routed(host, router, network, ends)

    def _ends(
        self, host: NetworkStack, router: NetworkStack, network: Network, found: Link | None, *, wanted: bool
    ) -> tuple[Link, Link] | None:
        """Both ends of the veth, made if need be; what is there and is not wanted, or no longer fits, goes."""
        name = UPLINK if network.vlan is None else TRUNK
        if found is not None and not (wanted and self._fits(host, network, found, router.link(name))):
            host.delete_link(found)
            found = None
        if found is None:
            for left in (UPLINK, TRUNK):
                if (link := router.link(left)) is not None:
                    router.delete_link(link)
        if not wanted:
            return None
        if found is None:
            found = host.make_veth(host_link(network.uid), network.mtu, name, router.namespace)
        if found.alias != (alias := host_link_alias(self._state_id, network.uid)):
            host.change_link(found, ifalias=alias)
        own = router.link(name)
        if own is None:
            raise FileNotFoundError(f"{name} was deleted by somebody")
        return found, own

    def _fits(self, host: NetworkStack, network: Network, found: Link, uplink: Link | None) -> bool:
        """Whether it is one veth of the two namespaces, without what another mode gave it."""
        if uplink is None or found.kind != _VETH or (found.peer, uplink.peer) != (uplink.index, found.index):
            return False
        if network.mode is NetworkMode.BRIDGE:
            return not host.addresses(found.index)
        return found.master is None and uplink.master is None

    # --- NAT and Routed ---

    def _routed(
        self, host: NetworkStack, router: NetworkStack, network: Network, ends: tuple[Link, Link]
    ) -> tuple[Transit | None, list[Finding]]:
        end, uplink = ends
        ipv6 = network.ipv6 is not None
        apply_sysctls(host, _end_sysctls(end.name, ipv6=ipv6))
        apply_sysctls(router, _end_sysctls(uplink.name, ipv6=ipv6) | {f"net/ipv4/conf/{UPLINK}/rp_filter": "1"})
        with self._choosing:
            transit = self._transit(host, network, end)
            if transit is None:
                message = f"no address is free in {self._transit_cidr}: give the agent a larger transitCIDR"
                return None, [Finding(Reason.NETWORK_ERROR, message)]
            apply_addresses(host, end, host_interfaces(transit, ipv6=ipv6))
        apply_addresses(router, uplink, router_interfaces(transit, ipv6=ipv6))
        for stack, link in ((host, end), (router, uplink)):
            _set_mtu(stack, link, network.mtu)
            _set_up(stack, link)
        apply_routes(router, uplink, router.routes(), _default_routes(uplink, transit, ipv6=ipv6))
        routes = host.routes()
        overlapping = overlapping_routes(network, end, routes)
        links = host.links_at({route.link for route in overlapping})
        hidden = hidden_routes(network, overlapping, links)
        routed = network.mode is NetworkMode.ROUTED and not hidden
        apply_routes(host, end, routes, routes_to(network, end, transit) if routed else frozenset())
        findings = forward(host, end, routes, ipv6=ipv6)
        if hidden:
            findings.append(hidden_finding(network, hidden, links))
        return transit, findings

    def _transit(self, host: NetworkStack, network: Network, end: Link) -> Transit | None:
        """What the link has already, else what nothing else on the host is in."""
        own = [one.interface.ip for one in host.addresses(end.index)]
        if (held := held_transit(self._transit_cidr, [ip for ip in own if isinstance(ip, IPv4Address)])) is not None:
            return held
        others = (one.interface for one in host.addresses() if one.link != end.index)
        taken = [IPv4Network(interface.ip) for interface in others if isinstance(interface, IPv4Interface)]
        # A route to much more than the transits (169.254.0.0/16 of zeroconf) does not claim each of them.
        taken += [
            route.destination
            for route in host.routes()
            if isinstance(route.destination, IPv4Network)
            and route.destination.prefixlen >= self._transit_cidr.prefixlen
            and route.link != end.index
        ]
        return free_transit(self._transit_cidr, network.uid, taken)

    # --- Bridge ---

    def _bridged(
        self,
        host: NetworkStack,
        router: NetworkStack,
        network: Network,
        ends: tuple[Link, Link] | None,
        bridge: Link | None,
    ) -> list[Finding]:
        if ends is None or bridge is None:
            return [Finding(Reason.NO_SUCH_BRIDGE, _no_bridge(network.host_bridge, bridge))]
        end, own = ends
        inside = router.link(BRIDGE)
        if inside is None:
            raise FileNotFoundError(f"{BRIDGE} was deleted by somebody")
        apply_sysctls(host, _end_sysctls(end.name, ipv6=False))
        apply_sysctls(router, _end_sysctls(own.name, ipv6=False))
        # The MTU first, and the bridge's own: it takes the least of its ports.
        _set_mtu(host, end, bridge.mtu)
        _set_mtu(router, own, network.mtu)
        _set_master(host, end, bridge)
        uplink = own
        if network.vlan is not None:
            if bridge.knows_vlans:
                join_vlan(host, end, network.vlan)
            uplink = vlan_device(router, own, network.vlan)
            apply_sysctls(router, _end_sysctls(uplink.name, ipv6=False))
            _set_mtu(router, uplink, network.mtu)
        _set_master(router, uplink, inside)
        _set_up(host, end)
        _set_up(router, own)
        if uplink is not own:
            _set_up(router, uplink)
        if network.mtu > bridge.mtu:
            message = f"the MTU {network.mtu} is more than that of {bridge.name} ({bridge.mtu}): larger frames are lost"
            return [Finding(Reason.NETWORK_ERROR, message)]
        return []

    # --- the rest ---

    def _remove(self, network_uid: str) -> None:
        with NetworkStack(self._host) as host:
            found = host.link(host_link(network_uid))
            if found is not None and self._is_ours(found, network_uid):
                host.delete_link(found)

    def _inventory(self) -> tuple[str, ...]:
        with NetworkStack(self._host) as host:
            uids = (network_uid_of(self._state_id, link.alias) for link in host.links().values())
            return tuple(uid for uid in uids if uid is not None)

    def _is_ours(self, found: Link, network_uid: str) -> bool:
        """Also one that has no alias yet: its maker was killed."""
        return not is_host_link_alias(found.alias) or found.alias == host_link_alias(self._state_id, network_uid)


def _end_sysctls(name: str, *, ipv6: bool) -> dict[str, str]:
    """Of either end of a veth: it says nothing of its own, and believes nobody's routes."""
    conf4, conf6 = f"net/ipv4/conf/{name}", f"net/ipv6/conf/{name}"
    return {
        f"{conf4}/accept_redirects": "0",
        f"{conf4}/send_redirects": "0",
        f"{conf4}/arp_ignore": "1",
        f"{conf6}/addr_gen_mode": "1",
        f"{conf6}/accept_ra": "0",
        f"{conf6}/accept_redirects": "0",
        f"{conf6}/disable_ipv6": "0" if ipv6 else "1",
    }


def _is_bridge(link: Link | None) -> bool:
    return link is not None and link.kind == "bridge"


def _no_bridge(name: str, found: Link | None) -> str:
    if found is None:
        return (
            f"bridge {name} does not exist on the host: make it (ip link add {name} type bridge; ip link set {name} "
            f"up), or name another in the network's spec.bridge"
        )
    return (
        f"{name} is no bridge on the host: name one in the network's spec.bridge. To make one of an adapter (the "
        f"host's own addresses move to it, so that is left to you): ip link add BRIDGE type bridge; "
        f"ip link set {name} master BRIDGE"
    )


def _default_routes(uplink: Link, transit: Transit, *, ipv6: bool) -> frozenset[StackRoute]:
    routes = {StackRoute(uplink.index, _IPV4_EVERYWHERE, transit.host_ipv4)}
    if ipv6:
        routes.add(StackRoute(uplink.index, _IPV6_EVERYWHERE, transit.host_ipv6))
    return frozenset(routes)


def _set_mtu(stack: NetworkStack, link: Link, mtu: int) -> None:
    if link.mtu != mtu:
        stack.change_link(link, mtu=mtu)


def _set_master(stack: NetworkStack, link: Link, bridge: Link) -> None:
    if link.master != bridge.index:
        stack.change_link(link, master=bridge.index)


def _set_up(stack: NetworkStack, link: Link) -> None:
    if not link.up:
        stack.change_link(link, state="up")
