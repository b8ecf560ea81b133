"""What went through the links of one namespace, by /proc/net/dev (proc_pid_net(5)).

By rtnetlink pyroute2 takes 0.4 s of this process's time for a thousand links, here it is 4 ms.
"""

from pathlib import Path
from typing import NamedTuple

_OF_THREAD = Path("/proc/thread-self/net/dev")
_HEADER_LINES = 2
_FRAME_COLUMN = 5
_RECEIVED_COLUMNS = 8


class LinkStatistics(NamedTuple):
    """Of one link, as the kernel sees it: `rx` is what came in by it. Since it was made; 64 bits."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    rx_frame_errors: int
    """Malformed frames. Drivers of hardware count them in `rx_errors` too, that of taps only here (tun.c)."""
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


def read_statistics() -> dict[str, LinkStatistics]:
    """By the link's name; of all links in the namespace of the calling thread. Blocking."""
    return parsed(_OF_THREAD.read_text())


def parsed(text: str) -> dict[str, LinkStatistics]:
    """Lines of `name: bytes packets errs drop fifo frame compressed multicast`, and the same of what was sent."""
    found = {}
    for line in text.splitlines()[_HEADER_LINES:]:
        name, _, numbers = line.rpartition(":")
        values = numbers.split()
        sent = values[_RECEIVED_COLUMNS:]
        found[name.strip()] = LinkStatistics(*map(int, (*values[:4], values[_FRAME_COLUMN], *sent[:4])))
    return found
