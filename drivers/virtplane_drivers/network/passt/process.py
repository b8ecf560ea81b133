"""passt's processes: how one is told of its port, started, and found again. Pure, or blocking and for a thread.

One is known by its command line, which names a socket in a folder of ours, and by its user. What it was started with
stands there too, so whether it is as it is to be needs no record.
"""

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

from virtplane_api.vocabulary import ForwardProtocol
from virtplane_drivers.host.process import (
    ProcessIdentity,
    boot_id,
    command_lines,
    spawn,
    start_ticks,
    user_of,
)
from virtplane_drivers.host.users import Users, find_users
from virtplane_drivers.network.contract import IpAddress, Network, Port

PROGRAM, SOCKET, OUTPUT = "passt", "socket", "output"
_AT_SOCKET, _NAME_SERVER = "--socket=", "-D"
FIRST_USER = 2_010_000_000
"""As unused by anybody as those of machines, which end before it."""
_MAX_OUTPUT_BYTES = 1 << 16
_ACCEPTS = 0x10000
"""Among the flags of a socket in /proc/net/unix (__SO_ACCEPTCON): one that is bound alone refuses who connects."""
_CONNECTED = "03"
"""State of a socket there."""


@dataclass(frozen=True, slots=True)
class Found:
    """A process of ours."""

    folder: Path
    """Of its port."""
    identity: ProcessIdentity
    argv: tuple[str, ...]
    """Without the program."""


def arguments(network: Network, port: Port, folder: Path) -> list[str]:
    """What a passt is told of its port. `--no-map-gw`: the gateway's address does not mean the host's own loopback."""
    told = ["-f", "-q", f"{_AT_SOCKET}{folder / SOCKET}", "--no-map-gw", "-m", str(network.mtu)]
    told += ["-l", str(folder / "log"), "--log-size", str(_MAX_OUTPUT_BYTES)]
    families = {subnet.cidr.version: subnet for subnet in network.subnets}
    if len(families) == 1:
        told.append(f"-{next(iter(families))}")
    for version, subnet in families.items():
        for address in port.addresses:
            if address.version == version:
                told += ["-a", str(address), *(["-n", str(subnet.cidr.prefixlen)] if version == 4 else [])]
        if subnet.gateway is not None:
            told += ["-g", str(subnet.gateway)]
    for server in network.forwarders:
        told += [_NAME_SERVER, str(server)]
    if network.domain:
        told += ["-S", network.domain]
    for option, protocol in (("-t", ForwardProtocol.TCP), ("-u", ForwardProtocol.UDP)):
        forwards = [f"{each.host_port}:{each.port}" for each in port.forwards if each.protocol is protocol]
        told += [option, ",".join(forwards) or "none"]
    return told


def servers_told(told: Sequence[str]) -> list[IpAddress]:
    """For names, of a passt that was told so; none: it tells its guest of the host's."""
    return [ip_address(server) for option, server in pairwise(told) if option == _NAME_SERVER]


def start(
    told: Sequence[str], folder: Path, user: int | None, namespace: Path | None, cgroups: Sequence[Path] = ()
) -> "subprocess.Popen[bytes]":
    """Start one, in the namespace.

    Raises:
        OSError: it cannot be started.
    """
    argv = [PROGRAM, *told]
    if user is not None:  # in the namespace first: that takes root
        argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs", "--", *argv]
    if namespace is not None:
        argv = ["nsenter", f"--net={namespace}", "--", *argv]
    return spawn(argv, output=folder / OUTPUT, pass_fds=(), user=None, groups=(), cgroups=cgroups)


def users() -> Users:
    """Whom passts may run as here: an agent without root has no choice."""
    return find_users(first=FIRST_USER, who="networks of mode User")


def user_key(folder: Path) -> str:
    """By which the user of a port's passt is chosen."""
    return f"passt/{folder.parent.name}/{folder.name}"


def running_below(folder: Path, known: Users) -> list[Found]:
    """All with a socket in `<folder>/<network>/<port>`."""
    found = []
    for pid, words in command_lines().items():
        named = [Path(word.removeprefix(_AT_SOCKET)) for word in words if word.startswith(_AT_SOCKET)]
        socket = named[0] if len(named) == 1 else Path()
        if socket.name != SOCKET or socket.parents[2:3] != (folder,):
            continue
        with contextlib.suppress(ProcessLookupError):
            user, ticks = user_of(pid), start_ticks(pid)
            if user is not None and ticks is not None and known.may_be(user, user_key(socket.parent)):
                found.append(Found(socket.parent, ProcessIdentity(boot_id(), pid, ticks), tuple(words[1:-1])))
    return found


@dataclass(frozen=True, slots=True)
class SocketState:
    """Who is at a socket."""

    listens: bool
    joined: bool


def socket_state(path: Path) -> SocketState:
    """Of a socket by its path. Blocking, within the namespace of who opened it."""
    listens = joined = False
    # Not /proc/net: that is of the process's first thread.
    for line in Path("/proc/thread-self/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if fields[-1] == str(path):
            listens = listens or bool(int(fields[3], 16) & _ACCEPTS)
            joined = joined or fields[5] == _CONNECTED
    return SocketState(listens, joined)
