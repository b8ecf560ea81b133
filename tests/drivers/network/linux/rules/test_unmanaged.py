"""Ports and families that the network does not manage, and taps that are nobody's."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.rules import frames as f
from tests.drivers.network.linux.rules.capture import capture, send
from tests.drivers.network.linux.rules.lies import A4, A6, A_LOCAL, A_MAC, B4, B6, B_MAC, FREE4, FREE6, OWN_4, OWN_6
from tests.drivers.network.linux.rules.routers import new_router
from tests.drivers.network.numbered import GATEWAY_IPV4, GATEWAY_IPV6, network, port
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Port, Route
from virtplane_drivers.network.linux.names import BRIDGE, UPLINK, router_mac
from virtplane_drivers.network.linux.rules import RouterRules

BARE = (port(2, addresses=()), port(3, addresses=()))
OTHER_4, OTHER_6 = f.datagram(FREE4, B4), f.datagram(FREE6, B6)
STP = f.frame(A_MAC, 38, bytes(38), "01:80:c2:00:00:00")


class Wire:
    """What passes between two guests."""

    def __init__(self, sender: Namespace, receiver: Namespace, link: str = "eth0") -> None:
        self.sender, self.receiver, self.link = sender, receiver, link

    def passes(self, *frames: bytes) -> None:
        with capture(self.receiver, self.link) as arrived:
            send(self.sender, *frames)
            for one in frames:
                arrived.wait_for(one)

    def stops(self, *lies: bytes, truth: bytes) -> None:
        with capture(self.receiver, self.link) as arrived:
            send(self.sender, *lies, truth)
            arrived.wait_for(truth)
            assert [lie.hex() for lie in lies if arrived.saw(lie)] == []


def v4(packet: bytes) -> bytes:
    return f.frame(A_MAC, f.IPV4, packet)


def v6(packet: bytes) -> bytes:
    return f.frame(A_MAC, f.IPV6, packet)


async def wire(host: Host, *, ports: tuple[Port, ...] = BARE, ipv4: bool = False, ipv6: bool = False) -> Wire:
    """Two guests on a network that manages the families of which it is said so."""
    one = network("unmanaged", *ports, mode=NetworkMode.ISOLATED)
    one = replace(one, ipv4=one.ipv4 if ipv4 else None, ipv6=one.ipv6 if ipv6 else None)
    router = new_router(host, one, None)
    sender, receiver = (router.guest(each) for each in ports[:2])
    await RouterRules().apply(router.path, one, None, ())
    return Wire(sender, receiver)


async def test_where_no_family_is_managed_a_guest_takes_any_address_under_its_own_mac(host: Host) -> None:
    guests = await wire(host)
    probe = f.frame(A_MAC, f.ARP, f.arp(A_MAC, FREE4, B4))
    advert = v6(f.ipv6(FREE6, f.ALL_NODES, f.ICMPV6, f.discovery(f.ADVERT, FREE6, f.option(2, A_MAC))))
    other = f.frame(A_MAC, f.LOCAL_EXPERIMENT, bytes(46))
    guests.passes(v4(OTHER_4), v6(OTHER_6), probe, advert, other)


async def test_where_no_family_is_managed_the_mac_still_counts_and_nobody_is_a_server_or_a_router(host: Host) -> None:
    guests = await wire(host)
    guests.stops(
        f.frame(B_MAC, f.IPV4, OTHER_4),
        f.frame(A_MAC, f.ARP, f.arp(B_MAC, FREE4, B4)),
        f.frame(B_MAC, f.LOCAL_EXPERIMENT, bytes(46)),
        f.tagged(v4(OTHER_4), vlan=7),
        v4(f.datagram(FREE4, B4, 67, 68)),
        v6(f.datagram(A_LOCAL, B6, 547, 546)),
        v6(f.ipv6(A_LOCAL, f.ALL_NODES, f.ICMPV6, f.icmpv6(f.ROUTER_ADVERT, bytes(12)))),
        STP,
        truth=v4(OTHER_4),
    )


async def test_a_family_that_is_not_managed_is_free_and_the_other_is_not(host: Host) -> None:
    only_ipv4 = tuple(port(number, addresses=(f"10.0.0.{number}",)) for number in (2, 3))
    guests = await wire(host, ports=only_ipv4, ipv4=True)
    guests.passes(v6(OTHER_6), v4(OWN_4))
    guests.stops(v4(OTHER_4), f.frame(A_MAC, f.LOCAL_EXPERIMENT, bytes(46)), truth=v4(OWN_4))


async def test_a_port_without_an_address_of_a_managed_family_sends_nothing_of_it(host: Host) -> None:
    guests = await wire(host, ports=(port(2, addresses=(A6,)), port(3)), ipv4=True, ipv6=True)
    guests.stops(v4(OWN_4), v4(OTHER_4), v6(OTHER_6), truth=v6(OWN_6))


async def test_a_tap_without_an_entry_sends_nothing_and_hears_nothing(host: Host) -> None:
    one = network("managed", port(2), port(3), mode=NetworkMode.ISOLATED)
    router = new_router(host, one, None)
    known, unknown = router.guest(port(2)), router.guest(port(3))
    rules = RouterRules()
    await rules.apply(router.path, router.with_ports(port(2)), None, ())
    cry, answer = f.frame(A_MAC, f.IPV4, OWN_4), f.frame(B_MAC, f.IPV4, f.datagram(B4, A4))
    with capture(known) as at_known, capture(unknown) as at_unknown, capture(router.at, BRIDGE) as at_router:
        send(known, cry)
        send(unknown, answer)
        at_router.wait_for(cry)
        await rules.apply(router.path, router.with_ports(port(2), port(3)), None, ())
        later_cry, later_answer = f.frame(A_MAC, f.IPV4, OWN_4), f.frame(B_MAC, f.IPV4, f.datagram(B4, A4))
        send(known, later_cry)
        send(unknown, later_answer)
        at_unknown.wait_for(later_cry)
        at_known.wait_for(later_answer)
        assert not at_unknown.saw(cry)
        assert not at_known.saw(answer)


async def test_a_machine_that_leads_to_a_route_sends_from_behind_it_and_another_does_not(host: Host) -> None:
    one = network("routes", port(2), port(3), mode=NetworkMode.ISOLATED)
    behind_4, behind_6 = f.datagram("10.77.5.5", B4), f.datagram("fd77::5", B6)
    for via_4, via_6, passes in ((A4, A6, True), (B4, B6, False)):
        routes = (
            Route(ip_network("10.77.0.0/16"), ip_address(via_4)),
            Route(ip_network("fd77::/32"), ip_address(via_6)),
        )
        routed = replace(one, uid=f"routes-{via_4}", routes=routes)
        router = new_router(host, routed, None)
        guests = Wire(router.guest(port(2)), router.guest(port(3)))
        await RouterRules().apply(router.path, routed, None, ())
        if passes:
            guests.passes(v4(behind_4), v6(behind_6))
        guests.stops(v4(f.datagram("10.78.5.5", B4)), v6(f.datagram("fd78::5", B6)), truth=v4(OWN_4))
        if not passes:
            guests.stops(v4(behind_4), v6(behind_6), truth=v4(OWN_4))


async def test_what_comes_from_the_hosts_bridge_is_nobodys_lie_and_the_guests_are_still_held(host: Host) -> None:
    one = replace(network("bridged", *BARE, mode=NetworkMode.BRIDGE), ipv4=None, ipv6=None)
    router = new_router(host, one, None)
    guest, _ = (router.guest(each) for each in BARE)
    outside = host.new_namespace()
    outside.ip("link", "add", "eth0", "type", "veth", "peer", "name", UPLINK, "netns", str(router.path))
    router.at.ip("link", "set", UPLINK, "master", BRIDGE, "up")
    outside.ip("link", "set", "eth0", "up")
    await RouterRules().apply(router.path, one, None, ())
    Wire(outside, guest).passes(
        f.frame("52:54:09:00:00:09", f.IPV4, OTHER_4),
        f.frame("52:54:09:00:00:09", f.IPV4, f.datagram(FREE4, B4, 67, 68)),
        f.frame("52:54:09:00:00:09", f.IPV6, f.ipv6("fe80::1", f.ALL_NODES, f.ICMPV6, f.icmpv6(134, bytes(12)))),
    )
    Wire(guest, outside).stops(f.frame(B_MAC, f.IPV4, OTHER_4), STP, truth=v4(OTHER_4))


async def test_a_port_that_claims_the_gateways_address_or_the_routers_mac_has_neither(host: Host) -> None:
    greedy = port(2, addresses=(GATEWAY_IPV4, GATEWAY_IPV6))
    one = network("greedy", greedy, port(3), mode=NetworkMode.ISOLATED)
    router = new_router(host, one, None)
    guests = Wire(router.guest(greedy), router.guest(port(3)))
    await RouterRules().apply(router.path, one, None, ())
    of_gateway = v4(f.datagram(GATEWAY_IPV4, B4)), v6(f.datagram(GATEWAY_IPV6, B6))
    guests.stops(*of_gateway, f.frame(A_MAC, f.ARP, f.arp(A_MAC, GATEWAY_IPV4, B4)), truth=v6(f.datagram(A_LOCAL, B6)))
    same = replace(one, ports=(replace(port(2), mac=router_mac(one.uid)), port(3)))
    await RouterRules().apply(router.path, same, None, ())
    with capture(guests.receiver) as arrived:
        send(guests.sender, lie := f.frame(router_mac(one.uid), f.IPV4, OWN_4))
        send(router.at, truth := f.frame(router_mac(one.uid), f.IPV4, OWN_4), link=BRIDGE)
        arrived.wait_for(truth)
        assert not arrived.saw(lie)
