"""A small DHCP client of IPv4 and IPv6, to be run inside a guest's namespace on its `eth0`.

It takes what it is given without configuring anything, so that one link can ask in the name of many (RFC 2131: the
server goes by the hardware address in the message). Options: RFC 2132, 2939; DHCPv6: RFC 8415.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import TypeVar

LINK = "eth0"
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
MASK, ROUTER, DNS, HOSTNAME, DOMAIN, MTU, ADDRESS, LEASE_S, TYPE, SERVER = 1, 3, 6, 12, 15, 26, 50, 51, 53, 54
WANTED, SEARCH, STATIC_ROUTES = 55, 119, 121
_ASKED_FOR = bytes([MASK, ROUTER, DNS, HOSTNAME, DOMAIN, MTU, SEARCH, STATIC_ROUTES])
_COOKIE = b"\x63\x82\x53\x63"
_HEADER = "!BBBBIHH4s4s4s4s16s64s128s"
_HEADER_BYTES = struct.calcsize(_HEADER)

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """A server's message."""

    type: int
    address: IPv4Address
    options: dict[int, bytes] = field(repr=False)

    def addresses(self, code: int) -> list[str]:
        """Those of an option that is a list of them."""
        value = self.options.get(code, b"")
        return [str(IPv4Address(value[start : start + 4])) for start in range(0, len(value), 4)]

    def text(self, code: int) -> str:
        """Of an option that is a text."""
        return self.options.get(code, b"").decode()

    def number(self, code: int) -> int:
        """Of an option that is a number."""
        return int.from_bytes(self.options.get(code, b""))

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Classless static routes: destination, router (RFC 3442)."""
        value, found = self.options.get(STATIC_ROUTES, b""), []
        while value:
            width, octets = value[0], (value[0] + 7) // 8
            network = IPv4Network((value[1 : 1 + octets].ljust(4, b"\0"), width))
            found.append((str(network), str(IPv4Address(value[1 + octets : 5 + octets]))))
            value = value[5 + octets :]
        return found


def exchange(mac: str, *, hostname: str = "", timeout_s: float = 5.0) -> Reply | None:
    """DISCOVER and REQUEST, sent by broadcast: the acknowledgement; None when nobody offers within the time."""
    offer = ask(mac, DISCOVER, hostname=hostname, timeout_s=timeout_s)
    if offer is None:
        return None
    wanted = {ADDRESS: offer.address.packed, SERVER: offer.options[SERVER]}
    return ask(mac, REQUEST, wanted, hostname=hostname, timeout_s=timeout_s)


def renewed(mac: str, address: str, server: str, timeout_s: float = 5.0) -> Reply | None:
    """What the server says to a REQUEST by unicast from the address, as at half of the lease's time."""
    message, transaction = _message(mac, REQUEST, {}, address, "")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((address, 68))
        client.sendto(message, (server, 67))
        return _answer(client, transaction, timeout_s)


def reclaimed(mac: str, address: str, timeout_s: float = 5.0) -> Reply | None:
    """What the server says to who has just booted and asks for the address it had (INIT-REBOOT)."""
    return ask(mac, REQUEST, {ADDRESS: IPv4Address(address).packed}, timeout_s=timeout_s)


def ask(
    mac: str, type_: int, options: dict[int, bytes] | None = None, *, hostname: str = "", timeout_s: float = 5.0
) -> Reply | None:
    """One message by broadcast, sent again every half second as clients do: the first answer to it."""
    message, transaction = _message(mac, type_, options or {}, "0.0.0.0", hostname)  # noqa: S104
    with _broadcasting() as client:
        return _again(
            timeout_s,
            lambda: client.sendto(message, ("255.255.255.255", 67)),
            lambda wait_s: _answer(client, transaction, wait_s),
        )


def unicast_offer(mac: str, timeout_s: float = 5.0) -> bytes:
    """The frame of an OFFER that is sent to the client's hardware address alone, as most clients want it."""
    message, _ = _message(mac, DISCOVER, {}, "0.0.0.0", "", broadcast=False)  # noqa: S104
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire, _broadcasting() as client:
        wire.bind((LINK, 0x0800))
        client.sendto(message, ("255.255.255.255", 67))
        deadline = time.monotonic() + timeout_s
        while True:
            wire.settimeout(max(0.01, deadline - time.monotonic()))
            frame = wire.recv(2048)
            if frame[23] == socket.IPPROTO_UDP and frame[34:38] == struct.pack("!HH", 67, 68):
                return frame


def _broadcasting() -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, LINK.encode())
    client.bind(("0.0.0.0", 68))  # noqa: S104
    return client


def _message(
    mac: str, type_: int, options: dict[int, bytes], address: str, hostname: str, *, broadcast: bool = True
) -> tuple[bytes, int]:
    transaction = int.from_bytes(os.urandom(4))
    flags, none = (0x8000 if broadcast else 0), b"\0" * 4
    hardware = bytes.fromhex(mac.replace(":", ""))
    header = struct.pack(
        _HEADER, 1, 1, 6, 0, transaction, 0, flags, IPv4Address(address).packed, none, none, none, hardware, b"", b""
    )
    all_options = {TYPE: bytes([type_]), WANTED: _ASKED_FOR, **options}
    if hostname:
        all_options[HOSTNAME] = hostname.encode()
    body = b"".join(bytes([code, len(value)]) + value for code, value in all_options.items())
    return header + _COOKIE + body + b"\xff", transaction


