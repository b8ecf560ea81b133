"""What networks cost: of packets, of a change, of an operator with very many machines.

All but the claims are of the Linux driver, on a host that is a network namespace; guests are namespaces too, as a guest
under emulation hides what a packet costs.
"""

import os
import statistics
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from multiprocessing import get_context

from tests.bench.network.throughput import in_router, over_tunnels
from tests.drivers.network.hosts import reachable_folder
from tests.drivers.network.linux.host import Host, new_host
from tests.drivers.network.linux.networks import TRANSIT_CIDR
from tests.operator.networks.measure_claims import measure as measure_claims
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import Network, Port, Subnet
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.names import namespace_path

GOALS = {
    "network.rules_ratio": ">= 0.9",
    "network.firewall_ratio": ">= 0.8",
    "network.overlay_ratio": ">= 0.9",
    "network.claims_10k_s": "< 1",
}
PORTS = 1_000
ROUNDS = 7
_UID = "bench-network"
_ETHERTYPE = b"\x80\x35"
"""RARP, which a machine may send of itself."""


async def figures() -> dict[str, float]:
    """All of them; those of a host only as root."""
    found = {"network.claims_10k_s": await in_thread(_claims_s)}
    if os.geteuid() != 0:
        return found
    async with _driver() as (host, driver):
        await driver.apply(_network(PORTS))
        found["network.change_ms"] = await _change_ms(driver)
        found["network.attach_ms"] = await _attach_ms(driver)
        found |= await in_router(host, namespace_path(host.folder / "run", _UID), _network(PORTS))
        await driver.remove(_UID)
    return found | await over_tunnels()


def _claims_s() -> float:
    """In a process of its own, as an operator is: garbage collections would go through all that a benchmark holds."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as operator:
        return statistics.median(operator.submit(measure_claims, 10_000).result().total_s for _ in range(3))


@asynccontextmanager
async def _driver() -> AsyncIterator[tuple[Host, LinuxNetworks]]:
    with reachable_folder() as folder, new_host(folder) as host:
        driver = LinuxNetworks(
            folder / "state",
            folder / "run",
            transit_cidr=TRANSIT_CIDR,
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
