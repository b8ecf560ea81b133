"""A guest at a passt's socket, frame by frame: what it asks, and whether it is answered."""

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count

from tests.drivers.network.linux.rules import frames

FINISH, SYN, PUSH, ACK = 0x01, 0x02, 0x08, 0x10
NOT_ANSWERED_S = 0.6
_PORTS = count(40_000)
_MULTICAST_MAC = "33:33:00:00:00:01"


@dataclass
class Guest:
    """One interface, with an address of each family."""

    stream: socket.socket
    mac: str
    addresses: tuple[str, str]
    gateway: str
    _buffer: bytes = field(default=b"", repr=False)

    def introduce(self) -> None:
        """By an answered question, after which passt knows the interface's hardware address."""
        self._send(frames.BROADCAST, frames.ARP, frames.arp(self.mac, self.addresses[0], self.gateway))
        assert self._received(lambda frame: frame[12:14] == b"\x08\x06", 5.0)

    def opens(self, address: str, port: int, timeout_s: float = NOT_ANSWERED_S) -> bool:
        """Whether a SYN is answered by SYN and ACK; one that is refused, or not answered within the time, is not."""
        own = next(_PORTS)
        self._send_to(address, frames.TCP, _segment(own, port, 1000, 0, SYN))
        answer = self._received(_is_from(address, frames.TCP, port, own), timeout_s)
        return answer is not None and answer[_transport(answer) + 13] & (SYN | ACK) == SYN | ACK

    def asks(self, address: str, port: int, timeout_s: float = NOT_ANSWERED_S) -> bool:
        """Whether a datagram is answered within the time."""
        own = next(_PORTS)
        self._send_to(address, frames.UDP, frames.udp(own, port, b"?"))
        return self._received(_is_from(address, frames.UDP, port, own), timeout_s) is not None

    def accepts(self, port: int, payload: bytes) -> None:
        """Take the connection that somebody opens, send that, and end it once it is acknowledged."""
        frame = self._received(_is_to(frames.TCP, port), 5.0)
        assert frame is not None
        start, caller = _transport(frame), _source(frame)
        their_port, sequence = struct.unpack_from("!H2xI", frame, start)
        for number, flags, data in ((5000, SYN | ACK, b""), (5001, PUSH | ACK, payload)):
            self._send_to(caller, frames.TCP, _segment(port, their_port, number, sequence + 1, flags) + data)
            # As any guest does: passt does not get out of a loop when both come at once.
            end = max(5001, number + len(data))
            assert self._received(lambda frame: _acknowledges(frame, their_port, end), 5.0)  # noqa: B023
        self._send_to(caller, frames.TCP, _segment(port, their_port, end, sequence + 1, FINISH | ACK))

    def answers(self, port: int, payload: bytes) -> None:
        """Send that to whoever asks by a datagram."""
        frame = self._received(_is_to(frames.UDP, port), 5.0)
        assert frame is not None
        (their_port,) = struct.unpack_from("!H", frame, _transport(frame))
        self._send_to(_source(frame), frames.UDP, frames.udp(port, their_port, payload))

    def _send_to(self, address: str, protocol: int, segment: bytes) -> None:
        is_ipv4 = ip_address(address).version == 4
        source = self.addresses[0 if is_ipv4 else 1]
        at = {frames.TCP: 16, frames.UDP: 6}[protocol]
        segment = segment[:at] + _checksum(source, address, protocol, segment) + segment[at + 2 :]
        packet = (frames.ipv4 if is_ipv4 else frames.ipv6)(source, address, protocol, segment)
        self._send(_MULTICAST_MAC, frames.IPV4 if is_ipv4 else frames.IPV6, packet)

    def _send(self, destination: str, ether_type: int, packet: bytes) -> None:
        frame = frames.mac_bytes(destination) + frames.mac_bytes(self.mac) + struct.pack("!H", ether_type) + packet
        self.stream.sendall(struct.pack("!L", len(frame)) + frame)

    def _received(self, wanted: Callable[[bytes], bool], timeout_s: float) -> bytes | None:
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            self.stream.settimeout(left_s)
            try:
                self._buffer += self.stream.recv(1 << 16)
            except TimeoutError:
                return None
            while len(self._buffer) >= 4 and len(self._buffer) >= 4 + (length := int.from_bytes(self._buffer[:4])):
                frame, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
                if wanted(frame):
                    return frame
        return None


def _transport(frame: bytes) -> int:
    return 34 if frame[12:14] == b"\x08\x00" else 54


def _source(frame: bytes) -> str:
    return str(ip_address(frame[26:30] if frame[12:14] == b"\x08\x00" else frame[22:38]))


def _segment(source: int, target: int, sequence: int, acknowledged: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source, target, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0)


def _is_to(protocol: int, port: int) -> Callable[[bytes], bool]:
    def matches(frame: bytes) -> bool:
        at = {b"\x08\x00": 23, b"\x86\xdd": 20}.get(frame[12:14])
        if at is None or frame[at] != protocol:
            return False
        start = _transport(frame)
        return frame[start + 2 : start + 4] == struct.pack("!H", port)

    return matches


def _acknowledges(frame: bytes, port: int, sequence: int) -> bool:
    start = _transport(frame)
    return len(frame) >= start + 20 and struct.unpack_from("!H6xI", frame, start) == (port, sequence)


def _is_from(address: str, protocol: int, port: int, own: int) -> Callable[[bytes], bool]:
    is_ipv4 = ip_address(address).version == 4
    ether_type, at = (b"\x08\x00", 23) if is_ipv4 else (b"\x86\xdd", 20)

    def matches(frame: bytes) -> bool:
        if frame[12:14] != ether_type or frame[at] != protocol:
            return False
        start = _transport(frame)
        return frame[start : start + 4] == struct.pack("!HH", port, own)

    return matches


def _checksum(source: str, target: str, protocol: int, segment: bytes) -> bytes:
    pseudo = ip_address(source).packed + ip_address(target).packed + struct.pack("!II", len(segment), protocol)
    words = pseudo + segment + bytes(len(segment) % 2)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