def _answer(client: socket.socket, transaction: int, timeout_s: float) -> Reply | None:
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0 and select.select([client], [], [], left_s)[0]:
        received = client.recv(2048)
        if int.from_bytes(received[4:8]) == transaction:
            options: dict[int, bytes] = {}
            for code, value in _options(received[_HEADER_BYTES + 4 :]):
                options[code] = options.get(code, b"") + value
            return Reply(options[TYPE][0], IPv4Address(received[16:20]), options)
    return None


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data and data[0] != 255:
        if data[0] == 0:
            data = data[1:]
            continue
        yield data[0], data[2 : 2 + data[1]]
        data = data[2 + data[1] :]


def _again(timeout_s: float, send: Callable[[], object], answer: Callable[[float], T | None]) -> T | None:
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        send()
        if (answered := answer(min(0.5, left_s))) is not None:
            return answered
    return None


# --- IPv6 -------------------------------------------------------------------------------------------------------------

SOLICIT6, ADVERTISE6, REQUEST6, REPLY6 = 1, 2, 3, 7
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_ADDRESS, _WANTED6, DNS6, SEARCH6 = 1, 2, 3, 5, 6, 23, 24
_ALL_SERVERS, _ALL_ROUTERS = "ff02::1:2", "ff02::2"


@dataclass(frozen=True)
class Reply6:
    """A server's message."""

    type: int
    server: bytes
    """Its DUID."""
    addresses: tuple[str, ...]
    dns: tuple[str, ...]


def exchange6(mac: str, timeout_s: float = 8.0) -> Reply6 | None:
    """SOLICIT and REQUEST: the reply; None when nobody advertises an address within the time.

    The server goes by the hardware address that it sees (RFC 6939 needs no relay here), so this is the link's own.
    """
    advertised = solicited6(mac, timeout_s)
    if advertised is None or not advertised.addresses:
        return None
    return _ask6(mac, REQUEST6, _option6(_SERVER_ID, advertised.server), timeout_s)


def solicited6(mac: str, timeout_s: float = 8.0) -> Reply6 | None:
    """The first answer to a SOLICIT, with an address or without."""
    return _ask6(mac, SOLICIT6, b"", timeout_s)


def _option6(code: int, value: bytes) -> bytes:
    return struct.pack("!HH", code, len(value)) + value


def _ask6(mac: str, type_: int, options: bytes, timeout_s: float) -> Reply6 | None:
    transaction, index = os.urandom(3), socket.if_nametoindex(LINK)
    duid = b"\0\x03\0\x01" + bytes.fromhex(mac.replace(":", ""))
    message = bytes([type_]) + transaction + _option6(_CLIENT_ID, duid) + options
    message += _option6(_IA_NA, b"\0\0\0\x01" + b"\0" * 8) + _option6(_WANTED6, struct.pack("!HH", DNS6, SEARCH6))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, LINK.encode())
        client.bind(("::", 546))

        def send() -> None:
            try:
                client.sendto(message, (_ALL_SERVERS, 547, 0, index))
            except OSError:  # its link-local address is still being checked
                time.sleep(0.05)

        def answer(wait_s: float) -> Reply6 | None:
            deadline = time.monotonic() + wait_s
            while (left_s := deadline - time.monotonic()) > 0 and select.select([client], [], [], left_s)[0]:
                received = client.recv(2048)
                if received[1:4] == transaction:
                    return _reply6(received)
            return None

        return _again(timeout_s, send, answer)


def _reply6(received: bytes) -> Reply6:
    options = dict(_options6(received[4:]))
    inner = [value for code, value in _options6(options.get(_IA_NA, b"")[12:]) if code == _IA_ADDRESS]
    dns = options.get(DNS6, b"")
    return Reply6(
        type=received[0],
        server=options[_SERVER_ID],
        addresses=tuple(str(IPv6Address(value[:16])) for value in inner),
        dns=tuple(str(IPv6Address(dns[start : start + 16])) for start in range(0, len(dns), 16)),
    )


def _options6(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        code, length = struct.unpack("!HH", data[:4])
        yield code, data[4 : 4 + length]
        data = data[4 + length :]


@dataclass(frozen=True)
class Advertisement:
    """What a router says of itself (RFC 4861)."""

    is_managed: bool
    """Addresses are given by DHCPv6."""
    lifetime_s: int
    """0: it is no default router."""
    mtu: int
    prefixes: dict[str, tuple[bool, bool]]
    """Prefix -> on-link, autonomous (a guest may make addresses in it)."""
    dns: tuple[str, ...]


def advertised(timeout_s: float = 8.0) -> Advertisement | None:
    """The answer to a router solicitation."""
    index = socket.if_nametoindex(LINK)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, LINK.encode())
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)

        def send() -> None:
            try:
                client.sendto(b"\x85" + b"\0" * 7, (_ALL_ROUTERS, 0, 0, index))
            except OSError:
                time.sleep(0.05)

        def answer(wait_s: float) -> Advertisement | None:
            deadline = time.monotonic() + wait_s
            while (left_s := deadline - time.monotonic()) > 0 and select.select([client], [], [], left_s)[0]:
                received = client.recv(2048)
                if received[0] == 134:
                    return _advertisement(received)
            return None

        return _again(timeout_s, send, answer)


def _advertisement(received: bytes) -> Advertisement:
    data, mtu, prefixes, dns = received[16:], 0, {}, []
    while data:
        code, length = data[0], data[1] * 8
        value, data = data[:length], data[length:]
        if code == 5:
            mtu = int.from_bytes(value[4:8])
        elif code == 3:
            prefixes[f"{IPv6Address(value[16:32])}/{value[2]}"] = (bool(value[3] & 0x80), bool(value[3] & 0x40))
        elif code == 25:
            dns += [str(IPv6Address(value[start : start + 16])) for start in range(8, length, 16)]
    return Advertisement(bool(received[5] & 0x80), int.from_bytes(received[6:8]), mtu, prefixes, tuple(dns))
