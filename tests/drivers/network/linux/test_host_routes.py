"""Which routes of a host a network's addresses hide: a table."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.drivers.network.linux.networks import network
from tests.drivers.network.numbered import subnet
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.host.network_stack import Link, StackRoute
from virtplane_drivers.network.contract import Route
from virtplane_drivers.network.linux.host_routes import hidden_finding, hidden_routes, overlapping_routes
from virtplane_drivers.network.linux.names import host_link_alias


def link(index: int, name: str, alias: str = "") -> Link:
    return Link(index, name, kind="veth", mac="", mtu=1500, up=True, alias=alias)


OWN = link(7, "vown", host_link_alias("a", "own"))
LINKS = {2: link(2, "eth0"), 8: link(8, "vother", host_link_alias("b", "other"))}


def route(destination: str, gateway: str = "", link: int = 2, table: int = 254) -> StackRoute:
    return StackRoute(link, ip_network(destination), ip_address(gateway) if gateway else None, table)


TABLE = {
    "the same": (route("10.77.0.0/24"), True),
    "the same, by a router": (route("10.77.0.0/24", "192.0.2.1"), True),
    "inside": (route("10.77.0.64/26", "192.0.2.1"), True),
    "one address inside": (route("10.77.0.9/32", "192.0.2.1"), True),
    "around, to neighbours": (route("10.0.0.0/8"), True),
    "around, by a router": (route("10.0.0.0/8", "192.0.2.1"), False),
    "beside": (route("10.77.1.0/24"), False),
    "default": (route("0.0.0.0/0", "192.0.2.1"), False),
    "default by a device alone": (route("0.0.0.0/0"), False),
    "IPv6, the same": (route("fd77::/64"), True),
    "IPv6, inside": (route("fd77::10/124", "2001:db8::1"), True),
    "IPv6, around": (route("fd00::/8", "2001:db8::1"), False),
    "link-local": (route("fe80::/64"), False),
    "behind a machine": (route("192.168.50.0/24"), True),
    "another table": (route("10.77.0.0/24", table=100), True),
    "its own": (route("10.77.0.0/24", "169.254.64.1", link=7), False),
}


@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.ROUTED])
@pytest.mark.parametrize(("one", "hidden"), TABLE.values(), ids=list(TABLE))
def test_a_route_is_hidden_if_the_networks_addresses_take_its_place(
    one: StackRoute, mode: NetworkMode, *, hidden: bool
) -> None:
    green = network(mode, routes=(Route(ip_network("192.168.50.0/24"), ip_address("10.77.0.5")),))
    assert overlapping_routes(green, OWN, [one]) == ([one] if hidden else [])
    assert hidden_routes(green, [one], LINKS) == [one]


def test_other_networks_of_ours_count_for_mode_routed_alone() -> None:
    other = route("10.77.0.0/24", "169.254.64.9", link=8)
    assert hidden_routes(network(NetworkMode.NAT), [other], LINKS) == []
    assert hidden_routes(network(NetworkMode.ROUTED), [other], LINKS) == [other]


def test_a_person_is_told_route_device_and_table_and_not_of_a_hundred() -> None:
    hidden = [route("10.77.0.0/24"), *(route(f"10.77.0.{last}/32", table=77) for last in range(4))]
    message = hidden_finding(network(NetworkMode.NAT), hidden, LINKS).message
    assert "10.77.0.0/24 by eth0 (table main), 10.77.0.0/32 by eth0 (table 77)" in message
    assert message.count("eth0") == 3
    assert "2 more" in message


def test_a_network_of_one_family_hides_none_of_the_other() -> None:
    green = replace(network(NetworkMode.NAT), ipv4=subnet("10.77.0.0/24", "10.77.0.1"), ipv6=None)
    assert overlapping_routes(green, OWN, [route("fd77::/64")]) == []
