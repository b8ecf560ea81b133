"""Ports of the host that lead to guests."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import pytest

from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, Host, Namespace
from tests.drivers.network.linux.rules.routers import HOST_ADDRESSES, Router, new_router
from tests.drivers.network.linux.rules.services import PORT, reaches, seen_as, service
from tests.drivers.network.numbered import network, port
from virtplane_api.vocabulary import ForwardProtocol
from virtplane_drivers.network.contract import Port, PortForward
from virtplane_drivers.network.linux.rules import HostRules, RouterRules, end_flows, end_forwards

TCP_PORT, UDP_PORT = 8080, 5353
FORWARDS = (PortForward(ForwardProtocol.TCP, TCP_PORT, PORT), PortForward(ForwardProtocol.UDP, UDP_PORT, PORT))


@dataclass
class Forwarding:
    """One network of a host; its guests are those of its ports."""

    host: Host
    router: Router
    router_rules: RouterRules
    host_rules: HostRules

    async def apply(self, *ports: Port) -> None:
        one, transit = self.router.with_ports(*ports), self.router.transit
        assert transit is not None
        await self.router_rules.apply(self.router.path, one, transit, HOST_ADDRESSES)
        await self.host_rules.apply({one.uid: (one, transit)})

    @contextmanager
    def guest(self, one: Port) -> Iterator[Namespace]:
        with service(guest := self.router.guest(one)):
            yield guest


@pytest.fixture
def forwarding(host: Host) -> Forwarding:
    router = new_router(host, network("forwarding"))
    return Forwarding(host, router, RouterRules(), HostRules("test", host.machine.path))


async def test_a_forward_is_reached_from_outside_and_the_guest_sees_who_asks(forwarding: Forwarding) -> None:
    one = port(2, forwards=FORWARDS)
    await forwarding.apply(one)
    with forwarding.guest(one):
        outside = forwarding.host.outside
        for address, own in ((HOST_IPV4, OUTSIDE_IPV4), (HOST_IPV6, OUTSIDE_IPV6)):
            assert reaches(outside, address, TCP_PORT) == own
            assert reaches(outside, address, UDP_PORT, udp=True) == own
            assert seen_as(outside, address, UDP_PORT, timeout_s=0.3) is None  # the other protocol
            assert seen_as(outside, address, TCP_PORT, udp=True, timeout_s=0.3) is None


@pytest.mark.parametrize("address", [HOST_IPV4, HOST_IPV6, "127.0.0.1", "::1"])
async def test_a_forward_is_reached_from_the_host_itself(forwarding: Forwarding, address: str) -> None:
    one = port(2, forwards=FORWARDS)
    await forwarding.apply(one)
    with forwarding.guest(one):
        assert reaches(forwarding.host.machine, address, TCP_PORT)
        assert reaches(forwarding.host.machine, address, UDP_PORT, udp=True)


async def test_two_networks_have_forwards_of_loopback_addresses_at_once(host: Host) -> None:
    """Each needs a route to ::1 of its own link's."""
    networks = [
        network(f"forwarding-{number}", port(2, forwards=(PortForward(ForwardProtocol.TCP, 8000 + number, PORT),)))
        for number in range(2)
    ]
    routers = [new_router(host, one, number) for number, one in enumerate(networks)]
    rules = HostRules("test", host.machine.path)
    for router in routers:
        await RouterRules().apply(router.path, router.network, router.transit, HOST_ADDRESSES)
    await rules.apply({one.network.uid: (one.network, one.transit) for one in routers if one.transit is not None})
    assert await rules.check()
    with service(routers[0].guest(port(2))), service(routers[1].guest(port(2))), service(host.machine, 9000):
        for number, router in enumerate(routers):
            assert router.transit is not None
            seen = str(router.transit.host_ipv4), str(router.transit.host_ipv6)
            assert (
                reaches(host.machine, "127.0.0.1", 8000 + number),
                reaches(host.machine, "::1", 8000 + number),
            ) == seen
        assert reaches(host.machine, "::1", 9000) == "::1"


async def test_the_hosts_own_services_go_on_beside_forwards(forwarding: Forwarding) -> None:
    await forwarding.apply(port(2, forwards=FORWARDS))
    with service(forwarding.host.machine, 9000):
        for address in (HOST_IPV4, HOST_IPV6):
            assert reaches(forwarding.host.outside, address, 9000)
        for address in ("127.0.0.1", "::1"):
            assert seen_as(forwarding.host.machine, address, 9000) == address


