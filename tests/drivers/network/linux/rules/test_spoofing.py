"""Lies that guests tell, sent as frames, beside the truth."""

from collections.abc import Iterator

import pytest

from tests.drivers.network.linux.host import new_host
from tests.drivers.network.linux.rules import lies
from tests.drivers.network.linux.rules.capture import capture, send
from tests.drivers.network.linux.rules.guests import Guests, guests_of
from tests.drivers.network.numbered import network, port
from virtplane_drivers.network.linux.names import BRIDGE

LAN = network(lies.UID, port(2), port(3))


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    with new_host(tmp_path_factory.mktemp("spoofing")) as host:
        yield guests_of(host, LAN, with_rules=True)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """The same without any rules."""
    with new_host(tmp_path_factory.mktemp("trusted")) as host:
        yield guests_of(host, LAN, with_rules=False)


@pytest.mark.parametrize("case", lies.ALL, ids=str)
def test_a_lie_reaches_neither_another_guest_nor_the_router_and_the_truth_does(guests: Guests, case: lies.Case) -> None:
    with capture(guests.second) as at_guest, capture(guests.router.at, BRIDGE) as at_router:
        send(guests.first, case.lie, case.truth)
        at_guest.wait_for(case.truth)
        at_router.wait_for(case.truth)
        assert not at_guest.saw(case.lie)
        assert not at_router.saw(case.lie)


@pytest.mark.parametrize("case", lies.ALL, ids=str)
def test_without_rules_each_lie_arrives(trusted: Guests, case: lies.Case) -> None:
    """So that a lie which nothing would carry anyway is no proof."""
    with capture(trusted.second) as at_guest:
        send(trusted.first, case.lie)
        at_guest.wait_for(case.lie)
