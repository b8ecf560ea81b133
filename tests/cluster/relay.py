"""A way from the loopback of this machine to a port inside a network namespace: for people, and for tests."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.drivers.network.linux.host import Namespace

_BUFFER_BYTES = 65536


@contextlib.contextmanager
def relayed(namespace: Namespace, address: str, port: int) -> Iterator[int]:
    """The loopback port that leads to `address:port` inside, for the length of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, namespace, address, port), daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, namespace: Namespace, address: str, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_relay, args=(client, namespace, address, port), daemon=True).start()


def _relay(client: socket.socket, namespace: Namespace, address: str, port: int) -> None:
    with client:
        try:
            server = namespace.inside(lambda: socket.create_connection((address, port), timeout=10))
        except OSError:
            return
        with server:
            server.settimeout(None)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_BUFFER_BYTES):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
