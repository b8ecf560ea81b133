"""Connections that the kernel still knows, of addresses that somebody else may have next.

A flow that was let pass once goes on to be (`ct state established`), and one that is forwarded to a guest's address
goes on to it whoever has it: so they end with the address.
"""

from collections.abc import Iterable
from pathlib import Path

from virtplane_drivers.network.contract import IpAddress
from virtplane_drivers.network.linux.rules.nft import command

_SIDES = ("--orig-src", "--orig-dst", "--reply-src", "--reply-dst")


async def end_flows(path: Path, addresses: Iterable[IpAddress]) -> None:
    """The router namespace knows no connection from or to these addresses any more.

    Raises:
        Unavailable: conntrack(8) is missing, or the namespace is gone (NetworkError).
    """
    for address in addresses:
        family = "ipv4" if address.version == 4 else "ipv6"
        for side in _SIDES:
            argv = ("conntrack", "-D", "-f", family, side, str(address))
            await command(path, *argv, harmless=" 0 flow entries have been deleted")
