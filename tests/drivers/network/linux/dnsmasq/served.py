"""Networks of a host with their routers' namespaces, as `NameServers` finds them, and guests that ask."""

import asyncio
import socket
import struct
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from tests.drivers.network.linux.dnsmasq import dhcp_client as dhcp
from tests.drivers.network.linux.dnsmasq.networks import MAC, network
from tests.drivers.network.linux.host import Host, Namespace
from virtplane_drivers.host.process import command_lines
from virtplane_drivers.network.contract import Network, Port
from virtplane_drivers.network.linux.dnsmasq import NameServers

A, PTR, AAAA = 1, 12, 28
NO_ERROR, NAME_ERROR, REFUSED = 0, 3, 5


@dataclass
class Served:
    """A host, and the name servers of an agent of it."""

    host: Host
    folder: Path
    token: str
    """In the UIDs of its networks."""
    deaths: list[str] = field(default_factory=list)
    all_names: list[NameServers] = field(default_factory=list)

    def names(self, *, resolv_conf: str = "") -> NameServers:
        """Of an agent that has just started, on a host with that resolv.conf."""
        path = self.folder / "resolv.conf"
        path.write_text(resolv_conf)
        one = NameServers(self.folder / "dnsmasq", resolv_confs=[path], on_death=self.deaths.append)
        self.all_names.append(one)
        return one

    def network(self, *ports: Port, uid: str = "a", **changes: Any) -> Network:
        """See `networks.network`; its UID is this test's alone."""
        return network(f"{self.token}-{uid}", *ports, **changes)

    def router(self, *addresses: str) -> Namespace:
        """A router's namespace with its bridge; the gateways of `networks.network` unless said otherwise."""
        router = self.host.new_namespace()
        router.ip("link", "set", "lo", "up")
        self.make_bridge(router, *addresses)
        return router

    def make_bridge(self, router: Namespace, *addresses: str) -> None:
        """The bridge of a router."""
        router.ip("link", "add", "br0", "type", "bridge")
        router.ip("link", "set", "br0", "up")
        for address in addresses or ("10.20.0.1/24", "fd00:20::1/64"):
            router.ip("address", "add", address, "dev", "br0", *(["nodad"] if ":" in address else []))

    def guest(self, router: Namespace, mac: str = MAC, *addresses: str) -> Namespace:
        """Joined to the router's bridge."""
        return self.host.guest(router.path, mac, *addresses)

    def pids(self, uid: str = "a") -> list[int]:
        """All processes of a network's dnsmasq that are there."""
        below = f"--conf-file={self.folder}/dnsmasq/{self.token}-{uid}/"
        return [pid for pid, words in command_lines().items() if any(word.startswith(below) for word in words)]

    def pid(self, uid: str = "a") -> int:
        """Of the one."""
        (one,) = self.pids(uid)
        return one

    async def end(self) -> None:
        """Nothing of the networks is left."""
        for names in self.all_names:
            for uid in await names.inventory():
                await names.remove(uid)
            names.close()


@dataclass(frozen=True)
class DnsReply:
    """What a server says to a question."""

    code: int
    answers: tuple[str, ...]


def asked(server: str, name: str, type_: int = A, timeout_s: float = 5.0) -> DnsReply:
    """The answer to a question by UDP, put once every half second; for a thread within a namespace."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    message = struct.pack("!6H", 4711, 0x0100, 1, 0, 0, 0) + question + struct.pack("!2H", type_, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        for _ in range(round(timeout_s / 0.5)):
            try:
                client.sendto(message, (server, 53))
                return _parsed(client.recv(2048), len(message))
            except OSError:  # silence, or nobody listens yet
                continue
    raise TimeoutError(f"{server} does not answer for {name}")


def answer(
    guest: Namespace, name: str, type_: int = A, *, server: str = "10.20.0.1", timeout_s: float = 5.0
) -> DnsReply:
    """What a guest is told."""
    return guest.inside(lambda: asked(server, name, type_, timeout_s))


def lease(guest: Namespace, mac: str = MAC, *, hostname: str = "") -> dhcp.Reply:
    """What a guest is given by DHCP; it is given something."""
    reply = guest.inside(lambda: dhcp.exchange(mac, hostname=hostname))
    assert reply is not None
    return reply


def reverse(address: str) -> str:
    """The name under which an address's name is found."""
    return ip_address(address).reverse_pointer


def _parsed(received: bytes, question_end: int) -> DnsReply:
    flags, _questions, count = struct.unpack("!3H", received[2:8])
    answers, rest = [], question_end
    for _ in range(count):
        rest += 2  # the name, as a pointer to the question's
        type_, _class, _ttl_s, length = struct.unpack("!2HLH", received[rest : rest + 10])
        data, rest = received[rest + 10 : rest + 10 + length], rest + 10 + length
        answers.append(_text(type_, data))
    return DnsReply(flags & 0xF, tuple(answers))


def _text(type_: int, data: bytes) -> str:
    if type_ == A:
        return str(IPv4Address(data))
    if type_ == AAAA:
        return str(IPv6Address(data))
    labels = []
    while data and 0 < data[0] < 64:
        labels.append(data[1 : 1 + data[0]].decode())
        data = data[1 + data[0] :]
    return ".".join(labels)


def without_router(one: Network) -> Network:
    """The same network, whose subnets have no gateway."""
    assert one.ipv4 is not None
    assert one.ipv6 is not None
    return replace(one, ipv4=replace(one.ipv4, gateway=None), ipv6=replace(one.ipv6, gateway=None))


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def told(served: Served, uid: str) -> None:
    """Waits until the agent is told of a death."""
    async with asyncio.timeout(10.0):
        while uid not in served.deaths:
            await asyncio.sleep(0.01)
