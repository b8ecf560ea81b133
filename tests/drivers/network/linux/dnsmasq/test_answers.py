"""What guests are told, by a real dnsmasq in a router's namespace."""

import socket
from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.drivers.network.linux.dnsmasq import dhcp_client as dhcp
from tests.drivers.network.linux.dnsmasq.forwarder import forwarder
from tests.drivers.network.linux.dnsmasq.networks import DB, MAC, OTHER_MAC, THIRD_MAC, WEB, addresses, port
from tests.drivers.network.linux.dnsmasq.served import (
    AAAA,
    NAME_ERROR,
    NO_ERROR,
    PTR,
    REFUSED,
    DnsReply,
    Served,
    answer,
    lease,
    reverse,
    without_router,
)
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import Refused
from virtplane_drivers.network.contract import Route
from virtplane_drivers.network.linux.links import apply_router

SILENCE_S = 0.7
"""Longer than a server that answers ever took; a client asks twice in it."""


async def test_a_guest_gets_its_address_and_all_that_it_needs_by_dhcp(served: Served) -> None:
    router = served.router()
    guest = served.guest(router)
    await served.names().apply(router.path, served.network(WEB))
    reply = lease(guest, MAC)
    assert (reply.type, str(reply.address)) == (dhcp.ACK, "10.20.0.9")
    assert reply.addresses(dhcp.MASK) == ["255.255.255.0"]
    assert reply.addresses(dhcp.ROUTER) == reply.addresses(dhcp.DNS) == reply.addresses(dhcp.SERVER) == ["10.20.0.1"]
    assert (reply.number(dhcp.MTU), reply.number(dhcp.LEASE_S)) == (1400, 3600)
    assert (reply.text(dhcp.HOSTNAME), reply.text(dhcp.DOMAIN)) == ("web", "shop.test")
    assert reply.options[dhcp.SEARCH] == b"\x04shop\x04test\0"
    assert reply.routes == []


async def test_an_offer_goes_to_the_guests_hardware_address_alone(served: Served) -> None:
    router = served.router()
    guest = served.guest(router)
    await served.names().apply(router.path, served.network(WEB))
    frame = guest.inside(lambda: dhcp.unicast_offer(MAC))
    assert frame[:6].hex(":") == MAC


async def test_an_unknown_guest_gets_no_answer(served: Served) -> None:
    router = served.router()
    guest = served.guest(router)
    await served.names().apply(router.path, served.network(WEB))
    assert guest.inside(lambda: dhcp.exchange(THIRD_MAC, timeout_s=SILENCE_S)) is None
    assert guest.inside(lambda: dhcp.exchange(MAC)) is not None


async def test_a_guest_gets_its_ipv6_address_by_dhcp_as_its_router_says_and_none_by_itself(served: Served) -> None:
    router = served.router()
    guest = served.guest(router)
    await served.names().apply(router.path, served.network(WEB))
    advertised = guest.inside(dhcp.advertised)
    assert advertised is not None
    assert (advertised.is_managed, advertised.lifetime_s, advertised.mtu) == (True, 1800, 1400)
    assert advertised.prefixes == {"fd00:20::/64": (True, False)}
    assert advertised.dns == ("fd00:20::1",)
    reply = guest.inside(lambda: dhcp.exchange6(MAC))
    assert reply is not None
    assert (reply.type, reply.addresses, reply.dns) == (dhcp.REPLY6, ("fd00:20::9",), ("fd00:20::1",))


async def test_an_unknown_guest_gets_no_answer_by_ipv6_either(served: Served) -> None:
    router = served.router()
    stranger, guest = served.guest(router, THIRD_MAC), served.guest(router)
    await served.names().apply(router.path, served.network(WEB))
    assert guest.inside(lambda: dhcp.exchange6(MAC)) is not None
    assert stranger.inside(lambda: dhcp.solicited6(THIRD_MAC, timeout_s=SILENCE_S)) is None


async def test_static_routes_and_the_default_route_come_together(served: Served) -> None:
    router = served.router()
    guest = served.guest(router)
    routes = (Route(ip_network("10.99.0.0/16"), addresses("10.20.0.5")[0]),)
    await served.names().apply(router.path, served.network(WEB, routes=routes))
    reply = lease(guest, MAC)
    assert reply.routes == [("0.0.0.0/0", "10.20.0.1"), ("10.99.0.0/16", "10.20.0.5")]


