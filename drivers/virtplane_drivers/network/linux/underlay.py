"""What tunnels of this host go over: asked once, of `ip` (iproute2), so that who has no network yet loads nothing."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from virtplane_api.overlay import MIN_MTU, UDP_PORT, inner_mtu
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.linux.rules.nft import command
from virtplane_drivers.network.overlay import IpAddress, Underlay

_ANYWHERE = ("192.0.2.1", "2001:db8::1")
"""Of documentation (RFC 5737, RFC 3849): nobody's, so by the default route. Nothing is sent there."""


class NoUnderlay(Exception):
    """Why this host has no networks of mode Overlay, and what would bring them."""


async def find_underlay(host_namespace: Path | None, asked: IpAddress | None) -> Underlay:
    """This host's end of all tunnels: the address asked for, else the one that the host reaches the world under.

    Raises:
        NoUnderlay: there is none, its link is too small, or the kernel has no VXLAN.
    """
    try:
        await command(None, "unshare", "--net", "ip", "link", "add", "vxlan", "type", "vxlan", *_TRIED)
        links = json.loads(await command(host_namespace, "ip", "-json", "address", "show"))
        return _underlay(links, asked or await _source_address(host_namespace))
    except Unavailable as error:
        raise NoUnderlay(f"this host makes no tunnels (VXLAN): {error}") from error


_TRIED = ("id", "1", "dstport", str(UDP_PORT))


async def _source_address(host_namespace: Path | None) -> IpAddress | None:
    for anywhere in _ANYWHERE:
        said = await command(host_namespace, "ip", "-json", "route", "get", anywhere, harmless="unreachable")
        source = json.loads(said)[0].get("prefsrc") if said.strip() else None
        if source:
            return ip_address(source)
    return None


def _underlay(links: list[dict[str, Any]], address: IpAddress | None) -> Underlay:
    another = "name another one with --underlay-address"
    if address is None:
        raise NoUnderlay("this host has no default route: name one of its addresses with --underlay-address")
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        raise NoUnderlay(f"other hosts cannot reach {address}: {another}")
    link = next((link for link in links for one in link["addr_info"] if one.get("local") == str(address)), None)
    if link is None:
        raise NoUnderlay(f"{address} is no address of this host: {another}")
    if inner_mtu(address, link["mtu"]) < MIN_MTU:
        raise NoUnderlay(f"an MTU of {link['mtu']} of {link['ifname']} leaves networks less than {MIN_MTU} bytes")
    return Underlay(address, link["mtu"])
