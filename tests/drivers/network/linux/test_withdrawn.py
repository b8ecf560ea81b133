"""What an agent that was started again with other flags gives no more: guests on it are not cut off, nor left alone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.cluster.network_leftovers import network_processes
from tests.drivers.network.linux.firewalled import DENY, HOST_BRIDGE, Walled, firewall, network, walled_host
from tests.drivers.network.numbered import port
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.errors import Refused
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux.allowances import NOTHING_ALLOWED, Allowances, BridgeVlans
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.names import ROUTER_TABLE, host_link, tap_name
from virtplane_drivers.network.linux.uplinks import Uplinks
from virtplane_drivers.network.linux.values import Finding
from virtplane_drivers.network.linux.vlans import what_is_missing

RUNS, WAITS = port(2), port(3)
ROUTED = network(RUNS, WAITS, mode=NetworkMode.ROUTED)
ON_BRIDGE = replace(ROUTED, mode=NetworkMode.BRIDGE, host_bridge=HOST_BRIDGE, ipv4=None, ipv6=None, domain="")


@pytest.fixture
async def walled(root: None) -> AsyncIterator[Walled]:
    async with walled_host() as one:
        for name in (HOST_BRIDGE, "br-other"):
            one.host.machine.ip("link", "add", name, "type", "bridge")
            one.host.machine.ip("link", "set", name, "up")
        yield one


@asynccontextmanager
async def with_a_guest(
    walled: Walled, one: Network, allowances: Allowances = NOTHING_ALLOWED
) -> AsyncIterator[LinuxNetworks]:
    """The driver of an agent that gives nothing any more, or this, while the guest of the first port runs."""
    await walled.driver.apply(one)
    attachment = await walled.driver.attachment(one, RUNS)
    assert isinstance(attachment, TapAttachment)
    (tap,) = await asyncio.to_thread(open_tap, attachment, 1)
    try:
        async with walled.another_driver(allowances=allowances) as driver:
            yield driver
    finally:
        os.close(tap)


async def refused(driver: LinuxNetworks, one: Network, reason: Reason = Reason.NETWORK_NOT_ALLOWED) -> None:
    with pytest.raises(Refused) as told:
        await driver.apply(one)
    assert told.value.reason == reason


def is_walled(walled: Walled) -> bool:
    """Whether the guest that runs is behind the firewall."""
    ways = walled.router().run("nft", "list", "map", "bridge", ROUTER_TABLE, "ingress")
    return f'"{tap_name(RUNS)}" : goto ingress_f1' in ways


def behind_a_firewall(one: Network) -> Network:
    ports = tuple(replace(port, firewall="f1") for port in one.ports)
    return replace(one, ports=ports, firewalls=(firewall(ingress=DENY),))


@pytest.mark.parametrize("given", [ROUTED, ON_BRIDGE], ids=["Routed", "Bridge"])
async def test_a_guest_that_runs_on_gets_the_firewall_that_its_user_asks_for(walled: Walled, given: Network) -> None:
    async with with_a_guest(walled, given) as driver:
        await refused(driver, behind_a_firewall(given))
        ways = walled.router().run("nft", "list", "map", "bridge", ROUTER_TABLE, "ingress")
        assert f'"{tap_name(RUNS)}" : goto ingress_f1' in ways
        # Who does not run gets no place on it.
        assert tap_name(WAITS) not in ways
        assert (await driver.observe(given.uid)).ports == {RUNS.key}


async def test_a_bridge_that_was_not_given_is_never_joined_whatever_becomes_of_the_one_that_was(walled: Walled) -> None:
    async with with_a_guest(walled, ON_BRIDGE) as driver:
        await refused(driver, behind_a_firewall(replace(ON_BRIDGE, host_bridge="br-other")))
        assert walled.host.machine.links()[host_link(ON_BRIDGE.uid)]["master"] == HOST_BRIDGE
        assert is_walled(walled)


async def test_a_guest_whose_network_was_put_into_a_vlan_that_is_not_possible_gets_its_firewall_where_it_is(
    walled: Walled,
) -> None:
    given = Allowances(frozenset({HOST_BRIDGE}), (), (BridgeVlans(HOST_BRIDGE, 20, 29),))
    async with with_a_guest(walled, ON_BRIDGE, given) as driver:
        driver._vlans.missing = what_is_missing(given, has_devices=False)  # some kernels have them
        await refused(driver, replace(behind_a_firewall(ON_BRIDGE), vlan=25), Reason.VLAN_NOT_POSSIBLE)
        assert is_walled(walled)
        assert (await driver.observe(ON_BRIDGE.uid)).ports == {RUNS.key}


async def test_a_guest_in_a_vlan_that_is_given_no_more_gets_the_firewall_that_its_user_asks_for(
    walled: Walled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its VLAN device is there: it is taken as given here, as not every kernel has them."""

    async def as_they_are(*_: object) -> tuple[None, list[Finding]]:
        return None, []

    in_vlan = replace(ON_BRIDGE, vlan=25)
    async with with_a_guest(walled, ON_BRIDGE) as driver:
        was = driver._applied[in_vlan.uid]
        driver._applied[in_vlan.uid] = replace(was, network=replace(was.network, vlan=25))
        monkeypatch.setattr(Uplinks, "apply", as_they_are)
        await refused(driver, behind_a_firewall(in_vlan))
        assert is_walled(walled)


async def test_names_and_addresses_are_served_again_when_their_server_died(walled: Walled) -> None:
    async with with_a_guest(walled, ROUTED) as driver:
        await refused(driver, ROUTED)
        [before] = network_processes(walled.folder)
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(10):
            assert await anext(driver.events()) == ROUTED.uid
        await refused(driver, ROUTED)
        [after] = network_processes(walled.folder)
        assert after != before


async def test_without_a_guest_nothing_is_made(walled: Walled) -> None:
    async with walled.another_driver(allowances=NOTHING_ALLOWED) as driver:
        await refused(driver, ROUTED)
        assert await driver.inventory() == ()
