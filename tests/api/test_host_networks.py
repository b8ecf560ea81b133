"""What of a host its networks may have: the rule, and how it stands in a Hypervisor's status."""

from ipaddress import ip_network

import pytest

from virtplane_api.host_networks import (
    GivenNetwork,
    HostNetwork,
    VlanRange,
    gives,
    host_networks_json,
    host_networks_of,
    routed_json,
    routed_of,
    routes,
    why_missing,
)

GIVEN = (
    GivenNetwork("br-lan"),
    GivenNetwork("br-dmz", VlanRange(100, 199)),
    GivenNetwork("br-dmz", VlanRange(20, 20)),
    GivenNetwork("br-all", VlanRange(1, 4094)),
    GivenNetwork("br-all"),
)
ROUTED = (ip_network("10.22.0.0/25"), ip_network("10.22.0.128/25"), ip_network("fd00:22::/48"))


@pytest.mark.parametrize(
    ("asked", "is_given"),
    [
        (HostNetwork("br-lan"), True),
        (HostNetwork("br-lan", 20), False),
        (HostNetwork("br-dmz"), False),
        (HostNetwork("br-dmz", 20), True),
        (HostNetwork("br-dmz", 99), False),
        (HostNetwork("br-dmz", 100), True),
        (HostNetwork("br-dmz", 199), True),
        (HostNetwork("br-dmz", 200), False),
        (HostNetwork("br-all"), True),
        (HostNetwork("br-all", 4094), True),
        (HostNetwork("br"), False),
    ],
    ids=str,
)
def test_a_host_network_is_given_untagged_or_by_vlan(asked: HostNetwork, *, is_given: bool) -> None:
    assert gives(GIVEN, asked) is is_given
    assert not gives((), asked)
    assert gives(None, asked), "nobody knows, so nobody is held up"


@pytest.mark.parametrize(
    ("cidr", "is_routed"),
    [
        ("10.22.0.0/25", True),
        ("10.22.0.64/26", True),
        ("10.22.0.0/24", False),  # by two ranges, neither of which holds it
        ("10.22.1.0/26", False),
        ("fd00:22::/64", True),
        ("fd00:23::/64", False),
        ("::/64", False),
    ],
)
def test_addresses_are_routed_where_one_range_holds_them_all(cidr: str, *, is_routed: bool) -> None:
    assert routes(ROUTED, ip_network(cidr)) is is_routed
    assert not routes((), ip_network(cidr))
    assert routes(None, ip_network(cidr))


def test_what_is_reported_is_what_is_read_and_the_same_in_any_order() -> None:
    rows, cidrs = host_networks_json(GIVEN), routed_json(ROUTED)
    assert rows[:3] == [
        {"name": "br-all"},
        {"name": "br-all", "vlans": {"first": 1, "last": 4094}},
        {"name": "br-dmz", "vlans": {"first": 20, "last": 20}},
    ]
    assert rows == host_networks_json([*reversed(GIVEN), GIVEN[0]])
    assert cidrs == routed_json([*reversed(ROUTED), ROUTED[0]]) == ["10.22.0.0/25", "10.22.0.128/25", "fd00:22::/48"]
    status = {"hostNetworks": rows, "routedCIDRs": cidrs}
    assert set(host_networks_of(status) or ()) == set(GIVEN)
    assert routed_of(status) == ROUTED


def test_what_an_agent_of_later_says_besides_is_passed_over() -> None:
    row = {"name": "br-dmz", "vlans": {"first": 20, "last": 29, "step": 2}, "mtu": 9000}
    assert host_networks_of({"hostNetworks": [row]}) == (GivenNetwork("br-dmz", VlanRange(20, 29)),)


def test_nothing_given_is_not_the_same_as_nothing_said() -> None:
    assert (host_networks_of({}), routed_of({})) == (None, None)
    assert (host_networks_of({"hostNetworks": []}), routed_of({"routedCIDRs": []})) == ((), ())


WHY = "bridge br-dmz does not exist on the host: make it"
WITH_MISSING = (
    GivenNetwork("br-lan"),
    GivenNetwork("br-dmz", VlanRange(20, 29), WHY),
    GivenNetwork("br-dmz", missing=WHY),
)


def test_what_is_given_and_is_not_there_says_why_and_is_read_as_it_was_written() -> None:
    rows = host_networks_json(WITH_MISSING)
    assert [row.get("missing") for row in rows] == [WHY, WHY, None]
    assert rows == host_networks_json(reversed(WITH_MISSING))
    assert set(host_networks_of({"hostNetworks": rows}) or ()) == set(WITH_MISSING)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (HostNetwork("br-lan"), ""),
        (HostNetwork("br-dmz"), WHY),
        (HostNetwork("br-dmz", 25), WHY),
        (HostNetwork("br-dmz", 30), ""),  # it is not given
    ],
    ids=str,
)
def test_a_host_network_that_is_missing_is_given_all_the_same(asked: HostNetwork, why: str) -> None:
    assert why_missing(WITH_MISSING, asked) == why
    assert gives(WITH_MISSING, asked) is (asked.vlan != 30)
    assert why_missing(None, asked) == ""
