"""Sending frames as they are, and seeing which of them arrive."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.drivers.network.linux.host import Namespace
from tests.drivers.network.linux.rules.frames import TRAILER_BYTES

_ETH_P_ALL = 3


class Capture:
    """All that comes in by a link from the moment on that it is made."""

    def __init__(self, at: Namespace, link: str) -> None:
        self._socket = at.inside(lambda: _packet_socket(link))
        self._trailers: set[bytes] = set()

    def saw(self, frame: bytes) -> bool:
        """Whether it has come, by what is behind its packet (a VLAN tag is taken out on the way)."""
        self._read(0)
        return frame[-TRAILER_BYTES:] in self._trailers

    def wait_for(self, frame: bytes, timeout_s: float = 2.0) -> None:
        """Returns once it has come."""
        deadline = time.monotonic() + timeout_s
        while not self.saw(frame):
            assert time.monotonic() < deadline, f"{frame.hex()} did not arrive within {timeout_s} s"
            self._read(deadline - time.monotonic())

    def _read(self, timeout_s: float) -> None:
        self._socket.settimeout(max(timeout_s, 0))
        try:
            while True:
                received, address = self._socket.recvfrom(9000)
                if address[2] != socket.PACKET_OUTGOING:
                    self._trailers.add(received[-TRAILER_BYTES:])
                    self._socket.settimeout(0)
        except (TimeoutError, BlockingIOError):
            return

    def close(self) -> None:
        self._socket.close()


@contextmanager
def capture(at: Namespace, link: str = "eth0") -> Iterator[Capture]:
    one = Capture(at, link)
    try:
        yield one
    finally:
        one.close()


def send(at: Namespace, *frames: bytes, link: str = "eth0") -> None:
    """Out of the link, in that order."""

    def sent() -> None:
        with _packet_socket(link) as raw:
            for frame in frames:
                raw.send(frame)

    at.inside(sent)


def _packet_socket(link: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    raw.bind((link, 0))
    return raw
