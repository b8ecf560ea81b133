"""By SLAAC a guest chooses its own addresses, and nobody else's: lies sent as frames, each beside the truth."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Network

import pytest

from tests.drivers.network.linux.host import new_host
from tests.drivers.network.linux.rules import frames as f
from tests.drivers.network.linux.rules.capture import capture, send
from tests.drivers.network.linux.rules.guests import Guests, guests_of
from tests.drivers.network.linux.rules.lies import A4, A_LOCAL, A_MAC, B4, B_LOCAL, B_MAC, ROUTER_MAC, UID, Case
from tests.drivers.network.numbered import GATEWAY_IPV6, network, port
from virtplane_api.vocabulary import Addressing
from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux.eui64 import by_mac
from virtplane_drivers.network.linux.names import BRIDGE
from virtplane_drivers.network.linux.rules.ruleset import changes
from virtplane_drivers.network.linux.rules.spoofing import spoofing_table

PREFIX = IPv6Network("fd00::/64")
A_MADE, B_MADE, ROUTER_MADE = (str(by_mac(PREFIX, mac)) for mac in (A_MAC, B_MAC, ROUTER_MAC))
A_CHOSEN = "fd00::1234:5678:9abc:def0"
"""Of no MAC: RFC 7217, RFC 8981."""
OUTSIDE = "fd00:0:0:1::1234"
CLAIMED = "fd00::4"
"""By machine 4, which is on the network since before it chose SLAAC."""


def slaac(*numbers: int) -> Network:
    """The network of `lies`, whose machines of these numbers have IPv4 addresses alone."""
    ports = tuple(port(number, addresses=(f"10.0.0.{number}",)) for number in numbers)
    one = network(UID, *ports)
    assert one.ipv6 is not None
    return replace(one, ipv6=replace(one.ipv6, addressing=Addressing.SLAAC))


LAN = replace(slaac(2, 3), ports=(*slaac(2, 3).ports, port(4)))


def _ip6(packet: bytes, mac: str = A_MAC) -> bytes:
    return f.frame(mac, f.IPV6, packet)


def _from(source: str) -> bytes:
    return _ip6(f.datagram(source, B_LOCAL))


def _solicits(source: str, target: str, *options: bytes) -> bytes:
    return _ip6(f.ipv6(source, f.ALL_NODES, f.ICMPV6, f.discovery(f.SOLICIT, target, *options)))


def _advertises(target: str, source: str = A_LOCAL, mac: str = A_MAC) -> bytes:
    message = f.discovery(f.ADVERT, target, f.option(f.TARGET_OPTION, mac))
    return _ip6(f.ipv6(source, f.ALL_NODES, f.ICMPV6, message))


_OWN, _OTHERS = f.option(f.SOURCE_OPTION, A_MAC), f.option(f.SOURCE_OPTION, B_MAC)
_NONCE = f.option(f.NONCE_OPTION, "01:02:03:04:05:06")
_RA = f.icmpv6(f.ROUTER_ADVERT, bytes(12))
LIES = [
    Case("what goes with another's MAC", _from(B_MADE), _from(A_MADE)),
    Case("the gateway's address", _from(GATEWAY_IPV6), _from(A_CHOSEN)),
    Case("what goes with the router's MAC", _from(ROUTER_MADE), _from(A_CHOSEN)),
    Case("what another one has claimed", _from(CLAIMED), _from(A_CHOSEN)),
    Case("the address of all routers", _from("fd00::"), _from("fd00::2")),
    Case("an address of elsewhere", _from(OUTSIDE), _from(A_CHOSEN)),
    Case("no address", _from("::"), _from(A_CHOSEN)),
    Case("a chosen address under another's MAC", _ip6(f.datagram(A_CHOSEN, B_LOCAL), B_MAC), _from(A_CHOSEN)),
    Case("another's link-local address", _from(B_LOCAL), _from(A_LOCAL)),
    Case("an advertisement of what goes with another's MAC", _advertises(B_MADE), _advertises(A_MADE)),
    Case("an advertisement of the gateway's", _advertises(GATEWAY_IPV6), _advertises(A_CHOSEN)),
    Case("an advertisement of what goes with the router's MAC", _advertises(ROUTER_MADE), _advertises(A_CHOSEN)),
    Case("an advertisement of what is claimed", _advertises(CLAIMED), _advertises(A_CHOSEN)),
    Case("an advertisement of elsewhere", _advertises(OUTSIDE), _advertises(A_CHOSEN)),
    Case("an advertisement with another's MAC", _advertises(A_CHOSEN, mac=B_MAC), _advertises(A_CHOSEN)),
    Case("an advertisement from another's", _advertises(A_CHOSEN, B_MADE), _advertises(A_CHOSEN, A_CHOSEN)),
    Case("DAD for what goes with another's MAC", _solicits("::", B_MADE), _solicits("::", A_MADE)),
    Case("DAD for the gateway's", _solicits("::", GATEWAY_IPV6), _solicits("::", A_CHOSEN)),
    Case("DAD for what is claimed", _solicits("::", CLAIMED, _NONCE), _solicits("::", A_CHOSEN, _NONCE)),
    Case("DAD for elsewhere", _solicits("::", OUTSIDE), _solicits("::", "fd00::2")),
    Case("solicitation from another's", _solicits(B_MADE, A_CHOSEN), _solicits(A_CHOSEN, B_MADE)),
    Case("solicitation with another's MAC", _solicits(A_CHOSEN, B_MADE, _OTHERS), _solicits(A_CHOSEN, B_MADE, _OWN)),
    Case(
        "a router",
        _ip6(f.ipv6(A_LOCAL, f.ALL_NODES, f.ICMPV6, _RA)),
        _ip6(f.ipv6(A_CHOSEN, f.ALL_NODES, f.ICMPV6, f.icmpv6(128))),
    ),
    Case(
        "another's IPv4 address",
        f.frame(A_MAC, f.IPV4, f.datagram(B4, A4)),
        f.frame(A_MAC, f.IPV4, f.datagram(A4, B4)),
    ),
]


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    with new_host(tmp_path_factory.mktemp("slaac")) as host:
        yield guests_of(host, LAN, with_rules=True)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """The same without any rules."""
    with new_host(tmp_path_factory.mktemp("slaac-trusted")) as host:
        yield guests_of(host, LAN, with_rules=False)


@pytest.mark.parametrize("case", LIES, ids=str)
def test_a_lie_reaches_neither_another_guest_nor_the_router_and_the_truth_does(guests: Guests, case: Case) -> None:
    with capture(guests.second) as at_guest, capture(guests.router.at, BRIDGE) as at_router:
        send(guests.first, case.lie, case.truth)
        at_guest.wait_for(case.truth)
        at_router.wait_for(case.truth)
        assert not at_guest.saw(case.lie)
        assert not at_router.saw(case.lie)


@pytest.mark.parametrize("case", LIES, ids=str)
def test_without_rules_each_lie_arrives(trusted: Guests, case: Case) -> None:
    with capture(trusted.second) as at_guest:
        send(trusted.first, case.lie)
        at_guest.wait_for(case.lie)


def test_a_machine_more_or_less_changes_elements_alone() -> None:
    """As without SLAAC: of 1,000 ports the whole would take ten times as long to load."""
    script = changes((spoofing_table(slaac(2, 3)),), (spoofing_table(slaac(2, 3, 5)),))
    assert {line.split()[0] for line in script.splitlines()} == {"add"}
    assert f"{by_mac(PREFIX, port(5).mac)}" in script


def test_without_slaac_nobody_chooses() -> None:
    table = spoofing_table(network(UID, port(2)))
    assert [one.elements for one in table.sets if one.name == "slaac_ipv6"] == [frozenset()]
    assert not any("slaac" in rule for chain in table.chains for rule in chain.rules)
