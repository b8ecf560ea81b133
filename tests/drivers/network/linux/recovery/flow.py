"""Echo requests of a guest, one after the other without a pause, that have to be answered.

One by itself may stay without an answer: while nftables goes over from old rules to new ones, a packet that has begun
with the old ones finds their sets empty (microseconds; one in 5,000 requests here when rules are replaced 25 times a
second without end). No two in a row may.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Namespace

_PACE_S = 0.005
_LATE_S = 5.0
_REQUEST, _REPLY = 8, 0
"""ICMP."""


@dataclass
class Flow:
    """What was sent, and what of it came back."""

    sent: list[bytes] = field(default_factory=list)
    answered: set[bytes] = field(default_factory=set)

    def lost(self) -> list[int]:
        """Numbers of the requests without an answer."""
        return [number for number, mark in enumerate(self.sent) if mark not in self.answered]

    def interrupted(self) -> list[int]:
        """Those of them whose next one has none either."""
        lost = set(self.lost())
        return sorted(number for number in lost if number + 1 in lost)


@contextmanager
def flowing(guest: Namespace, address: str) -> Iterator[Flow]:
    """Requests flow while the block runs, and are answered; to an IPv4 address that answered before."""
    flow, ends = Flow(), threading.Event()
    raw = guest.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    raw.settimeout(_PACE_S)

    def send() -> None:
        while not ends.is_set():
            mark = os.urandom(8)
            flow.sent.append(mark)
            raw.sendto(_request(mark), (address, 0))
            time.sleep(_PACE_S)

    def receive() -> None:
        while not ends.is_set() or flow.interrupted():
            try:
                packet = raw.recv(2048)[20:]
            except TimeoutError:
                continue
            except OSError:  # closed: the block is over
                return
            if packet[0] == _REPLY:
                flow.answered.add(packet[8:16])

    threads = [threading.Thread(target=one, name=f"{one.__name__} for a guest") for one in (send, receive)]
    with raw:
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: bool(flow.answered), interval_s=0.001)
            yield flow
        finally:
            ends.set()
            threads[0].join()
        deadline = time.monotonic() + _LATE_S
        while flow.interrupted() and time.monotonic() < deadline:
            time.sleep(_PACE_S)
    threads[1].join()
    interrupted = flow.interrupted()
    assert not interrupted, f"{address} did not answer {interrupted} of {len(flow.sent)} requests"


def _request(mark: bytes) -> bytes:
    packet = struct.pack("!BBHHH", _REQUEST, 0, 0, 4711, 1) + mark
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + packet[4:]
