"""Networks of mode User, each port by a real passt: as a hypervisor, and as somebody of the outside, sees them."""

import asyncio
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.drivers.hypervisor.test_without_root import NOBODY, SHOWN_TO_ALL, hidden_folder
from tests.drivers.network.linux.dnsmasq.reachable_folder import folder_until_we_end
from tests.drivers.network.linux.host import Host, new_host
from tests.unix_sockets import address_of
from virtplane_api.vocabulary import ForwardProtocol, NetworkMode
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.host.process import command_lines
from virtplane_drivers.network.contract import Network, NetworkState, Port, PortForward, Subnet
from virtplane_drivers.network.passt import PasstNetworks

MAC, GUEST, GATEWAY = "52:54:00:00:00:01", "10.20.0.9", "10.20.0.1"
BROADCAST = b"\xff" * 6
HARDWARE = bytes.fromhex(MAC.replace(":", ""))


def port(*forwards: PortForward, machine: str = "vm-1") -> Port:
    return Port(machine, machine, "lan", MAC, (ip_address(GUEST),), forwards)


def forwarded() -> Port:
    return port(PortForward(ForwardProtocol.TCP, 8088, 80))


def network(*ports: Port, mode: NetworkMode = NetworkMode.USER) -> Network:
    ipv4 = Subnet(ip_network("10.20.0.0/24"), ip_address(GATEWAY))
    servers = (ip_address("203.0.113.1"),)
    return Network("net-1", "shop", "lan", mode, ipv4, mtu=1400, domain="shop.test", forwarders=servers, ports=ports)


@dataclass
class UserHost:
    """A host with a way out, in a namespace, and agents on it."""

    host: Host
    folder: Path

    def open(self) -> PasstNetworks:
        return PasstNetworks(self.folder / "run", host_namespace=self.host.machine.path)

    def pids(self, socket_path: Path | str = "") -> list[int]:
        """Of all, or of the one at that socket."""
        below = f"--socket={socket_path or f'{self.folder}/run/passt/'}"
        return [pid for pid, words in command_lines().items() if any(word.startswith(below) for word in words)]


@pytest.fixture
async def host() -> AsyncIterator[UserHost]:
    if os.geteuid() != 0 or shutil.which("passt") is None:
        pytest.skip("needs passt, and root for a host of its own")
    with folder_until_we_end("none-") as folder, new_host(folder) as one:
        host = UserHost(one, folder)
        try:
            yield host
        finally:
            async with host.open() as driver:
                for uid in await driver.inventory():
                    await driver.remove(uid)


@contextmanager
def joined(host: UserHost | None, path: Path) -> Iterator[socket.socket]:
    """As a QEMU of the host joins it; None: of this one."""

    def opened() -> socket.socket:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    with closing(opened() if host is None else host.host.machine.inside(opened)) as client:
        with address_of(path) as address:
            client.connect(address)
        client.settimeout(5.0)
        yield client


def send(client: socket.socket, frame: bytes) -> None:
    client.sendall(struct.pack("!L", len(frame)) + frame)


def frames(client: socket.socket) -> Iterator[bytes]:
    stream = client.makefile("rb")
    while header := stream.read(4):
        yield stream.read(int.from_bytes(header))


def arp_request(target: str) -> bytes:
    sender = ip_address(GUEST).packed
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + HARDWARE + sender + bytes(6) + ip_address(target).packed
    return BROADCAST + HARDWARE + b"\x08\x06" + body


def discover() -> bytes:
    bootp = struct.pack("!BBBBIHH", 1, 1, 6, 0, 4711, 0, 0) + bytes(16) + HARDWARE.ljust(16, b"\0") + bytes(192)
    body = bootp + b"\x63\x82\x53\x63" + bytes([53, 1, 1, 255])
    udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + bytes(4) + BROADCAST[:4]
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    return BROADCAST + HARDWARE + b"\x08\x00" + header + udp


async def test_a_guest_is_given_its_address_by_dhcp_and_answered_for_its_gateway(host: UserHost) -> None:
    async with host.open() as driver:
        await driver.apply(network(port()))
        with joined(host, (await driver.attachment(network(), port())).socket) as client:
            send(client, arp_request(GATEWAY))
            answer = next(frame for frame in frames(client) if frame[12:14] == b"\x08\x06")
            assert (answer[20:22], answer[28:32]) == (b"\0\x02", ip_address(GATEWAY).packed)
            send(client, discover())
            offer = next(frame for frame in frames(client) if frame[23:24] == b"\x11" and frame[34:36] == b"\0\x43")
            assert offer[58:62] == ip_address(GUEST).packed
            assert b"\x03\x04" + ip_address(GATEWAY).packed in offer
            assert b"\x06\x04" + ip_address("203.0.113.1").packed in offer
            assert b"\x1a\x02" + struct.pack("!H", 1400) in offer


