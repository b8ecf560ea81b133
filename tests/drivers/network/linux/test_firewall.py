"""What firewalls let through and what they do not, on real routers: each denied flow beside its honest twin."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.dnsmasq import dhcp_client as dhcp
from tests.drivers.network.linux.dnsmasq.served import answer
from tests.drivers.network.linux.firewalled import (
    ALLOW,
    DENY,
    EGRESS,
    HOST_BRIDGE,
    ICMP,
    INGRESS,
    TCP,
    UDP,
    Walled,
    connection,
    firewall,
    group,
    network,
    rule,
    walled_host,
)
from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, Namespace
from tests.drivers.network.linux.rules.services import PORT, reaches, seen_as, service
from tests.drivers.network.numbered import port
from virtplane_api.vocabulary import ForwardProtocol, NetworkMode
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import Firewall, Network, PortForward
from virtplane_drivers.network.linux.names import ROUTER_TABLE, tap_name

WEB = rule(INGRESS, ALLOW, protocol=TCP, ports=((PORT, PORT),))
OTHER_PORT = 8081
LINK_LOCAL = "fe80::5054:1ff:fe00:2"
"""Of machine 2, as its MAC makes it."""
FORWARDS = PortForward(ForwardProtocol.TCP, 8080, PORT), PortForward(ForwardProtocol.TCP, OTHER_PORT, OTHER_PORT)
SYSCTLS = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")


@pytest.fixture
async def walled(root: None) -> AsyncIterator[Walled]:
    async with walled_host() as one:
        yield one


def web(*more: Firewall, **defaults: object) -> Network:
    """Machine 2 has a firewall that lets others in to port 80, machine 3 has none."""
    only_web = firewall(WEB, ingress=DENY)
    return replace(network(port(2, "f1"), port(3), firewalls=(only_web, *more)), **defaults)  # type: ignore[arg-type]


def with_services(stack: ExitStack, at: Namespace) -> Namespace:
    for number in (PORT, OTHER_PORT):
        stack.enter_context(service(at, number))
    return at


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
async def test_others_reach_the_ports_that_are_open_and_no_others(walled: Walled, address: str) -> None:
    await walled.driver.apply(web())
    with ExitStack() as stack:
        with_services(stack, walled.guest(port(2, "f1")))
        third = walled.guest(port(3))
        assert reaches(third, address)
        assert seen_as(third, address, OTHER_PORT) is None
        assert seen_as(third, address, udp=True) is None
        assert not third.pings(address)


@pytest.mark.parametrize(("own", "other"), [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3")])
async def test_a_guest_that_lets_nobody_in_is_answered_what_it_asks(walled: Walled, own: str, other: str) -> None:
    await walled.driver.apply(network(port(2, "f1"), port(3), firewalls=(firewall(ingress=DENY),)))
    with ExitStack() as stack:
        second, third = (with_services(stack, walled.guest(one)) for one in (port(2, "f1"), port(3)))
        assert reaches(second, other)
        assert reaches(second, other, udp=True)
        second.reaches(other)
        assert seen_as(third, own) is None
        assert not third.pings(own)


@pytest.mark.parametrize(("own", "other"), [("10.0.0.2", "10.0.0.3"), ("fd00::2", "fd00::3")])
async def test_a_guest_that_may_begin_nothing_answers_who_asks_it(walled: Walled, own: str, other: str) -> None:
    await walled.driver.apply(network(port(2, "f1"), port(3), firewalls=(firewall(egress=DENY),)))
    with ExitStack() as stack:
        second, third = (with_services(stack, walled.guest(one)) for one in (port(2, "f1"), port(3)))
        stack.enter_context(service(walled.host.outside))
        assert reaches(third, own)
        assert reaches(third, own, udp=True)
        assert reaches(third, OUTSIDE_IPV4)
        assert seen_as(second, other) is None
        assert seen_as(second, OUTSIDE_IPV4) is None
        assert seen_as(second, OUTSIDE_IPV6) is None
        assert not second.pings(other)


async def test_what_a_guest_may_begin_is_told_by_port_protocol_and_address(walled: Walled) -> None:
    egress = firewall(
        rule(EGRESS, DENY, "10.0.0.4/32", "fd00::4/128"),
        rule(EGRESS, ALLOW, "10.0.0.0/24", "10.0.0.0/28", "0.0.0.0/0", protocol=TCP, ports=((80, 90), (85, 100))),
        rule(EGRESS, ALLOW, protocol=ICMP),
        egress=DENY,
    )
    await walled.driver.apply(network(port(2, "f1"), port(3), port(4), firewalls=(egress,)))
    with ExitStack() as stack:
        second = walled.guest(port(2, "f1"))
        third, fourth = (with_services(stack, walled.guest(one)) for one in (port(3), port(4)))
        stack.enter_context(service(walled.host.outside))
        assert reaches(second, "10.0.0.3")
        assert reaches(second, OUTSIDE_IPV4) == HOST_IPV4
        assert seen_as(second, "10.0.0.3", OTHER_PORT) is None
        assert seen_as(second, "10.0.0.3", udp=True) is None
        assert seen_as(second, "fd00::3") is None
        second.reaches("fd00::3")
        second.reaches(OUTSIDE_IPV6)
        assert reaches(third, "10.0.0.4")
        assert seen_as(second, "10.0.0.4") is None
        assert not second.pings("fd00::4")
        assert fourth.pings("fd00::3")


async def test_machines_of_a_group_are_let_in_and_a_new_one_at_once(walled: Walled) -> None:
    peers = firewall(rule(INGRESS, ALLOW, "@front", protocol=TCP), ingress=DENY)
    lan = network(port(2, "f1"), port(3), port(4), firewalls=(peers,))
    await walled.driver.apply(replace(lan, groups=(group("front", port(3)),)))
    with ExitStack() as stack:
        with_services(stack, walled.guest(port(2, "f1")))
        third, fourth = (walled.guest(one) for one in (port(3), port(4)))
        for address in ("10.0.0.2", "fd00::2"):
            assert reaches(third, address)
            assert seen_as(fourth, address) is None
        await walled.driver.apply(replace(lan, groups=(group("front", port(4)),)))
        for address in ("10.0.0.2", "fd00::2"):
            assert reaches(fourth, address)
            assert seen_as(third, address) is None
        await walled.driver.apply(replace(lan, groups=(group("front"),)))
        assert seen_as(fourth, "10.0.0.2") is None


@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.ROUTED])
async def test_what_is_routed_obeys_as_what_is_bridged(walled: Walled, mode: NetworkMode) -> None:
    """Forwards of NAT; a routed network's own addresses."""
    lan = replace(web(), mode=mode, ports=(port(2, "f1", forwards=FORWARDS if mode is NetworkMode.NAT else ()),))
    await walled.driver.apply(lan)
    open_ = replace(lan, firewalls=(firewall(),))
    with ExitStack() as stack:
        with_services(stack, walled.guest(port(2, "f1")))
        outside = walled.host.outside
        if mode is NetworkMode.NAT:
            targets = [(HOST_IPV4, 8080, OTHER_PORT), (HOST_IPV6, 8080, OTHER_PORT)]
        else:
            outside.ip("-4", "route", "add", "10.0.0.0/24", "via", HOST_IPV4)
            outside.ip("-6", "route", "add", "fd00::/64", "via", HOST_IPV6)
            targets = [("10.0.0.2", PORT, OTHER_PORT), ("fd00::2", PORT, OTHER_PORT)]
        for address, let_in, kept_out in targets:
            assert reaches(outside, address, let_in) in (OUTSIDE_IPV4, OUTSIDE_IPV6)
            assert seen_as(outside, address, kept_out) is None
        await walled.driver.apply(open_)
        for address, _, kept_out in targets:
            assert reaches(outside, address, kept_out)