async def test_an_isolated_network_has_names_and_addresses_and_no_way_out(served: Served) -> None:
    router = served.router()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    one = served.network(WEB, mode=NetworkMode.ISOLATED)
    assert await served.names().apply(router.path, one) == []
    reply, advertised = guest.inside(lambda: dhcp.exchange(MAC)), guest.inside(dhcp.advertised)
    assert reply is not None
    assert advertised is not None
    assert dhcp.ROUTER not in reply.options
    assert advertised.lifetime_s == 0
    assert answer(guest, "web.shop.test").answers == ("10.20.0.9",)


async def test_without_a_router_guests_get_addresses_names_and_each_other(served: Served) -> None:
    router, one = served.host.new_namespace(), without_router(served.network(WEB))
    await apply_router(router.path, one)
    guest = served.guest(router)
    await served.names().apply(router.path, one)
    reply = lease(guest, MAC)
    assert str(reply.address) == "10.20.0.9"
    assert dhcp.ROUTER not in reply.options
    assert reply.routes == [("169.254.0.53/32", "0.0.0.0")]  # noqa: S104
    guest.ip("address", "add", "10.20.0.9/24", "dev", "eth0")
    guest.ip("route", "add", "169.254.0.53/32", "dev", "eth0")
    assert guest.inside(lambda: dhcp.renewed(MAC, "10.20.0.9", "169.254.0.53")) is not None
    assert answer(guest, "web.shop.test", server="169.254.0.53").answers == ("10.20.0.9",)
    advertised, reply6 = guest.inside(dhcp.advertised), guest.inside(lambda: dhcp.exchange6(MAC))
    assert advertised is not None
    assert reply6 is not None
    assert (advertised.lifetime_s, advertised.prefixes) == (0, {"fd00:20::/64": (True, False)})
    assert reply6.addresses == ("fd00:20::9",)


# --- names ------------------------------------------------------------------------------------------------------------


async def test_machines_are_found_by_name_and_by_address_and_nothing_else_of_the_network_is(served: Served) -> None:
    router = served.router()
    guest = served.guest(router, MAC, "10.20.0.9/24", "fd00:20::9/64")
    await served.names().apply(router.path, served.network(WEB, DB))

    def ask(name: str, type_: int = 1) -> DnsReply:
        return answer(guest, name, type_)

    assert ask("db.shop.test") == DnsReply(NO_ERROR, ("10.20.0.10",))
    assert ask("db") == DnsReply(NO_ERROR, ("10.20.0.10",))
    assert ask("db.shop.test", AAAA) == DnsReply(NO_ERROR, ("fd00:20::a",))
    assert ask(reverse("10.20.0.10"), PTR) == DnsReply(NO_ERROR, ("db.shop.test",))
    assert ask(reverse("fd00:20::a"), PTR) == DnsReply(NO_ERROR, ("db.shop.test",))
    assert ask("nobody.shop.test") == DnsReply(NAME_ERROR, ())
    assert ask(reverse("10.20.0.77"), PTR) == DnsReply(NAME_ERROR, ())
    assert answer(guest, "db.shop.test", server="fd00:20::1") == DnsReply(NO_ERROR, ("10.20.0.10",))


async def test_names_of_the_outside_are_asked_for_there_and_those_of_the_network_never(served: Served) -> None:
    router = served.router()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    router.ip("link", "add", "uplink", "type", "veth", "peer", "name", "eth1", "netns", str(served.host.outside.path))
    for namespace, link, address in (
        (router, "uplink", "192.0.2.1/24"),
        (served.host.outside, "eth1", "192.0.2.53/24"),
    ):
        namespace.ip("link", "set", link, "up")
        namespace.ip("address", "add", address, "dev", link)
    names = served.names(resolv_conf="nameserver 192.0.2.53\n")
    with forwarder(served.host.outside, "192.0.2.53", answer="198.51.100.7") as questions:
        assert await names.apply(router.path, served.network(WEB)) == []
        assert answer(guest, "www.example.org").answers == ("198.51.100.7",)
        for name in ("nobody.shop.test", "nobody", reverse("10.20.0.77")):
            assert answer(guest, name).code in (NAME_ERROR, NO_ERROR, REFUSED)
        assert [question[:5] for question in questions] == [b"\x03www\x07"]


async def test_without_a_server_outside_its_names_are_refused_at_once_and_that_is_found(served: Served) -> None:
    router = served.router()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    found = await served.names(resolv_conf="nameserver 127.0.0.53\n").apply(router.path, served.network(WEB))
    assert [finding.reason for finding in found] == ["NoUpstreamDNS"]
    assert answer(guest, "www.example.org") == DnsReply(REFUSED, ())
    assert answer(guest, "web.shop.test").answers == ("10.20.0.9",)