async def test_a_port_of_the_host_leads_to_its_guest_and_no_other_does(host: UserHost) -> None:
    one = forwarded()
    async with host.open() as driver:
        await driver.apply(network(one))
        with joined(host, (await driver.attachment(network(), one)).socket) as client:
            send(client, arp_request(GATEWAY))  # it learns the guest's hardware address
            received = frames(client)
            next(frame for frame in received if frame[12:14] == b"\x08\x06")
            calling = host.host.outside.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with closing(calling):
                calling.setblocking(False)  # noqa: FBT003
                calling.connect_ex(("203.0.113.2", 8088))
                syn = next(frame for frame in received if frame[12:14] == b"\x08\x00" and frame[23] == 6)
            assert (syn[:6], syn[30:34], syn[36:38]) == (HARDWARE, ip_address(GUEST).packed, struct.pack("!H", 80))
        listening = host.host.machine.run("ss", "-Hltn")
        assert ":8088" in listening
        await driver.apply(network(port()))
        assert ":8088" not in host.host.machine.run("ss", "-Hltn")


async def test_a_network_that_is_so_already_is_left_alone_also_by_the_next_agent(host: UserHost) -> None:
    async with host.open() as driver:
        await driver.apply(network(port()))
        before = host.pids()
        await driver.apply(network(port()))
    async with host.open() as driver:
        seen = await driver.observe("net-1")
        assert (seen.state, seen.ports, await driver.inventory()) == (
            NetworkState.READY,
            frozenset({port().key}),
            ("net-1",),
        )
        await driver.apply(network(port()))
        assert host.pids() == before


async def test_a_death_is_told_seen_and_repaired(host: UserHost) -> None:
    async with host.open() as driver:
        await driver.apply(network(port()))
        (pid,) = host.pids()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10.0):
            assert await anext(driver.events()) == "net-1"
        seen = await driver.observe("net-1")
        assert (seen.state, seen.reason, seen.ports) == (NetworkState.FAILED, "NetworkError", frozenset())
        await driver.apply(network(port()))
        assert (await driver.observe("net-1")).state is NetworkState.READY


async def test_ports_come_and_go_each_with_a_passt_that_runs_as_nobody_else(host: UserHost) -> None:
    async with host.open() as driver:
        await driver.apply(network(port(), port(machine="vm-2")))
        users = {Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0] for pid in host.pids()}  # noqa: ASYNC240
        assert len(users) == 2
        assert "0" not in users
        await driver.apply(network(port(machine="vm-2")))
        assert (await driver.observe("net-1")).ports == {("vm-2", "lan")}
        assert len(host.pids()) == 1


async def test_what_a_hypervisor_holds_is_not_removed_before_it_lets_go(host: UserHost) -> None:
    async with host.open() as driver:
        await driver.apply(network(port()))
        path = (await driver.attachment(network(), port())).socket
        with joined(host, path) as client:
            send(client, arp_request(GATEWAY))
            next(frames(client))
            with pytest.raises(Unavailable, match="held by a running machine"):
                await driver.remove("net-1")
        await driver.remove("net-1")
        assert host.pids() == []
        assert await driver.inventory() == ()


def test_an_agent_without_root_has_them_too(host: UserHost, tmp_path: Path) -> None:
    folder, base = host.folder / "nobody", Path(sys.base_prefix)
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    shell = ["sh", "-c", SHOWN_TO_ALL, "sh", str(base), hidden_folder(base), str(tmp_path)]
    program = [sys.executable, "-B", "-m", "tests.drivers.network.passt.as_nobody", str(folder)]
    argv = ["nsenter", f"--net={host.host.machine.path}", "--", "unshare", "--mount", *shell, *program]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False, timeout=60)
    assert done.stdout.split() == ["Ready", "offer", "NetworkInUse", "Ready", "removed"], done.stderr[-2000:]


async def test_other_modes_are_refused(host: UserHost) -> None:
    async with host.open() as driver:
        with pytest.raises(Refused):
            await driver.apply(replace(network(), mode=NetworkMode.NAT))


async def test_what_keeps_it_from_serving_is_said(host: UserHost) -> None:
    host.host.machine.ip("route", "flush", "table", "main")
    host.host.machine.ip("link", "set", "eth0", "down")
    async with host.open() as driver:
        with pytest.raises(Unavailable, match=r"passt does not serve vm-1/lan: \w"):
            await driver.apply(network(port()))
        assert host.pids() == []