async def test_a_guest_whose_addresses_are_others_business_is_behind_its_firewall_all_the_same(walled: Walled) -> None:
    """On a bridge of the host, where we know no address of anybody: the tap says whose a frame is."""
    machine = walled.host.machine
    machine.ip("link", "add", HOST_BRIDGE, "type", "bridge", "mcast_snooping", "0")
    machine.ip("link", "set", HOST_BRIDGE, "up")
    machine.ip("address", "add", "192.0.2.1/24", "dev", HOST_BRIDGE)
    guarded = replace(port(2, "f1"), addresses=())
    lan = network(guarded, firewalls=(firewall(WEB, rule(EGRESS, DENY, protocol=UDP), ingress=DENY),))
    lan = replace(lan, mode=NetworkMode.BRIDGE, host_bridge=HOST_BRIDGE, ipv4=None, ipv6=None, domain="")
    await walled.driver.apply(lan)
    with ExitStack() as stack:
        guest = walled.host.guest(walled.router().path, guarded.mac, "192.0.2.2/24", port=tap_name(guarded))
        for at in (guest, machine):
            with_services(stack, at)
        assert reaches(machine, "192.0.2.2") == "192.0.2.1"
        assert seen_as(machine, "192.0.2.2", OTHER_PORT) is None
        assert reaches(guest, "192.0.2.1", OTHER_PORT) == "192.0.2.2"
        assert seen_as(guest, "192.0.2.1", udp=True) is None
        eventually(lambda: is_open(machine, f"{LINK_LOCAL}%{HOST_BRIDGE}", PORT))  # it is looked for twice at first
        assert not is_open(machine, f"{LINK_LOCAL}%{HOST_BRIDGE}", OTHER_PORT)
        assert seen_as(machine, "192.0.2.255", udp=True) is None


