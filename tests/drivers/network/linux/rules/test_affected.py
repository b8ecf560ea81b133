"""Whose flows are judged again after which change."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.drivers.network.linux.firewalled import DENY, firewall, group, network
from tests.drivers.network.numbered import port
from virtplane_drivers.network.contract import Network, Route
from virtplane_drivers.network.linux.rules.affected import EVERYBODY, affected

BEFORE = network(port(2, "f1"), port(3), firewalls=(firewall(),))


def named(before: Network, now: Network) -> set[str] | None:
    """Whose, of the addresses of machines; a made-up link-local one is anybody's."""
    found = affected(before, now)
    if found is None:
        return None
    assert ip_address("fe80::1234").packed in found
    asked = ("10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::2", "fd00::3", "fd00::4", "192.0.2.1")
    return {address for address in asked if ip_address(address).packed in found}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ports": (port(2, "f1"), port(3), port(4, "f1"))},
        {"ports": (port(2, "f1"),)},
        {"mtu": 1400},
    ],
    ids=["nothing", "a port more", "a port less", "its MTU"],
)
def test_what_ends_no_flow_is_no_reason_to_look_at_any(change: dict[str, object]) -> None:
    assert named(BEFORE, replace(BEFORE, **change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ports": (port(2), port(3))}, {"10.0.0.2", "fd00::2"}),
        ({"ports": (port(2, "f1"), port(3, "f1"))}, {"10.0.0.3", "fd00::3"}),
        ({"firewalls": (firewall(ingress=DENY),)}, {"10.0.0.2", "fd00::2"}),
        ({"groups": (group("front", port(3)),)}, {"10.0.0.3", "fd00::3"}),
    ],
    ids=["a firewall less", "a firewall more", "other rules", "one more in a group"],
)
def test_a_change_is_a_matter_of_those_it_is_about(change: dict[str, object], expected: set[str]) -> None:
    assert named(BEFORE, replace(BEFORE, **change)) == expected  # type: ignore[arg-type]


def test_of_a_group_only_who_joined_or_left_is_looked_at() -> None:
    before = replace(BEFORE, groups=(group("front", port(3), port(4)),))
    assert named(before, replace(before, groups=(group("front", port(3)),))) == {"10.0.0.4", "fd00::4"}


def test_who_joins_a_group_without_an_address_is_known_by_what_nobody_claims() -> None:
    before = replace(BEFORE, groups=(group("front", port(3)),))
    joined = replace(before, groups=(group("front", port(3), replace(port(4), addresses=())),))
    assert named(before, joined) == set()


def test_a_port_that_gets_an_address_and_a_firewall_at_once_is_looked_at_under_those_that_it_keeps() -> None:
    held = replace(port(3), addresses=port(3).addresses[:1])
    before = network(port(2, "f1"), held, firewalls=(firewall(),))
    now = replace(before, ports=(port(2, "f1"), port(3, "f1")))
    assert "10.0.0.3" in (named(before, now) or ())


def test_where_nobody_knows_who_has_which_address_all_flows_of_the_family_are_looked_at() -> None:
    alone = tuple(replace(one, addresses=one.addresses[:1]) for one in (port(2, "f1"), port(3)))
    before = replace(BEFORE, ipv6=None, ports=alone)
    now = replace(before, firewalls=(firewall(ingress=DENY),))
    assert named(before, now) == {"10.0.0.2", "fd00::2", "fd00::3", "fd00::4"}


def test_routes_and_subnets_are_everybody_s() -> None:
    behind = replace(BEFORE, routes=(Route(ip_network("10.9.0.0/16"), ip_address("10.0.0.3")),))
    assert affected(BEFORE, behind) == EVERYBODY
    assert affected(behind, replace(behind, firewalls=(firewall(ingress=DENY),))) == EVERYBODY
    assert affected(behind, replace(behind, mtu=1400)) is None
