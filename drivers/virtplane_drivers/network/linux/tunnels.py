"""The tunnels of a network of mode Overlay: one VXLAN device, a port of the router's bridge.

::

    router: br0 ── tunnel (a port)          the host: UDP from and to the peers
                     └───────────── made from the host's namespace, and so its packets are the host's

Where a guest is, is learnt from what it sends. What nobody has learnt, and what is for all, goes to every peer: an
entry of the forwarding table (FDB) for no MAC at all, for each of them. What was learnt of a peer goes with it; when
there is another peer, all is learnt anew, as a machine may have moved there before it was one.

A guest says nothing when its machine moves. So its host says it: one frame (RARP, which nobody answers) from its MAC,
for each machine that came, and for all when there is another peer.
"""

import socket
import struct
from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from virtplane_api.reasons import Reason
from virtplane_drivers.host import netns
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.network_stack import Link, NetworkStack
from virtplane_drivers.network.contract import IpAddress, Network
from virtplane_drivers.network.linux.names import BRIDGE, TUNNEL, tap_name
from virtplane_drivers.network.linux.namespace import in_namespace, is_namespace
from virtplane_drivers.network.linux.values import Finding
from virtplane_drivers.network.overlay import Overlay

_FORGET_AFTER_S = 60
"""What was learnt and not seen again. A frame that says where a machine is now may get lost."""
_EVERYBODY = "00:00:00:00:00:00"
_PERMANENT = 0x80
_VXLAN = "vxlan"
_RARP = 0x8035
_BROADCAST = b"\xff" * 6


class Tunnels:
    """Those of one agent's networks. What it remembers is only to whom it was said already where machines are."""

    def __init__(self, host_namespace: Path | None) -> None:
        self._host = host_namespace or netns.OWN
        self._told: dict[str, tuple[frozenset[IpAddress], frozenset[str]]] = {}
        """By network: its peers when its machines were announced last, and those machines' MACs."""

    async def apply(self, path: Path, network: Network) -> list[Finding]:
        """Make the tunnels of the router at `path` so; of a network of another mode there is none.

        Raises:
            OSError: the kernel refused something.
        """
        return await in_thread(self._apply, path, network)

    async def found(self, path: Path) -> Overlay | None:
        """What is there, without its peers: its number, and where it begins.

        Raises:
            OSError: the kernel does not say.
        """
        return await in_thread(_found, path)

    async def announce(self, path: Path, network: Network, joined: Collection[str]) -> None:
        """Tell the peers which machines are here: those whose tap has joined, each once.

        Raises:
            OSError: there is no tunnel.
        """
        if network.overlay is None or not network.overlay.peers:
            return
        peers = frozenset(network.overlay.peers)
        here = frozenset(port.mac for port in network.ports if tap_name(port) in joined)
        told_peers, told = self._told.get(network.uid, (frozenset(), frozenset()))
        fresh = here if peers - told_peers else here - told
        if fresh:
            await in_namespace(path, _announce, fresh)
        self._told[network.uid] = (peers, here)

    async def remove(self, path: Path, network_uid: str) -> None:
        """At once: with its namespace it would go some time later, and its number be in use until then.

        Raises:
            OSError: the kernel refused it.
        """
        self._told.pop(network_uid, None)
        await in_thread(_remove, path)

    def _apply(self, path: Path, network: Network) -> list[Finding]:
        overlay = network.overlay
        with _TunnelStack(self._host) as host, _TunnelStack(path) as router:
            found, bridge = router.link(TUNNEL), router.link(BRIDGE)
            if found is not None and (overlay is None or router.shape(found) != _shape(overlay)):
                router.delete_link(found)
                found = None
            if overlay is None:
                return []
            if bridge is None:
                raise FileNotFoundError(f"{BRIDGE} was deleted by somebody")
            if found is None:
                host.make_vxlan(TUNNEL, overlay, network.mtu, path)
                found = router.link(TUNNEL)
            if found is None:
                raise FileNotFoundError(f"{TUNNEL} was deleted by somebody")
            # The MTU before it is a port: a bridge whose MTU nobody ever changed takes the least of its ports.
            if found.mtu != network.mtu:
                router.change_link(found, mtu=network.mtu)
            router.ensure_peers(found, _reached(overlay))
            if found.master != bridge.index or not found.up:
                router.change_link(found, master=bridge.index, state="up")
        return _findings(overlay)