async def test_a_machine_that_is_denied_is_so_under_each_of_its_addresses(walled: Walled) -> None:
    denied = firewall(rule(INGRESS, DENY, "@front"))
    ports = port(2, "f1"), port(3), port(4)
    lan = replace(network(*ports, firewalls=(denied,)), groups=(group("front", port(3)),))
    await walled.driver.apply(lan)
    with ExitStack() as stack:
        with_services(stack, walled.guest(port(2, "f1")))
        third, fourth = walled.guest(port(3)), walled.guest(port(4))
        eventually(lambda: is_open(fourth, f"{LINK_LOCAL}%eth0", PORT))
        assert not is_open(third, f"{LINK_LOCAL}%eth0", PORT)
        third.ip("address", "add", "fe80::1234/64", "dev", "eth0", "nodad")
        third.ip("address", "del", "fe80::5054:1ff:fe00:3/64", "dev", "eth0")
        assert not is_open(third, f"{LINK_LOCAL}%eth0", PORT)
        assert reaches(fourth, "fd00::2")
        assert seen_as(third, "fd00::2") is None


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
async def test_a_connection_goes_on_while_rules_let_it_through_and_ends_when_they_do_not(
    walled: Walled, address: str
) -> None:
    opened = rule(INGRESS, ALLOW, protocol=TCP, ports=((8000, 8000),))
    before = web(firewall(opened, ingress=DENY, name="f0"))
    lan = replace(before, ports=(port(2, "f0"), port(3)))
    await walled.driver.apply(lan)
    second, third = walled.guest(port(2)), walled.guest(port(3))
    third.reaches("10.0.0.1")
    with connection(third, second, address) as held:
        assert held.carries()
        still = firewall(WEB, opened, rule(EGRESS, DENY, protocol=UDP), ingress=DENY, egress=DENY, name="f2")
        await walled.driver.apply(replace(lan, firewalls=(still,), ports=(port(2, "f2"), port(3))))
        assert held.carries()
        await walled.driver.apply(replace(lan, ports=(port(2, "f1"), port(3))))
        # Neither does it begin anew by what the server sends: the rules would let that out.
        assert not held.carries()
        held.server.send(b"!")
        assert not held.carries()


async def test_a_connection_that_came_in_by_a_forward_ends_with_its_permission(walled: Walled) -> None:
    forwarded = port(2, "f1", forwards=(PortForward(ForwardProtocol.TCP, 8000, 8000),))
    lan = network(forwarded, firewalls=(firewall(),))
    await walled.driver.apply(lan)
    guest = walled.guest(forwarded)
    guest.reaches("10.0.0.1")
    with ExitStack() as stack:
        stack.enter_context(service(guest, 8000))
        client = walled.host.outside
        assert reaches(client, HOST_IPV4, 8000)
        flows = [line for line in conntrack(walled) if "dport=8000" in line]
        assert flows
        await walled.driver.apply(
            replace(
                lan, firewalls=(firewall(WEB, ingress=DENY, name="f2"),), ports=(replace(forwarded, firewall="f2"),)
            )
        )
        assert [line for line in conntrack(walled) if "dport=8000" in line] == []
        assert seen_as(client, HOST_IPV4, 8000) is None


async def test_flows_that_an_agent_left_before_it_ended_them_are_ended_by_the_next(walled: Walled) -> None:
    lan = web(firewall(name="f0"))
    await walled.driver.apply(replace(lan, ports=(port(2, "f0"), port(3))))
    second, third = walled.guest(port(2)), walled.guest(port(3))
    third.reaches("10.0.0.1")
    with connection(third, second, "10.0.0.2") as held:
        assert held.carries()
        async with walled.another_driver() as next_:
            await next_.apply(replace(lan, ports=(port(2, "f0"), port(3))))
            assert held.carries()
        async with walled.another_driver() as next_:
            await next_.apply(lan)
            assert not held.carries()


