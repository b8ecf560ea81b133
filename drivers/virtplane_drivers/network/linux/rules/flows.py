"""Connections that the kernel still knows, of addresses that somebody else may have next.

A flow that was let pass once goes on to be (`ct state established`), and one that is forwarded to a guest's address
goes on to it whoever has it: so they end with the address, and those of a forward with the forward.
"""

from collections.abc import Iterable
from pathlib import Path

from virtplane_drivers.network.contract import IpAddress, PortForward
from virtplane_drivers.network.linux.rules.nft import command
from virtplane_drivers.network.linux.values import Transit

_SIDES = ("--orig-src", "--orig-dst", "--reply-src", "--reply-dst")


async def end_flows(path: Path, addresses: Iterable[IpAddress]) -> None:
    """The router namespace knows no connection from or to these addresses any more.

    Raises:
        Unavailable: conntrack(8) is missing, or the namespace is gone (NetworkError).
    """
    for address in addresses:
        family = "ipv4" if address.version == 4 else "ipv6"
        for side in _SIDES:
            await _end(path, "-f", family, side, str(address))


async def end_forwards(
    path: Path, host_namespace: Path | None, transit: Transit, forwards: Iterable[PortForward]
) -> None:
    """Neither the router nor the host knows a connection through these forwards to this network any more.

    Raises:
        Unavailable: conntrack(8) is missing, or a namespace is gone (NetworkError).
    """
    for forward in forwards:
        of_port = "-p", forward.protocol.lower(), "--orig-port-dst", str(forward.host_port)
        for family, router in (("ipv4", transit.router_ipv4), ("ipv6", transit.router_ipv6)):
            await _end(path, "-f", family, *of_port, "--orig-dst", str(router))
            await _end(host_namespace, "-f", family, *of_port, "--reply-src", str(router))


async def _end(namespace: Path | None, *which: str) -> None:
    await command(namespace, "conntrack", "-D", *which, harmless=" 0 flow entries have been deleted")