async def test_a_forward_that_was_taken_away_leads_nowhere_and_leaves_no_way_for_loopback(
    forwarding: Forwarding,
) -> None:
    one = port(2, forwards=FORWARDS)
    await forwarding.apply(one)
    machine = forwarding.host.machine
    with forwarding.guest(one):
        reaches(machine, "::1", TCP_PORT)
        assert len(machine.ip("-6", "route", "show", "table", "local", "::1")) == 2
        await forwarding.apply(port(2))
        for address in (HOST_IPV4, "127.0.0.1", "::1"):
            assert seen_as(machine, address, TCP_PORT, timeout_s=0.3) is None
        assert len(machine.ip("-6", "route", "show", "table", "local", "::1")) == 1
        names = machine.run("sh", "-c", "grep -l 1 /proc/sys/net/ipv4/conf/*/route_localnet || true")
        assert names == ""


async def test_a_forward_leads_to_the_port_that_has_the_address_now(forwarding: Forwarding) -> None:
    await forwarding.apply(port(2, forwards=FORWARDS), port(3))
    with forwarding.guest(port(2)), forwarding.guest(port(3)) as third:
        assert reaches(forwarding.host.outside, HOST_IPV4, TCP_PORT) == OUTSIDE_IPV4
        await forwarding.apply(port(2), port(3, forwards=FORWARDS))
        third.reaches("10.0.0.1")
        third.ip("link", "set", "eth0", "down")
        assert seen_as(forwarding.host.outside, HOST_IPV4, TCP_PORT, timeout_s=0.3) is None


async def test_flows_of_an_address_end_with_it_and_those_of_others_do_not(forwarding: Forwarding) -> None:
    one, other = port(2, forwards=FORWARDS), port(3)
    await forwarding.apply(one, other)
    with forwarding.guest(one), forwarding.guest(other) as third, service(forwarding.host.outside):
        for address in (HOST_IPV4, HOST_IPV6):
            reaches(forwarding.host.outside, address, UDP_PORT, udp=True)
        for address in (OUTSIDE_IPV4, OUTSIDE_IPV6):
            reaches(third, address, udp=True)
        assert {str(address) in flows(forwarding.router) for address in one.addresses} == {True}
        await end_flows(forwarding.router.path, one.addresses)
        known = flows(forwarding.router)
        assert {str(address) in known for address in one.addresses} == {False}
        assert {str(address) in known for address in other.addresses} == {True}


@pytest.mark.parametrize("zone", [None, 7], ids=["", "in a zone of somebody else's rules"])
async def test_a_flow_through_a_forward_goes_on_until_it_is_ended_and_others_of_the_guest_do_not_end(
    forwarding: Forwarding, zone: int | None
) -> None:
    one, outside = port(2, forwards=FORWARDS), forwarding.host.outside
    if zone is not None:
        add_chain = "add chain inet foreign zones { type filter hook prerouting priority raw; }"
        add_rule = f"add rule inet foreign zones ct zone set {zone}"
        forwarding.host.machine.run("nft", f"add table inet foreign; {add_chain}; {add_rule}")
    await forwarding.apply(one)
    with forwarding.guest(one) as guest, service(outside):
        ipv4_udp = outside.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with closing(ipv4_udp) as client:
            client.settimeout(0.5)
            reaches(outside, HOST_IPV4, UDP_PORT, udp=True)  # the neighbours are known
            client.connect((HOST_IPV4, UDP_PORT))
            assert is_answered(client)
            assert reaches(outside, HOST_IPV4, TCP_PORT)
            own = guest.inside(lambda: socket.create_connection((OUTSIDE_IPV4, PORT)))
            await forwarding.apply(replace(one, forwards=FORWARDS[:1]))
            assert is_answered(client)
            assert forwarding.router.transit is not None
            machine = forwarding.host.machine.path
            await end_forwards(forwarding.router.path, machine, forwarding.router.transit, FORWARDS[1:])
            for at in (forwarding.router.at, forwarding.host.machine):
                known = at.run("conntrack", "-L")
                assert (f"dport={TCP_PORT} " in known, f"dport={UDP_PORT} " in known) == (True, False)
            assert not is_answered(client)
            assert OUTSIDE_IPV4 in flows(forwarding.router)
            own.close()


def is_answered(client: socket.socket) -> bool:
    """Whether one question is; its port stays the same."""
    client.send(b"?")
    try:
        return bool(client.recv(99))
    except (TimeoutError, ConnectionRefusedError):
        return False


def flows(router: Router) -> set[str]:
    """All addresses of all connections that the router knows."""
    listed = "".join(router.at.run("conntrack", "-L", "-f", family) for family in ("ipv4", "ipv6"))
    return {word.partition("=")[2] for word in listed.split() if word.startswith(("src=", "dst="))}