async def test_a_guest_that_may_do_nothing_has_its_address_and_names_of_the_router(walled: Walled) -> None:
    await walled.driver.apply(network(port(2, "f1"), port(3), firewalls=(firewall(ingress=DENY, egress=DENY),)))
    second = walled.guest(port(2, "f1"))
    for server in ("10.0.0.1", "fd00::1"):
        assert answer(second, "vm3.test", server=server).answers == ("10.0.0.3",)
    lease = second.inside(lambda: dhcp.exchange(port(2).mac))
    assert lease is not None
    assert str(lease.address) == "10.0.0.2"
    lease6 = second.inside(lambda: dhcp.exchange6(port(2).mac))
    assert lease6 is not None
    assert not second.pings("10.0.0.1")
    link = second.ip("neighbour", "show")
    assert {one["dst"] for one in link if "lladdr" in one} >= {"10.0.0.1", "fd00::1"}


async def test_a_network_without_a_firewall_pays_nothing_beside_one_that_has(walled: Walled) -> None:
    bare = replace(network(port(2), port(3)), uid="bare")
    await walled.driver.apply(bare)
    await walled.driver.apply(web())
    assert [walled.router("bare").sysctl(name) for name in SYSCTLS] == ["0", "0"]
    assert [walled.router().sysctl(name) for name in SYSCTLS] == ["1", "1"]
    with ExitStack() as stack:
        with_services(stack, walled.guest(port(2), "bare"))
        with_services(stack, walled.guest(port(2, "f1")))
        assert reaches(walled.guest(port(3), "bare"), "10.0.0.2", OTHER_PORT)
        third = walled.guest(port(3))
        assert reaches(third, "10.0.0.2")
        assert seen_as(third, "10.0.0.2", OTHER_PORT) is None
        await walled.driver.apply(replace(web(), ports=(port(2), port(3))))
        assert [walled.router().sysctl(name) for name in SYSCTLS] == ["0", "0"]
        assert "firewall" not in walled.router().run("nft", "list", "ruleset")
        assert reaches(third, "10.0.0.2", OTHER_PORT)


async def test_a_flush_of_the_hosts_rules_disarms_nothing(walled: Walled) -> None:
    await walled.driver.apply(web())
    with ExitStack() as stack:
        with_services(stack, walled.guest(port(2, "f1")))
        third = walled.guest(port(3))
        assert reaches(third, "10.0.0.2")
        walled.host.machine.run("nft", "flush", "ruleset")
        assert seen_as(third, "10.0.0.2", OTHER_PORT) is None
        assert reaches(third, "10.0.0.2")


async def test_a_setting_or_rule_that_somebody_changed_in_the_router_is_put_back(walled: Walled) -> None:
    await walled.driver.apply(web())
    with ExitStack() as stack:
        with_services(stack, walled.guest(port(2, "f1")))
        third = walled.guest(port(3))
        assert reaches(third, "10.0.0.2")
        walled.router().run("nft", "flush", "chain", "bridge", "virtplane", "firewall_postrouting")
        for name in SYSCTLS:
            walled.router().set_sysctl(name, 0)
        assert reaches(third, "10.0.0.2", OTHER_PORT)
        await walled.driver.apply(web())
        assert seen_as(third, "10.0.0.2", OTHER_PORT) is None
        assert reaches(third, "10.0.0.2")


def is_open(client: Namespace, address: str, number: int) -> bool:
    """Of TCP; the address may name a link."""

    def connected() -> bool:
        try:
            socket.create_connection((address, number), timeout=0.5).close()
        except OSError:
            return False
        return True

    return client.inside(connected)


def conntrack(walled: Walled) -> list[str]:
    return walled.router().run("conntrack", "-L").splitlines()


async def test_a_guest_that_nobody_describes_any_more_stays_behind_its_firewall(walled: Walled) -> None:
    described = web()
    await walled.driver.apply(described)
    held, _ = described.ports
    attachment = await walled.driver.attachment(described, held)
    assert isinstance(attachment, TapAttachment)
    (tap,) = await asyncio.to_thread(open_tap, attachment, 1)
    try:
        # As the agent starts anew: what it was behind is known by the record alone.
        async with walled.another_driver() as driver:
            await driver.apply(network(port(3)))
            ways = walled.router().run("nft", "list", "map", "bridge", ROUTER_TABLE, "ingress")
            assert f'"{tap_name(held)}" : goto ingress_f1' in ways
            assert "dport 80 accept" in walled.router().run(
                "nft", "list", "chain", "bridge", ROUTER_TABLE, "ingress_f1"
            )
    finally:
        os.close(tap)
    await walled.driver.apply(network(port(3)))
    assert "ingress_f1" not in walled.router().run("nft", "list", "ruleset")
