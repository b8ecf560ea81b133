"""What the kernel needs to forward ports of 127.0.0.1 and ::1 to a router: settings of the link, which end with it.

The answers come from the router, and are for a loopback address once they are translated back. IPv4 takes such a packet
only where `route_localnet` is set on the link that it came by (ip-sysctl.rst). IPv6 looks for a route of that very link
(ip6_route_input: loopback addresses are 'strict'), and has one of `lo` only. Packets that arrive for ::1 are dropped
before all that (ip6_rcv_core).

All here is blocking, and for a thread in the host's namespace.
"""

import contextlib
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

LoopbackWays = Mapping[str, frozenset[int]]
"""Names of links -> IP versions of which there is a forward."""
_IPV4, _IPV6 = 4, 6
_METRIC = 0x56504C00
"""Of our routes, plus the link's index: the one of `lo` comes first, and no two are taken for one of two ways."""
_ROUTES = Path("/proc/thread-self/net/ipv6_route")
_LOOPBACK = f"{1:032x}"


def open_ways(wanted: LoopbackWays) -> None:
    """The links have what they need, and no more. One that is not there is passed over.

    Raises:
        OSError: a setting is refused.
    """
    routes = _routes()
    for link, versions in wanted.items():
        index = _index(link)
        if index is None:
            continue
        value = "1" if _IPV4 in versions else "0"
        if _route_localnet(link).read_text().strip() != value:
            _route_localnet(link).write_text(value)
        has, metric = (_METRIC + index) in routes, str(_METRIC + index)
        if has != (_IPV6 in versions):
            verb = "delete" if has else "replace"
            _ip("-6", "route", verb, "local", "::1/128", "dev", link, "table", "local", "metric", metric)


def are_open(wanted: LoopbackWays) -> bool:
    """Whether `open_ways` would find nothing to do."""
    routes = _routes()
    for link, versions in wanted.items():
        index = _index(link)
        if index is None:
            continue
        if _route_localnet(link).read_text().strip() != ("1" if _IPV4 in versions else "0"):
            return False
        if ((_METRIC + index) in routes) != (_IPV6 in versions):
            return False
    return True


def _index(link: str) -> int | None:
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(link)
    return None


def _route_localnet(link: str) -> Path:
    return Path("/proc/sys/net/ipv4/conf") / link / "route_localnet"


def _routes() -> frozenset[int]:
    """Metrics of the routes to ::1. Source: proc(5); columns: destination, length, ..., metric as the sixth."""
    try:
        lines = _ROUTES.read_text().splitlines()
    except FileNotFoundError:  # a kernel without IPv6
        return frozenset()
    rows = (line.split() for line in lines)
    return frozenset(int(row[5], 16) for row in rows if row[0] == _LOOPBACK)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=30)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
