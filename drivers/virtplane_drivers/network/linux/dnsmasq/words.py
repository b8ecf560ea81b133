"""What a dnsmasq says, for the agent's log: by a FIFO in the folder of its run, which it holds open by itself.

It outlives the agent, and a guest can make it speak as often as it likes: a line for each request for an address that
is not the guest's. A file would grow at the guest's will, and a pipe that ends at the agent would block dnsmasq without
one. This one dnsmasq has open for reading too, and without blocking: what is more than the kernel's 64 KiB is lost as
long as nobody reads, and dnsmasq says how many lines that were. So it says as well what was said while no agent was
there.
"""

import asyncio
import logging
import os
import re
import stat
from collections import deque
from pathlib import Path

from virtplane_drivers.network.linux.dnsmasq.process import OUTPUT

_log = logging.getLogger(__name__)

AGAIN_AFTER_S = 10.0
_LINES = 20
"""Of a dnsmasq that are told at once; so a guest fills no log."""
_PIPE_BYTES = 1 << 16
_MAX_CHARS = 1000
_BEGINNING = re.compile(r"dnsmasq(-\w+)?(\[\d+\])?: ")
_USUAL = re.compile(
    r"started, |compile time options: |DNS service limited to |warning: no upstream servers configured$"
    r"|DHCP, |DHCPv6, |IPv6 router advertisement enabled|router advertisement on |SLAAC on "
    r"|sockets bound |using nameserver |using only locally-known |read |cleared cache|exiting on receipt of SIGTERM"
)
"""What each says when it starts or reads its files again: no complaint."""


class Words:
    """Of one run."""

    def __init__(self, network_uid: str, run: Path) -> None:
        """Of one that was started by an older agent there are none: its output is a file."""
        self._network_uid = network_uid
        self._complaints: deque[str] = deque(maxlen=_LINES)
        path = run / OUTPUT
        is_there = path.exists() and stat.S_ISFIFO(path.stat().st_mode)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if is_there else None

    @property
    def last(self) -> str:
        """Its last complaints; empty when there was none."""
        return "; ".join(self._complaints)[-_MAX_CHARS:]

    async def follow(self) -> None:
        """Tell what is said, until nobody is left who could say more."""
        while self._fd is not None:
            await _readable(self._fd)
            if not self.tell():
                return
            await asyncio.sleep(AGAIN_AFTER_S)

    def tell(self) -> bool:
        """Tell what was said since the last time; whether more may come."""
        if self._fd is None:
            return False
        try:
            said = os.read(self._fd, _PIPE_BYTES)
        except BlockingIOError:
            return True
        lines = [_BEGINNING.sub("", line, count=1) for line in said.decode(errors="replace").split("\n")]
        complaints = [_printable(line) for line in lines if line and not _USUAL.match(line)]
        self._complaints.extend(complaints)
        for line in complaints[-_LINES:]:
            _log.warning("dnsmasq of network %s: %s", self._network_uid, line)
        if len(complaints) > _LINES:
            _log.warning("dnsmasq of network %s: %d lines before these", self._network_uid, len(complaints) - _LINES)
        return bool(said)

    def close(self) -> None:
        """Hear nothing more. What was said can be asked for still."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _printable(line: str) -> str:
    """A name that a guest made up may be in it."""
    return "".join(one if one.isprintable() else "?" for one in line)


async def _readable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
