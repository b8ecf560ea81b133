"""dnsmasq's processes: how one is started, and how those that run are found again. Blocking; for a thread.

A process is known by its command line, which names files in a folder of ours, and by its user, which nobody else has: a
command line alone is whatever a process wants it to be. The folder is one of this very run, so that its files say what
this process was started with, whoever was killed in between.

For each connection by TCP dnsmasq has a child, with its command line, its user and all its listening sockets: as long
as a guest keeps one open, no other dnsmasq can take its place. So the children are found and ended as well; the server
itself is the one that leads its session.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.process import (
    ProcessIdentity,
    boot_id,
    command_lines,
    spawn,
    start_ticks,
    user_of,
)
from virtplane_drivers.host.users import Users, find_users

SETTINGS, RESERVATIONS, NAMES, SERVERS, OUTPUT = "dnsmasq.conf", "reservations", "names", "servers", "output"

FIRST_USER = 2_010_000_000
"""The users of machines end before it; by nobody else used either, as theirs (see `users`)."""

_CAPABILITIES = ("net_admin", "net_raw", "net_bind_service")
_BY_SETTINGS = "--conf-file="
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class Found:
    """A process of ours."""

    network_uid: str
    folder: Path
    """Of its run."""
    identity: ProcessIdentity
    user: int
    leads: bool
    """It is the server; else the child of one that serves a connection."""


def users() -> Users:
    """Whom dnsmasq may run as here."""
    return find_users(first=FIRST_USER, who="name servers of networks")


def user_key(network_uid: str) -> str:
    """By which a network's user is chosen."""
    return f"dnsmasq/{network_uid}"


def start(namespace: Path, folder: Path, user: int, cgroups: Sequence[Path]) -> "subprocess.Popen[bytes]":
    """Start dnsmasq in the namespace with the files of the folder.

    Raises:
        Unavailable: there is no dnsmasq on this host.
        OSError: it cannot be started.
    """
    output = os.open(folder / OUTPUT, os.O_RDWR | os.O_NONBLOCK)  # see `words`
    try:
        return spawn(argv(namespace, folder, user), output=output, pass_fds=(), user=None, groups=(), cgroups=cgroups)
    finally:
        os.close(output)


def argv(namespace: Path, folder: Path, user: int) -> list[str]:
    """The command line that becomes dnsmasq's, in the same process: setns(2), then user and capabilities, then it.

    Raises:
        Unavailable: there is no dnsmasq on this host.
    """
    kept = "-all," + ",".join(f"+{name}" for name in _CAPABILITIES)
    return [
        *("nsenter", f"--net={namespace}", "--"),
        *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}", "--"),
        *(_program(), f"{_BY_SETTINGS}{folder / SETTINGS}", f"--dhcp-hostsfile={folder / RESERVATIONS}"),
        *(f"--addn-hosts={folder / NAMES}", f"--servers-file={folder / SERVERS}"),
    ]


def _program() -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    found = shutil.which("dnsmasq", path=path)
    if found is None:
        message = "this host has no dnsmasq: install it (Debian and Ubuntu: apt-get install dnsmasq-base)"
        raise Unavailable(message, reason=Reason.NETWORK_ERROR, retry_after_s=30.0)
    return found


def running_below(folder: Path, known: Users) -> list[Found]:
    """All processes with settings in `<folder>/<network>/<run>`, those that are still on the way to be one too."""
    return [
        Found(uid, run, ProcessIdentity(boot_id(), pid, ticks), user, leads=os.getsid(pid) == pid)
        for pid, uid, run in _said_to_be(folder)
        if (user := user_of(pid)) is not None
        and known.may_be(user, user_key(uid))
        and (ticks := start_ticks(pid)) is not None
    ]


def _said_to_be(folder: Path) -> Iterator[tuple[int, str, Path]]:
    for pid, words in command_lines().items():
        for word in words:
            path = Path(word.removeprefix(_BY_SETTINGS))
            if word.startswith(_BY_SETTINGS) and path.name == SETTINGS and path.parents[2:3] == (folder,):
                with contextlib.suppress(ProcessLookupError):
                    yield pid, path.parents[1].name, path.parent


def is_in(namespace: Path, pid: int) -> bool:
    """Whether the process is in this network namespace: one that was made anew has the path of the old one."""
    try:
        its, wanted = Path(f"/proc/{pid}/ns/net").stat(), namespace.stat()
    except OSError:
        return False
    return (its.st_dev, its.st_ino) == (wanted.st_dev, wanted.st_ino)
