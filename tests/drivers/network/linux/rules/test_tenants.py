"""Two tenants whose networks have the same addresses, on one host."""

import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest

from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, Host, Namespace
from tests.drivers.network.linux.rules import frames as f
from tests.drivers.network.linux.rules.capture import capture, send
from tests.drivers.network.linux.rules.routers import HOST_ADDRESSES, Router, new_router
from tests.drivers.network.linux.rules.services import PORT, reaches, seen_as, service
from tests.drivers.network.numbered import GATEWAY_IPV4, GATEWAY_IPV6, network, port
from virtplane_api.vocabulary import ForwardProtocol, NetworkMode
from virtplane_drivers.network.contract import PortForward
from virtplane_drivers.network.linux.names import UPLINK, host_link
from virtplane_drivers.network.linux.rules import HostRules, RouterRules

FORWARDED = 8081
ROUTER_MAC = "52:54:00:00:00:01"


@dataclass
class Tenants:
    """Each with one guest; the second's has a forward. A service listens everywhere but at the first's guest."""

    host: Host
    routers: tuple[Router, Router]
    guests: tuple[Namespace, Namespace]
    rules: HostRules
    apply: Callable[[], object]


@pytest.fixture
async def tenants(host: Host) -> AsyncIterator[Tenants]:
    forward = PortForward(ForwardProtocol.TCP, FORWARDED, PORT)
    # The same addresses as well: one sees from which tenant an answer is by who has it.
    networks = network("tenant-one", port(2)), network("tenant-two", port(3, forwards=(forward,)))
    routers = new_router(host, networks[0], 0), new_router(host, networks[1], 1)
    rules = HostRules("test", host.machine.path)
    both = {router.network.uid: (router.network, router.transit) for router in routers if router.transit is not None}
    for router in routers:
        await RouterRules().apply(router.path, router.network, router.transit, HOST_ADDRESSES)
    await rules.apply(both)
    guests = routers[0].guest(networks[0].ports[0]), routers[1].guest(networks[1].ports[0])
    with ExitStack() as services:
        for at in (host.outside, host.machine, routers[0].at, routers[1].at, guests[1]):
            services.enter_context(service(at))
        yield Tenants(host, routers, guests, rules, lambda: rules.apply(both))


def test_both_reach_outside_under_the_hosts_address(tenants: Tenants) -> None:
    for guest in tenants.guests:
        for outside, host in ((OUTSIDE_IPV4, HOST_IPV4), (OUTSIDE_IPV6, HOST_IPV6)):
            assert reaches(guest, outside) == host
            assert reaches(guest, outside, udp=True) == host
            guest.reaches(outside)


def refused_addresses(tenants: Tenants) -> list[str]:
    """The host's, and both ends of both transits; all have the service on them."""
    transits = [router.transit for router in tenants.routers if router.transit is not None]
    ends = [
        address
        for transit in transits
        for address in (transit.host_ipv4, transit.router_ipv4, transit.host_ipv6, transit.router_ipv6)
    ]
    return [HOST_IPV4, HOST_IPV6, *map(str, ends)]


@pytest.mark.parametrize("flushed", [False, True], ids=["", "after the host's rules were flushed"])
def test_neither_reaches_an_address_of_the_host_or_of_a_router_but_its_gateway(
    tenants: Tenants, *, flushed: bool
) -> None:
    first, _ = tenants.guests
    for gateway in (GATEWAY_IPV4, GATEWAY_IPV6):
        first.reaches(gateway)
    if flushed:
        tenants.host.machine.run("nft", "flush", "ruleset")
    # The gateway has the same service, and is asked for names and addresses only.
    addresses = [*refused_addresses(tenants), GATEWAY_IPV4, GATEWAY_IPV6]
    with ThreadPoolExecutor(len(addresses)) as pool:
        answers = dict(zip(addresses, pool.map(lambda address: answers_of(first, address), addresses), strict=True))
    ping = {"ping"}
    assert answers == {address: ping if address in (GATEWAY_IPV4, GATEWAY_IPV6) else set() for address in addresses}


def test_a_router_answers_its_guests_for_names_and_not_for_boot_files_and_asks_outside_itself(tenants: Tenants) -> None:
    guest, router = tenants.guests[0], tenants.routers[0].at
    with service(router, 53), service(router, 69):
        for gateway, own in ((GATEWAY_IPV4, "10.0.0.2"), (GATEWAY_IPV6, "fd00::2")):
            assert reaches(guest, gateway, 53) == own
            assert reaches(guest, gateway, 53, udp=True) == own
            assert seen_as(guest, gateway, 69, udp=True, timeout_s=0.3) is None
        assert reaches(router, "127.0.0.1", 53) == "127.0.0.1"
    for outside in (OUTSIDE_IPV4, OUTSIDE_IPV6):
        assert reaches(router, outside)
        assert reaches(router, outside, udp=True)


