"""What tunnels go over: found on the host, or why there is none, and what would bring it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.drivers.network.hosts import reachable_folder
from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, Host
from tests.drivers.network.linux.networks import TRANSIT_CIDR
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import NetworkFacts
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.underlay import NoUnderlay, find_underlay
from virtplane_drivers.network.overlay import Underlay


async def found(host: Host, asked: str = "") -> Underlay | str:
    """What is found, or why nothing is."""
    try:
        return await find_underlay(host.machine.path, ip_address(asked) if asked else None)
    except NoUnderlay as error:
        return str(error)


async def test_without_a_word_it_is_where_the_default_route_begins(host: Host) -> None:
    assert await found(host) == Underlay(ip_address(HOST_IPV4), 1500)
    host.machine.ip("-4", "route", "del", "default")
    assert await found(host) == Underlay(ip_address(HOST_IPV6), 1500)
    host.machine.ip("-6", "route", "del", "default")
    assert await found(host) == ("this host has no default route: name one of its addresses with --underlay-address")


async def test_an_address_that_is_asked_for_is_taken_with_its_own_link_s_mtu(host: Host) -> None:
    host.machine.ip("link", "add", "storage", "type", "veth")
    host.machine.ip("link", "set", "storage", "mtu", "9000")
    for address in ("198.51.100.7/24", "198.51.100.8/24"):
        host.machine.ip("address", "add", address, "dev", "storage")
    assert await found(host, "198.51.100.8") == Underlay(ip_address("198.51.100.8"), 9000)


BAD = [
    ("127.0.0.1", "other hosts cannot reach 127.0.0.1: name another one with --underlay-address"),
    ("fe80::1", "other hosts cannot reach fe80::1: name another one with --underlay-address"),
    ("198.51.100.9", "198.51.100.9 is no address of this host: name another one with --underlay-address"),
    ("198.51.100.7", "an MTU of 1300 of small leaves networks less than 1280 bytes"),
]


@pytest.mark.parametrize(("address", "message"), BAD)
async def test_an_address_that_does_not_do_is_refused_with_what_helps(host: Host, address: str, message: str) -> None:
    host.machine.ip("link", "add", "small", "type", "veth")
    host.machine.ip("link", "set", "small", "mtu", "1300")
    host.machine.ip("address", "add", "198.51.100.7/24", "dev", "small")
    assert await found(host, address) == message


@asynccontextmanager
async def probed(host: Host, folder: Path, asked: str) -> AsyncIterator[NetworkFacts]:
    driver = LinuxNetworks(
        folder / "state",
        folder / "run",
        transit_cidr=TRANSIT_CIDR,
        host_namespace=host.machine.path,
        underlay_address=ip_address(asked),
    )
    async with driver:
        yield await driver.probe()


async def test_a_host_without_an_underlay_lacks_the_mode_and_says_why(host: Host) -> None:
    with reachable_folder() as folder:
        async with probed(host, folder, HOST_IPV4) as facts:
            assert NetworkMode.OVERLAY in facts.modes
            assert facts.underlay == Underlay(ip_address(HOST_IPV4), 1500)
        async with probed(host, folder, "198.51.100.9") as facts:
            assert NetworkMode.OVERLAY not in facts.modes
            assert NetworkMode.NAT in facts.modes
            assert facts.underlay is None
            assert "198.51.100.9 is no address of this host" in facts.missing["NetworkOverlay"]
