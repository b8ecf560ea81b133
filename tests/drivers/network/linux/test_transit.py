"""Which /31 and /127 a network's router and its host have between them: a table."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from virtplane_drivers.network.linux.transit import IPV6_TRANSIT, free_transit, held_transit, transit_at

CIDR = IPv4Network("169.254.64.0/18")
SMALL = IPv4Network("169.254.64.0/29")
"""Four pairs."""


def test_both_ends_are_of_one_pair_in_each_family() -> None:
    transit = transit_at(IPv4Address("169.254.64.6"))
    assert str(transit.router_ipv4) == "169.254.64.7"
    assert (str(transit.host_ipv6), str(transit.router_ipv6)) == (
        "fd76:7274:706c:616e::a9fe:4006",
        "fd76:7274:706c:616e::a9fe:4007",
    )
    assert transit.host_ipv6 in IPV6_TRANSIT


def test_a_network_gets_the_same_addresses_on_a_host_that_has_nothing_else() -> None:
    assert free_transit(CIDR, "uid", []) == free_transit(CIDR, "uid", [])
    few = {free_transit(CIDR, f"uid {number}", []) for number in range(100)}
    assert len(few) > 90


def test_what_others_hold_is_passed_until_nothing_is_left() -> None:
    taken: list[IPv4Network] = []
    for _ in range(4):
        transit = free_transit(SMALL, "uid", taken)
        assert transit is not None
        assert transit.host_ipv4 in SMALL
        assert not any(transit.host_ipv4 in network or transit.router_ipv4 in network for network in taken)
        # Either end alone is reason enough.
        taken.append(IPv4Network(transit.router_ipv4 if len(taken) % 2 else transit.host_ipv4))
    assert free_transit(SMALL, "uid", taken) is None


@pytest.mark.parametrize(
    ("taken", "free"),
    [
        ("169.254.64.0/30", {"169.254.64.4", "169.254.64.6"}),
        ("169.254.64.4/30", {"169.254.64.0", "169.254.64.2"}),
        ("169.254.64.0/29", set()),
        ("169.254.0.0/16", set()),
        ("169.254.63.0/24", {"169.254.64.0", "169.254.64.2", "169.254.64.4", "169.254.64.6"}),
        ("10.0.0.0/8", {"169.254.64.0", "169.254.64.2", "169.254.64.4", "169.254.64.6"}),
    ],
)
def test_a_taken_network_takes_all_that_is_in_it(taken: str, free: set[str]) -> None:
    found = {free_transit(SMALL, f"uid {number}", [IPv4Network(taken)]) for number in range(64)}
    assert {str(transit.host_ipv4) for transit in found if transit is not None} == free


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ((), None),
        (("169.254.64.6",), "169.254.64.6"),
        (("10.0.0.2", "169.254.64.6"), "169.254.64.6"),
        (("169.254.64.6", "169.254.64.2"), "169.254.64.2"),
        (("169.254.64.7",), None),  # the router's end
        (("169.254.200.6",), None),  # of a range that the agent had before
    ],
)
def test_the_hosts_end_tells_what_was_chosen(held: tuple[str, ...], expected: str | None) -> None:
    transit = held_transit(CIDR, [IPv4Address(address) for address in held])
    assert (str(transit.host_ipv4) if transit is not None else None) == expected