def answers_of(guest: Namespace, address: str) -> set[str]:
    """By what an address answers a guest."""
    asked = {
        "tcp": seen_as(guest, address, timeout_s=0.5) is not None,
        "udp": seen_as(guest, address, udp=True, timeout_s=0.5) is not None,
        "forward": seen_as(guest, address, FORWARDED, timeout_s=0.5) is not None,
        "ping": guest.pings(address),
    }
    return {what for what, answered in asked.items() if answered}


def test_the_host_alone_keeps_routers_from_each_other_and_from_its_services(tenants: Tenants) -> None:
    """Each of the two holds without the other: here the routers' rules are gone, as if somebody had broken in."""
    first, second = tenants.routers
    first.at.run("nft", "flush", "ruleset")
    assert second.transit is not None
    assert first.transit is not None
    assert reaches(first.at, OUTSIDE_IPV4) == HOST_IPV4
    for address in (HOST_IPV4, HOST_IPV6, second.transit.router_ipv4, second.transit.router_ipv6):
        assert seen_as(first.at, str(address), timeout_s=0.3) is None, address
        assert seen_as(first.at, str(address), FORWARDED, timeout_s=0.3) is None, address
    tenants.host.machine.run("nft", "flush", "ruleset")
    assert reaches(first.at, HOST_IPV4) == str(first.transit.router_ipv4)


def test_loopback_services_of_the_host_are_not_reached_through_the_link_that_forwards_them(tenants: Tenants) -> None:
    """`route_localnet` is on there, so the kernel would take a packet for 127.0.0.1."""
    machine, router = tenants.host.machine, tenants.routers[1]
    link = host_link(router.network.uid)
    assert router.transit is not None
    assert machine.sysctl(f"net/ipv4/conf/{link}/route_localnet") == "1"

    to, source = machine.links()[link]["address"], str(router.transit.router_ipv4)
    with closing(machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))) as listener:
        listener.bind(("127.0.0.1", 0))
        port_number = listener.getsockname()[1]
        with capture(machine, link) as arrived:
            lie = f.frame(ROUTER_MAC, f.IPV4, f.datagram(source, "127.0.0.1", 5000, port_number), to)
            send(router.at, lie, link=UPLINK)
            arrived.wait_for(lie)
        machine.run("nft", "flush", "ruleset")
        marked = f.ipv4(source, "127.0.0.1", f.UDP, f.udp(5000, port_number, b"flushed"))
        send(router.at, f.frame(ROUTER_MAC, f.IPV4, marked, to), link=UPLINK)
        listener.settimeout(10)
        assert listener.recv(99) == b"flushed"


def test_nobody_outside_reaches_a_nat_guest_by_its_own_address(tenants: Tenants) -> None:
    """Somebody beside the host, who sends to it what is for the guests."""
    host, (first, _) = tenants.host, tenants.routers
    host.outside.ip("-4", "route", "add", "10.0.0.0/24", "via", HOST_IPV4)
    host.machine.ip("-4", "route", "add", "10.0.0.0/24", "via", str(first.transit and first.transit.router_ipv4))
    with service(tenants.guests[0]):
        assert seen_as(host.outside, "10.0.0.2", timeout_s=0.3) is None
        host.machine.run("nft", "flush", "ruleset")
        assert seen_as(host.outside, "10.0.0.2", timeout_s=0.3) is None
        first.at.run("nft", "flush", "ruleset")
        assert reaches(host.outside, "10.0.0.2") == OUTSIDE_IPV4


async def test_a_routed_guest_is_reached_and_seen_by_its_own_address(host: Host) -> None:
    routed = network("routed", port(2), mode=NetworkMode.ROUTED)
    router = new_router(host, routed)
    guest = router.guest(routed.ports[0])
    assert router.transit is not None
    await RouterRules().apply(router.path, routed, router.transit, HOST_ADDRESSES)
    await HostRules("test", host.machine.path).apply({routed.uid: (routed, router.transit)})
    for prefix, via, host_address in (
        ("10.0.0.0/24", router.transit.router_ipv4, HOST_IPV4),
        ("fd00::/64", router.transit.router_ipv6, HOST_IPV6),
    ):
        host.machine.ip("route", "add", prefix, "via", str(via), "dev", host_link(routed.uid))
        host.outside.ip("route", "add", prefix, "via", host_address)
    with service(guest), service(host.outside), service(host.machine):
        for own, outside, at_host in (("10.0.0.2", OUTSIDE_IPV4, HOST_IPV4), ("fd00::2", OUTSIDE_IPV6, HOST_IPV6)):
            assert reaches(guest, outside) == own
            assert reaches(host.outside, own) == outside
            assert reaches(host.machine, own)
            assert seen_as(guest, at_host, timeout_s=0.3) is None
