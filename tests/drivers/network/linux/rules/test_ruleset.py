"""Rules as tables: what is written, and what is changed. Nothing runs here."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.drivers.network.linux.rules.routers import HOST_ADDRESSES, transit
from tests.drivers.network.numbered import network, port
from virtplane_api.vocabulary import ForwardProtocol, NetworkMode
from virtplane_drivers.network.contract import PortForward
from virtplane_drivers.network.linux.eui64 import link_local
from virtplane_drivers.network.linux.names import host_link, router_mac, tap_name
from virtplane_drivers.network.linux.rules.host import host_ruleset
from virtplane_drivers.network.linux.rules.router import router_ruleset
from virtplane_drivers.network.linux.rules.ruleset import Ruleset, changes, whole

ONE, TWO = network("one", port(2), port(3)), network("one", port(2), port(3), port(4))
FORWARD = PortForward(ForwardProtocol.UDP, 5353, 53)


def router(one: object, *, number: int | None = 0) -> Ruleset:
    assert isinstance(one, type(ONE))
    return router_ruleset(one, None if number is None else transit(number), HOST_ADDRESSES)


def elements(ruleset: Ruleset, family: str, name: str) -> frozenset[str]:
    (found,) = [one for table in ruleset if table.family == family for one in table.sets if one.name == name]
    return found.elements


def chain(ruleset: Ruleset, family: str, name: str) -> tuple[str, ...]:
    found = [one.rules for table in ruleset if table.family == family for one in table.chains if one.name == name]
    return found[0] if found else ()


def test_nothing_is_written_where_nothing_has_changed() -> None:
    assert changes(router(ONE), router(network("one", port(2), port(3)))) == ""


@pytest.mark.parametrize(("old", "new", "verb"), [(ONE, TWO, "add"), (TWO, ONE, "delete")], ids=["more", "less"])
def test_a_machine_more_or_less_changes_elements_only(old: object, new: object, verb: str) -> None:
    lines = changes(router(old), router(new)).splitlines()
    assert lines
    assert {line.split()[0] for line in lines} == {verb}
    assert all(tap_name(port(4)) in line or "taken" in line for line in lines)
    assert not any(tap_name(port(2)) in line for line in lines)


def test_an_address_that_moves_is_taken_away_before_it_is_given() -> None:
    moved = replace(ONE, ports=(replace(port(2), addresses=port(3).addresses), replace(port(3), addresses=())))
    lines = [line for line in changes(router(ONE), router(moved)).splitlines() if " port_ipv4 " in line]
    assert [line.split()[0] for line in lines] == ["delete", "add"]


@pytest.mark.parametrize(
    "other",
    [
        replace(ONE, mode=NetworkMode.ROUTED),
        replace(ONE, ports=(port(2, forwards=(FORWARD,)), port(3))),
        replace(ONE, ipv4=None, ipv6=None),
    ],
    ids=["mode", "forward", "families"],
)
def test_any_other_change_replaces_all_at_once(other: object) -> None:
    if isinstance(other, type(ONE)) and not other.subnets:
        assert changes(router(ONE), router(other)) == whole(router(other))
    assert changes(router(ONE), router(other)).startswith("table bridge virtplane\ndelete table bridge virtplane\n")


@pytest.mark.parametrize(
    ("mode", "has_transit", "masquerades", "from_host"),
    [
        (NetworkMode.NAT, True, True, False),
        (NetworkMode.ROUTED, True, False, True),
        (NetworkMode.ISOLATED, False, False, False),
        (NetworkMode.BRIDGE, False, False, False),
    ],
)
def test_only_nat_masquerades_and_only_a_routed_network_is_reached(
    mode: NetworkMode, *, has_transit: bool, masquerades: bool, from_host: bool
) -> None:
    rules = router(replace(ONE, mode=mode), number=0 if has_transit else None)
    assert any("masquerade" in rule for rule in chain(rules, "inet", "postrouting")) is masquerades
    forward = chain(rules, "inet", "forward")
    assert ('iifname "uplink" oifname "br0" accept' in forward) is from_host
    assert any("uplink" in rule for rule in forward) is has_transit
    assert ('iifname "uplink" accept' in chain(rules, "bridge", "prerouting")) is (mode is NetworkMode.BRIDGE)


def test_neither_the_gateways_addresses_nor_the_routers_mac_are_ever_a_ports() -> None:
    greedy = port(2, addresses=("10.0.0.1", "fd00::1"))
    stolen = replace(port(3), mac=router_mac("one"))
    rules = router(replace(ONE, ports=(greedy, stolen)))
    written = [text for table in rules for one in table.sets for text in one.elements]
    assert not any(text.endswith((" . 10.0.0.1", " . fd00::1")) for text in written)
    assert not any(tap_name(stolen) in text for text in written)
    assert str(link_local(router_mac("one"))) in elements(rules, "bridge", "taken")


def test_addresses_of_the_host_are_refused_and_so_are_whole_networks() -> None:
    extra = ip_network("100.64.0.0/16")
    rules = router_ruleset(ONE, transit(0), [ip_address("192.0.2.7"), extra])
    assert {"192.0.2.7/32", "100.64.0.0/16", "127.0.0.0/8", "169.254.0.0/16"} <= elements(rules, "inet", "refused_ipv4")


def test_a_host_port_that_two_ask_for_is_the_firsts() -> None:
    """The operator claims them; two would be refused by nft, and with them all the rest."""
    both = replace(ONE, ports=(port(2, forwards=(FORWARD,)), port(3, forwards=(FORWARD,))))
    assert elements(router(both), "inet", "forward_ipv4") == {"udp . 5353 : 10.0.0.2 . 53"}
    other = replace(both, uid="two")
    rules = host_ruleset("test", {"two": (other, transit(1)), "one": (both, transit(0))})
    assert elements(rules, "inet", "forward_ipv4") == {f"udp . 5353 : {transit(0).router_ipv4}"}


def test_the_hosts_table_has_the_links_of_all_networks_and_masquerades_those_of_nat() -> None:
    routed = replace(ONE, uid="routed", mode=NetworkMode.ROUTED)
    rules = host_ruleset("test", {"one": (ONE, transit(0)), "routed": (routed, transit(1))})
    assert elements(rules, "inet", "link") == {f'"{host_link("one")}"', f'"{host_link("routed")}"'}
    assert elements(rules, "inet", "nat_link") == {f'"{host_link("one")}"'}


@pytest.mark.parametrize(
    ("mac", "address"),
    [("52:54:00:12:34:56", "fe80::5054:ff:fe12:3456"), ("00:00:5e:00:53:01", "fe80::200:5eff:fe00:5301")],
)
def test_a_link_local_address_is_the_mac_with_its_local_bit_turned(mac: str, address: str) -> None:
    assert str(link_local(mac)) == address
