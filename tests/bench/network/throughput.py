"""What rules cost a byte between two guests: TCP with them and without them, pair by pair, each order as often.

The peer of each ratio is the same way without any rule, and without the hooks of br_netfilter.

Many short transfers, on one CPU, ahead of all else that runs: on two CPUs with a load of ten a way was 0.80 to 1.27
times as fast as itself in 7 pairs of 1.5 s beside the load, and is 0.99 to 1.01 times so in 42 pairs of 0.25 s. On one
CPU nothing that rules cost is hidden behind the other guest's copying.

What a packet meets costs as much whatever its size; here it has 60 KB, and no rule cuts it up. One of 150 bytes from
guest to guest by tunnel, with 100 ports on each host, takes 3.3 us without rules and 1.4 us more with them: 0.65 of
anti-spoofing and of what may cross, in two routers; 0.65 of connection tracking, NAT and their hooks, and 0.15 of who
may send, in two hosts. With `notrack` it takes as long: the hooks stay, and to tell these packets from others costs
what tracking them does.
"""

import contextlib
import os
import socket
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.overlay import hosts as overlay
from virtplane_api.vocabulary import FirewallAction, FirewallDirection, FirewallProtocol
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.network.contract import AddressGroup, Firewall, FirewallRule, Network, Port
from virtplane_drivers.network.linux.firewall import Firewalls
from virtplane_drivers.network.linux.names import tap_name
from virtplane_drivers.network.linux.rules import RouterRules

PAIRS = 42
_TRANSFER_S, _WARM_UP_S = 0.25, 0.05
_CHUNK = bytes(1 << 18)
_SERVER_PORT = 5001
_OVERLAY_PORTS = 100
"""On each of two hosts."""
_BRIDGE_HOOKS = tuple(
    Path("/proc/sys/net/bridge").joinpath(f"bridge-nf-call-{name}") for name in ("iptables", "ip6tables")
)


async def in_router(host: Host, router: Path, network: Network) -> dict[str, float]:
    """Between two guests of one bridge: anti-spoofing of all the network's ports, and a firewall on each of them."""
    guests = [
        host.guest(router, port.mac, f"{port.addresses[0]}/16", port=tap_name(port)) for port in network.ports[20:22]
    ]
    server, rules, firewalls = str(network.ports[21].addresses[0]), RouterRules(), Firewalls()
    await firewalls.find_way()

    async def bare() -> None:
        at = Namespace(router)
        at.run("nft", "flush", "ruleset")
        at.inside(_without_hooks)

    async def rates(guarded: Network) -> dict[bool, Callable[[], Awaitable[None]]]:
        async def with_rules() -> None:
            await bare()
            await rules.apply(router, guarded, None, [], firewalls.way)
            await firewalls.take_effect(router, guarded)

        return {True: with_rules, False: bare}

    figures = await _ratios("rules", await rates(network), guests, server)
    if not firewalls.missing:
        figures |= await _ratios("firewall", await rates(walled(network)), guests, server)
    return figures


def _without_hooks() -> None:
    for hook in _BRIDGE_HOOKS:
        if hook.exists():
            hook.write_text("0")


def walled(network: Network) -> Network:
    """Each port lets TCP in from a group that all are in, behind rules that do not match."""
    ports = tuple(replace(port, firewall="web") for port in network.ports)
    group = AddressGroup("peers", tuple(address for port in ports for address in port.addresses))
    others = tuple(
        FirewallRule(FirewallDirection.INGRESS, FirewallAction.DENY, FirewallProtocol.TCP, ((number, number),))
        for number in range(7000, 7008)
    )
    allowed = FirewallRule(
        FirewallDirection.INGRESS,
        FirewallAction.ALLOW,
        FirewallProtocol.TCP,
        ((_SERVER_PORT, _SERVER_PORT),),
        is_of_everybody=False,
        groups=("peers",),
    )
    firewall = Firewall("web", FirewallAction.DENY, FirewallAction.ALLOW, (*others, allowed))
    return replace(network, ports=ports, firewalls=(firewall,), groups=(group,))


async def over_tunnels() -> dict[str, float]:
    """Between guests of two hosts, by VXLAN."""
    async with overlay.hosts(2, check_every_s=3600) as both:
        network = overlay.overlay_network("bench-overlay")
        ports: dict[int, Sequence[Port]] = {
            host.number: [overlay.port(2 + host.number + 2 * index) for index in range(_OVERLAY_PORTS)] for host in both
        }
        await overlay.spread(network, both, ports)
        guests = [host.guest(network, ports[host.number][0]) for host in both]
        server = str(ports[both[1].number][0].addresses[0])
        places = [place for host in both for place in (host.router(network), host.machine)]

        async def bare() -> None:
            for place in places:
                place.run("nft", "flush", "ruleset")

        async def with_rules() -> None:
            await overlay.spread(network, both, ports)

        return await _ratios("overlay", {True: with_rules, False: bare}, guests, server)


async def _ratios(
    name: str, ways: dict[bool, Callable[[], Awaitable[None]]], guests: Sequence[Namespace], server: str
) -> dict[str, float]:
    ratios = []
    for number in range(PAIRS):
        rates: dict[bool, float] = {}
        for with_rules in (True, False) if number % 2 else (False, True):
            await ways[with_rules]()
            await in_thread(bytes_per_s, guests[0], guests[1], server, _WARM_UP_S)
            rates[with_rules] = await in_thread(bytes_per_s, guests[0], guests[1], server, _TRANSFER_S)
        ratios.append(rates[True] / rates[False])
    return {f"network.{name}_ratio": statistics.median(ratios), f"network.{name}_ratio_min": min(ratios)}


def bytes_per_s(client: Namespace, server: Namespace, address: str, transfer_s: float) -> float:
    with server.inside(lambda: socket.create_server((address, _SERVER_PORT))) as listener, _ahead_of_all():
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
            while time.perf_counter() - begun < transfer_s:
                sender.sendall(_CHUNK)
            took_s = time.perf_counter() - begun
        receiving.join()
    return received / took_s


@contextlib.contextmanager
def _ahead_of_all() -> Iterator[None]:
    """This thread, and those that it starts, run on one CPU, before others; where root may not, beside them."""
    cpus, policy = os.sched_getaffinity(0), (os.sched_getscheduler(0), os.sched_getparam(0))
    os.sched_setaffinity(0, {max(cpus)})
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *policy)
        os.sched_setaffinity(0, cpus)
