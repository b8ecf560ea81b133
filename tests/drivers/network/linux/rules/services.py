"""A service in a namespace that answers whom it hears, and those who ask it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Namespace

PORT = 80


@contextmanager
def service(at: Namespace, port: int = PORT) -> Iterator[None]:
    """TCP and UDP of both families on all addresses: tells each client the address that it sees it under."""
    sockets = at.inside(lambda: _listening(port))
    threads = [threading.Thread(target=serve, args=(one,)) for serve, one in zip((_tcp, _udp), sockets, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for one in sockets:
            # It ends the call of whoever waits in it; a close alone would not.
            at.inside(lambda one=one: _end(one))  # type: ignore[misc]
        for thread in threads:
            thread.join()
        for one in sockets:
            one.close()


def seen_as(at: Namespace, address: str, port: int = PORT, *, udp: bool = False, timeout_s: float = 0.7) -> str | None:
    """The client's address as the service sees it; None: no answer within the time."""
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6

    def asked() -> str | None:
        with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            try:
                client.connect((address, port))
                if udp:
                    client.send(b"?")
                return client.recv(99).decode().removeprefix("::ffff:")
            except OSError:
                return None

    return at.inside(asked)


def reaches(at: Namespace, address: str, port: int = PORT, *, udp: bool = False) -> str:
    """The same, waited for: neighbours are looked up first."""
    seen: list[str] = []

    def is_answered() -> bool:
        answer = seen_as(at, address, port, udp=udp)
        seen.extend([] if answer is None else [answer])
        return bool(seen)

    eventually(is_answered, interval_s=0)
    return seen[0]


def _listening(port: int) -> tuple[socket.socket, socket.socket]:
    tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", port))
    return tcp, udp


def _end(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # of UDP: nobody was connected, and it ends the call all the same


def _tcp(listener: socket.socket) -> None:
    while True:
        try:
            client, address = listener.accept()
        except OSError:
            return
        with client:
            client.sendall(address[0].encode())


def _udp(listener: socket.socket) -> None:
    while True:
        data, address = listener.recvfrom(99)
        if not data:
            return
        listener.sendto(address[0].encode(), address)
