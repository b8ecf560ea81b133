"""A DNS server of the outside that knows one name, for as long as a block lasts."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from tests.drivers.network.linux.host import Namespace


@contextmanager
def forwarder(namespace: Namespace, at: str, answer: str) -> Iterator[list[bytes]]:
    """Answers every question with the address; what was asked."""
    server = namespace.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind((at, 53))
    server.settimeout(0.1)
    asked: list[bytes] = []
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                received, client = server.recvfrom(2048)
            except TimeoutError:
                continue
            asked.append(received[12:])
            end = received.index(b"\0", 12) + 5
            header = received[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0)
            record = b"\xc0\x0c" + struct.pack("!2HLH", 1, 1, 60, 4) + IPv4Address(answer).packed
            server.sendto(header + received[12:end] + record, client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()
        server.close()