class _TunnelStack(NetworkStack):
    """With what only VXLAN has."""

    def make_vxlan(self, name: str, overlay: Overlay, mtu: int, namespace: Path) -> None:
        """In that namespace, down; the packets of its tunnels are this one's."""
        local = "vxlan_local" if overlay.local.version == 4 else "vxlan_local6"
        options: dict[str, object] = {
            "vxlan_id": overlay.vni,
            local: str(overlay.local),
            "vxlan_port": overlay.udp_port,
            "vxlan_learning": 1,
            "vxlan_ageing": _FORGET_AFTER_S,
        }
        with namespace.open("rb") as held:
            where = {"ifname": name, "net_ns_fd": held.fileno(), "mtu": mtu}
            self._change("make tunnel", name, "link", "add", kind=_VXLAN, **where, **options)

    def shape(self, link: Link) -> tuple[int | None, str | None, int | None] | None:
        """Number, local address and port; None: it is no VXLAN device."""
        if link.kind != _VXLAN:
            return None
        for message in self._netlink.link("get", index=link.index):
            data = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
            local = data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6")
            return data.get_attr("IFLA_VXLAN_ID"), local, data.get_attr("IFLA_VXLAN_PORT")
        return None

    def ensure_peers(self, link: Link, peers: set[IpAddress]) -> None:
        """What is for all goes to these; nothing goes to anybody else."""
        entries = [one for one in self._netlink.fdb("dump", ifindex=link.index) if one.get_attr("NDA_DST")]
        flooded = {ip_address(_dst(one)) for one in entries if one.get_attr("NDA_LLADDR") == _EVERYBODY}
        is_new = bool(peers - flooded)
        for entry in entries:
            learnt = not entry["state"] & _PERMANENT
            if ip_address(_dst(entry)) not in peers or (learnt and is_new):
                self._fdb("del", link, entry.get_attr("NDA_LLADDR"), _dst(entry))
        for peer in sorted(peers - flooded, key=str):
            self._fdb("append", link, _EVERYBODY, str(peer))

    def _fdb(self, verb: str, link: Link, mac: str, peer: str) -> None:
        try:
            self._change(f"{verb} {peer} at", link.name, "fdb", verb, ifindex=link.index, lladdr=mac, dst=peer)
        except FileNotFoundError:  # what was learnt ends by itself
            if verb != "del":
                raise


def _found(path: Path) -> Overlay | None:
    with _TunnelStack(path) as router:
        link = router.link(TUNNEL)
        number, local, port = (link is not None and router.shape(link)) or (None, None, None)
    if number is None or local is None or port is None:
        return None
    return Overlay(number, ip_address(local), udp_port=port)


def _reached(overlay: Overlay) -> set[IpAddress]:
    return {one for one in overlay.peers if one.version == overlay.local.version and one != overlay.local}


def _findings(overlay: Overlay) -> list[Finding]:
    if overlay.local in overlay.peers:
        message = f"another host has {overlay.local} too: give each agent an address of its own (--underlay-address)"
        return [Finding(Reason.NETWORK_ERROR, message)]
    others = sorted(str(one) for one in overlay.peers if one.version != overlay.local.version)
    if others:
        message = (
            f"no tunnel leads from {overlay.local} to {', '.join(others)}: give all agents addresses of one family "
            f"(--underlay-address)"
        )
        return [Finding(Reason.NETWORK_ERROR, message)]
    return []


def _shape(overlay: Overlay) -> tuple[int, str, int]:
    return overlay.vni, str(overlay.local), overlay.udp_port


def _dst(entry: Any) -> str:
    return str(entry.get_attr("NDA_DST"))


def _announce(macs: Collection[str]) -> None:
    """By the tunnel alone: the bridge here knows its ports."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((TUNNEL, 0))
        for mac in sorted(macs):
            raw.send(announcement(mac))


def announcement(mac: str) -> bytes:
    """A reverse ARP request of that MAC for its own address (RFC 903), as QEMU sends after a migration."""
    own = bytes.fromhex(mac.replace(":", ""))
    request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 3) + own + bytes(4) + own + bytes(4)
    return (_BROADCAST + own + struct.pack("!H", _RARP) + request).ljust(60, b"\0")


def _remove(path: Path) -> None:
    if not is_namespace(path):  # also of a driver that was killed before it was one
        return
    with NetworkStack(path) as router:
        found = router.link(TUNNEL)
        if found is not None:
            router.delete_link(found)
