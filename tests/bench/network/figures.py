"""What networks cost: of packets, of a change, of an operator with very many machines.

All but the claims are of the Linux driver, on a host that is a network namespace; guests are namespaces too, as a guest
under emulation hides what a packet costs.
"""

import os
import socket
import statistics
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path

from tests.drivers.network.hosts import reachable_folder
from tests.drivers.network.linux.host import Host, Namespace, new_host
from tests.operator.networks.measure_claims import measure as measure_claims
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import Network, Port, Subnet
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.names import namespace_path, tap_name
from virtplane_drivers.network.linux.rules import RouterRules

GOALS = {
    "network.rules_ratio": ">= 0.9",
    "network.claims_10k_s": "< 1",
}
PORTS = 1_000
PAIRS = 7
ROUNDS = 7
_TRANSFER_S = 0.5
_CHUNK = bytes(1 << 18)
_SERVER_PORT = 5001
_UID = "bench-network"
_ETHERTYPE = b"\x80\x35"
"""RARP, which a machine may send of itself."""


async def figures() -> dict[str, float]:
    """All of them; those of a host only as root."""
    found = {"network.claims_10k_s": statistics.median(measure_claims(10_000).total_s for _ in range(3))}
    if os.geteuid() != 0:
        return found
    async with _driver() as (host, driver):
        await driver.apply(_network(PORTS))
        found["network.change_ms"] = await _change_ms(driver)
        found["network.attach_ms"] = await _attach_ms(driver)
        found |= await _throughput(host, namespace_path(host.folder / "run", _UID))
        await driver.remove(_UID)
    return found


@asynccontextmanager
async def _driver() -> AsyncIterator[tuple[Host, LinuxNetworks]]:
    with reachable_folder() as folder, new_host(folder) as host:
        driver = LinuxNetworks(
            folder / "state",
            folder / "run",
            transit_cidr=IPv4Network("169.254.64.0/18"),
            host_namespace=host.machine.path,
        )
        async with driver:
            yield host, driver


def _port(number: int) -> Port:
    return Port(
        machine_uid=f"vm-{number}",
        machine_name=f"vm-{number}",
        interface="lan",
        mac=f"52:54:00:10:{number >> 8:02x}:{number & 255:02x}",
        addresses=(ip_address("10.20.0.10") + number,),
    )


def _network(ports: int) -> Network:
    return Network(
        uid=_UID,
        namespace="bench",
        name="lan",
        mode=NetworkMode.NAT,
        ipv4=Subnet(ip_network("10.20.0.0/16"), ip_address("10.20.0.1")),
        domain="bench.test",
        forwarders=(ip_address("203.0.113.1"),),
        ports=tuple(_port(number) for number in range(ports)),
    )


async def _change_ms(driver: LinuxNetworks) -> float:
    """A port more on a network of a thousand, until the driver says that it is served."""
    times = []
    for extra in range(1, ROUNDS + 1):
        begun = time.perf_counter()
        await driver.apply(_network(PORTS + extra))
        times.append(time.perf_counter() - begun)
    return 1000 * statistics.median(times)


async def _attach_ms(driver: LinuxNetworks) -> float:
    """From the call that opens a tap until a frame of its machine is with another one, on a network of a thousand."""
    network = _network(PORTS)
    listener = await driver.attachment(network, network.ports[0])
    (heard,) = await in_thread(open_tap, listener, 1, vnet_header=False)
    try:
        times = [
            await in_thread(_attach, await driver.attachment(network, port), port.mac, heard)
            for port in network.ports[1 : ROUNDS + 1]
        ]
    finally:
        os.close(heard)
    return 1000 * statistics.median(times)


def _attach(attachment: TapAttachment, mac: str, heard: int) -> float:
    own = bytes.fromhex(mac.replace(":", ""))
    begun = time.perf_counter()
    (tap,) = open_tap(attachment, 1, vnet_header=False)
    try:
        while True:
            os.write(tap, b"\xff" * 6 + own + _ETHERTYPE + bytes(46))
            try:
                while True:
                    if os.read(heard, 2048)[6:12] == own:
                        return time.perf_counter() - begun
            except BlockingIOError:
                time.sleep(0.0001)
    finally:
        os.close(tap)


async def _throughput(host: Host, router: Path) -> dict[str, float]:
    """Between two guests of a bridge: with anti-spoofing of a thousand, beside none at all, pair by pair."""
    rules, network = RouterRules(), _network(PORTS)
    guests = [
        host.guest(router, port.mac, f"{port.addresses[0]}/16", port=tap_name(port)) for port in network.ports[20:22]
    ]
    server = str(network.ports[21].addresses[0])
    ratios = []
    for number in range(PAIRS):
        rates: dict[bool, float] = {}
        for with_rules in (True, False) if number % 2 else (False, True):
            Namespace(router).run("nft", "flush", "ruleset")
            if with_rules:
                await rules.apply(router, network, None, [])
            rates[with_rules] = await in_thread(_bytes_per_s, guests[0], guests[1], server)
        ratios.append(rates[True] / rates[False])
    return {"network.rules_ratio": statistics.median(ratios), "network.rules_ratio_min": min(ratios)}


def _bytes_per_s(client: Namespace, server: Namespace, address: str) -> float:
    with server.inside(lambda: socket.create_server((address, _SERVER_PORT))) as listener:
        received = 0

        def receive() -> None:
            nonlocal received
            connection, _ = listener.accept()
            buffer = bytearray(len(_CHUNK))
            with connection:
                while count := connection.recv_into(buffer):
                    received += count

        receiving = threading.Thread(target=receive)
        receiving.start()
        with client.inside(lambda: socket.create_connection((address, _SERVER_PORT), timeout=10)) as sender:
            begun = time.perf_counter()
            while time.perf_counter() - begun < _TRANSFER_S:
                sender.sendall(_CHUNK)
            took_s = time.perf_counter() - begun
        receiving.join()
    return received / took_s
