"""Which addresses of a subnet machines may have, and which one a machine gets."""

from typing import Any

import pytest

from virtplane_operator.networks.addresses import Subnet, Unusable, number_of, position_of, subnet_of, text_of

MANY = 1 << 64


def subnet(cidr: str, gateway: str = "", *excluded: str) -> Subnet:
    """`excluded` are `start-end`."""
    spec: dict[str, Any] = {"cidr": cidr} | ({"gateway": gateway} if gateway else {})
    ranges = [one.split("-") for one in excluded]
    return subnet_of(spec | {"excludedRanges": [{"start": start, "end": end} for start, end in ranges]})


def number(address: str) -> int:
    return number_of(address)[1]


def usable(one: Subnet) -> list[str]:
    """All addresses of a small subnet that machines may have, by asking for each."""
    everyone = [int(one.cidr.network_address) + offset for offset in range(one.cidr.num_addresses)]
    return [text_of(one.version, address) for address in everyone if one.unusable(address) is None]


SMALL = [
    ("a gateway that is not named is the first one", subnet("10.0.0.0/29"), "2 3 4 5 6"),
    ("the gateway elsewhere", subnet("10.0.0.0/29", "10.0.0.6"), "1 2 3 4 5"),
    ("no gateway", subnet("10.0.0.0/29", "None"), "1 2 3 4 5 6"),
    ("the smallest", subnet("10.0.0.0/30"), "2"),
    ("excluded", subnet("10.0.0.0/29", "", "10.0.0.3-10.0.0.4"), "2 5 6"),
    ("excluded twice, and over the edges", subnet("10.0.0.0/29", "", "10.0.0.4-10.0.0.7", "10.0.0.3-10.0.0.5"), "2"),
    (
        "excluded ranges that share an address",
        subnet("10.0.0.0/29", "", "10.0.0.3-10.0.0.4", "10.0.0.4-10.0.0.5"),
        "2 6",
    ),
    ("excluded beside the gateway", subnet("10.0.0.0/29", "10.0.0.3", "10.0.0.4-10.0.0.5"), "1 2 6"),
    ("the gateway within what is excluded", subnet("10.0.0.0/29", "10.0.0.3", "10.0.0.2-10.0.0.5"), "1 6"),
    ("all excluded", subnet("10.0.0.0/29", "None", "10.0.0.0-10.0.0.7"), ""),
    ("a range from its end to its start excludes nothing", subnet("10.0.0.0/29", "", "10.0.0.5-10.0.0.3"), "2 3 4 5 6"),
]


@pytest.mark.parametrize(("one", "left"), [row[1:] for row in SMALL], ids=[row[0] for row in SMALL])
def test_machines_may_have_what_is_nobody_s_yet(one: Subnet, left: str) -> None:
    assert usable(one) == [f"10.0.0.{last}" for last in left.split()]
    assert one.size == len(left.split())


@pytest.mark.parametrize("one", [row[1] for row in SMALL if row[1].size], ids=[row[0] for row in SMALL if row[1].size])
@pytest.mark.parametrize("position", [0, 3, 6, MANY - 1])
def test_each_is_given_once_until_none_is_left(one: Subnet, position: int) -> None:
    held: set[int] = set()
    while one.left(held):
        chosen = one.choose(position, held)
        assert chosen not in held
        held.add(chosen)
    assert sorted(held) == [number(address) for address in usable(one)]


UNUSABLE = [
    ("10.0.0.0", Unusable.NETWORK),
    ("10.0.0.1", Unusable.GATEWAY),
    ("10.0.0.2", None),
    ("10.0.0.16", Unusable.EXCLUDED),
    ("10.0.0.254", None),
    ("10.0.0.255", Unusable.BROADCAST),
    ("10.0.1.0", Unusable.OUTSIDE),
    ("9.255.255.255", Unusable.OUTSIDE),
]


@pytest.mark.parametrize(("address", "why"), UNUSABLE, ids=[row[0] for row in UNUSABLE])
def test_why_a_machine_cannot_have_an_address(address: str, why: Unusable | None) -> None:
    assert subnet("10.0.0.0/24", "", "10.0.0.16-10.0.0.31").unusable(number(address)) is why


def test_of_ipv6_only_the_router_s_anycast_address_and_the_gateway_are_kept_back() -> None:
    one = subnet("fd00:20::/64")
    assert one.size == MANY - 2
    kept = {"fd00:20::": Unusable.NETWORK, "fd00:20::1": Unusable.GATEWAY, "fd00:20::2": None}
    assert {address: one.unusable(number(address)) for address in kept} == kept
    assert one.unusable(number("fd00:20::ffff:ffff:ffff:ffff")) is None


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "fd00:20::/64"])
def test_the_search_goes_round_at_the_end_of_a_network_of_any_size(cidr: str) -> None:
    one = subnet(cidr)
    last_position = one.last - one.first
    assert one.choose(last_position, ()) == one.last
    # The first one is the gateway's.
    assert one.choose(last_position, {one.last}) == one.first + 1


def test_what_is_excluded_is_stepped_over_at_once() -> None:
    one = subnet("10.0.0.0/8", "None", "10.0.0.1-10.255.255.253")
    assert text_of(4, one.choose(12345, ())) == "10.255.255.254"


def test_what_is_held_and_may_not_be_any_more_takes_nothing() -> None:
    one = subnet("10.0.0.0/29", "", "10.0.0.3-10.0.0.4")
    assert one.left({number("10.0.0.1"), number("10.0.0.3"), number("10.9.0.1")}) == 3
    assert one.left({number("10.0.0.2"), number("10.0.0.3")}) == 2


def test_an_address_that_either_set_holds_is_not_chosen() -> None:
    one = subnet("10.0.0.0/29")
    assert text_of(4, one.choose(1, {number("10.0.0.2")}, {number("10.0.0.3")})) == "10.0.0.4"


def test_a_position_follows_from_the_names_alone_and_differs_between_them() -> None:
    names = [("shop", "web", "lan"), ("shop", "web", "wan"), ("shop", "db", "lan"), ("lab", "web", "lan")]
    positions = [position_of(*name) for name in names]
    assert positions == [position_of(*name) for name in names]
    assert len({position % 253 for position in positions}) == len(names)


@pytest.mark.parametrize("address", ["10.20.0.9", "fd00::9", "::1", "fd00:20::8a3f:0:0:1"])
def test_an_address_is_written_as_the_schema_wants_it(address: str) -> None:
    assert text_of(*number_of(address)) == address