async def test_the_outside_is_not_answered(served: Served) -> None:
    router = served.router()
    router.ip("link", "add", "uplink", "type", "veth", "peer", "name", "eth1", "netns", str(served.host.machine.path))
    for namespace, link, address in ((router, "uplink", "192.0.2.1/24"), (served.host.machine, "eth1", "192.0.2.2/24")):
        namespace.ip("link", "set", link, "up")
        namespace.ip("address", "add", address, "dev", link)
    served.host.machine.ip("route", "add", "10.20.0.0/24", "via", "192.0.2.1")
    guest = served.guest(router, MAC, "10.20.0.9/24")
    await served.names().apply(router.path, served.network(WEB))
    served.host.machine.reaches("10.20.0.1")
    for server in ("192.0.2.1", "10.20.0.1"):
        with pytest.raises(TimeoutError):
            answer(served.host.machine, "web.shop.test", timeout_s=SILENCE_S, server=server)
    assert answer(guest, "web.shop.test").answers == ("10.20.0.9",)


async def test_a_guest_that_calls_itself_as_another_takes_no_name(served: Served) -> None:
    router = served.router()
    guest = served.guest(router, OTHER_MAC, "10.20.0.10/24")
    await served.names().apply(router.path, served.network(WEB, replace(DB, machine_name="db.one")))
    for claimed in ("web", "gateway"):
        lease(guest, OTHER_MAC, hostname=claimed)
    assert answer(guest, "web.shop.test").answers == ("10.20.0.9",)
    assert answer(guest, "gateway.shop.test").code == NAME_ERROR


@pytest.mark.parametrize("name", ["ignore", "infinite", "1h", "3600"])
async def test_a_machine_whose_name_is_an_order_of_dnsmasq_is_served_as_any_other(served: Served, name: str) -> None:
    router = served.router()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    await served.names().apply(router.path, served.network(port(MAC, name, "10.20.0.9")))
    reply = lease(guest, MAC)
    assert (str(reply.address), reply.number(dhcp.LEASE_S)) == ("10.20.0.9", 3600)
    assert reply.text(dhcp.HOSTNAME) == name
    assert answer(guest, f"{name}.shop.test").answers == ("10.20.0.9",)


async def test_a_hostile_value_starts_nothing_and_leaves_what_runs(served: Served) -> None:
    router, names = served.router(), served.names()
    with pytest.raises(Refused):
        await names.apply(router.path, served.network(port(MAC, "a\nserver=192.0.2.1", "10.20.0.9")))
    assert served.pids() == []
    await names.apply(router.path, served.network(WEB))
    pid = served.pid()
    with pytest.raises(Refused):
        await names.apply(router.path, served.network(replace(WEB, mac="52:54:00:00:00:01,ignore")))
    assert served.pid() == pid


async def test_two_networks_with_the_same_addresses_are_served_at_once_each_for_itself(served: Served) -> None:
    names = served.names()
    routers = {uid: served.router() for uid in ("a", "b")}
    for uid, name in (("a", "red"), ("b", "blue")):
        one = served.network(port(MAC, name, "10.20.0.9"), uid=uid, domain=f"{name}.test")
        await names.apply(routers[uid].path, one)
    for uid, name, other in (("a", "red", "blue"), ("b", "blue", "red")):
        guest = served.guest(routers[uid], MAC, "10.20.0.9/24")
        reply = lease(guest, MAC)
        assert reply.text(dhcp.HOSTNAME) == name
        assert answer(guest, f"{name}.{name}.test").answers == ("10.20.0.9",)
        assert answer(guest, f"{other}.{other}.test").code == REFUSED
    assert served.pid("a") != served.pid("b")


async def test_a_long_list_of_routes_is_told_whole(served: Served) -> None:
    router = served.router()
    guest = served.guest(router)
    routes = tuple(Route(ip_network(f"10.{100 + n}.{n}.128/25"), addresses("10.20.0.5")[0]) for n in range(16))
    await served.names().apply(router.path, served.network(WEB, routes=routes))
    reply = lease(guest, MAC)
    assert reply.routes == [("0.0.0.0/0", "10.20.0.1"), *((str(r.destination), "10.20.0.5") for r in routes)]


async def test_a_guest_asks_by_tcp_too(served: Served) -> None:
    router = served.router()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    await served.names().apply(router.path, served.network(WEB))

    def by_tcp() -> bytes:
        question = b"\x03web\x04shop\x04test\0\0\x01\0\x01"
        message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + question
        with socket.create_connection(("10.20.0.1", 53), timeout=5.0) as client:
            client.sendall(len(message).to_bytes(2) + message)
            return client.recv(512)

    assert guest.inside(by_tcp)[-4:] == bytes([10, 20, 0, 9])
