"""Asks a network's dnsmasq for a name, to know that it answers and what it has read. Blocking, within its namespace.

By the loopback of the namespace, where only we are: an address of the network may still be checked for duplicates.
"""

import enum
import os
import socket
import struct
import time
from collections.abc import Callable

_AT = ("127.0.0.1", 53)
_AGAIN_AFTER_S, _AGAIN_AFTER_AT_MOST_S = 0.004, 0.128
"""A question that comes between the opening of its sockets and its being ready is lost."""
_REFUSED_PAUSE_S = 0.002
_MAX_BYTES = 512
_A, _INTERNET, _RECURSION_DESIRED = 1, 1, 0x0100


class Answer(enum.Enum):
    """To the question for a name."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    NONE = "none"
    """Nobody answers."""


def ask(name: str, timeout_s: float, goes_on: Callable[[], bool]) -> Answer:
    """Put the question until it is answered, the time is over, or `goes_on` says no."""
    identity = os.urandom(2)
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    header = identity + struct.pack("!5H", _RECURSION_DESIRED, 1, 0, 0, 0)
    message = header + labels + b"\0" + struct.pack("!2H", _A, _INTERNET)
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(_AT)
        wait_s = _AGAIN_AFTER_S
        while goes_on() and time.monotonic() < deadline:
            client.settimeout(wait_s)
            try:
                client.send(message)
                received = client.recv(_MAX_BYTES)
            except TimeoutError:
                wait_s = min(2 * wait_s, _AGAIN_AFTER_AT_MOST_S)
                continue
            except ConnectionRefusedError:  # it does not listen yet
                time.sleep(_REFUSED_PAUSE_S)
                continue
            if received[:2] == identity and len(received) >= len(header):
                return Answer.KNOWN if struct.unpack("!H", received[6:8])[0] else Answer.UNKNOWN
    return Answer.NONE
