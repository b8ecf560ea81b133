"""A driver tells of the addresses that guests use where the network gives none."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.drivers.network.linux.firewalled import Walled, network, walled_host
from tests.drivers.network.linux.host import Namespace
from tests.drivers.network.numbered import port
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.names import tap_name
from virtplane_drivers.network.linux.rules.router import router_ruleset
from virtplane_drivers.network.linux.rules.ruleset import whole
from virtplane_drivers.network.linux.seen import SeenAddresses

WEB = replace(port(2), addresses=())
LAN = replace(network(WEB, mode=NetworkMode.ISOLATED), ipv4=None, ipv6=None, domain="")


@pytest.fixture
async def walled(root: None) -> AsyncIterator[Walled]:
    async with walled_host() as one:
        yield one


async def seen(driver: LinuxNetworks, one: Network = LAN) -> list[str]:
    return [str(address) for address in (await driver.observe(one.uid)).seen.get(WEB.key, ())]


async def sees(driver: LinuxNetworks, *addresses: str) -> None:
    """Returns once it does: a link that just came up may lose the first frame, which is sent again."""
    async with asyncio.timeout(10):
        while await seen(driver) != [*addresses]:
            await asyncio.sleep(0.02)


def guest_of(walled: Walled) -> Namespace:
    """Of WEB, without any address."""
    return walled.host.guest(walled.router(LAN.uid).path, WEB.mac, port=tap_name(WEB))


def uses(guest: Namespace, address: str) -> None:
    """The guest has that address from now on, and asks its neighbours for another."""
    guest.ip("address", "flush", "dev", "eth0", "scope", "global")
    guest.ip("address", "add", f"{address}/24", "dev", "eth0")
    guest.pings(address.rpartition(".")[0] + ".254", timeout_s=0.01)


async def test_a_guest_s_address_is_hinted_at_and_seen_and_so_is_the_next_one(walled: Walled) -> None:
    async with walled.another_driver(check_every_s=0.05) as driver:
        await driver.apply(LAN)
        guest, hints = guest_of(walled), aiter(driver.events())
        assert await seen(driver) == []
        for address, expected in (("10.9.0.5", ["10.9.0.5"]), ("10.9.0.6", ["10.9.0.6", "10.9.0.5"])):
            uses(guest, address)
            assert await asyncio.wait_for(anext(hints), 10) == LAN.uid
            assert await seen(driver) == expected
        await driver.remove(LAN.uid)


async def test_an_agent_that_starts_anew_knows_what_was_seen_before_it_replaced_the_rules(walled: Walled) -> None:
    await walled.driver.apply(LAN)
    uses(guest_of(walled), "10.9.0.5")
    await sees(walled.driver, "10.9.0.5")
    async with walled.another_driver() as later:
        await later.apply(LAN)
        assert await seen(later) == ["10.9.0.5"]


async def test_a_kernel_that_cannot_listen_is_told_of_and_its_networks_do_without(walled: Walled) -> None:
    assert "NetworkSeenAddresses" not in (await walled.driver.probe()).missing
    deaf = SeenAddresses()
    await deaf.find_way("table bridge probe {\n chain c {\n of no such kernel\n }\n}\n")
    assert "of no such kernel" in deaf.missing
    rules = router_ruleset(LAN, None, (), listens=False)
    assert "heard" not in whole(rules)
    assert "heard" in whole(router_ruleset(LAN, None, ()))


async def test_where_the_network_gives_addresses_none_is_seen(walled: Walled) -> None:
    both = network(port(2))
    await walled.driver.apply(both)
    guest = walled.guest(port(2))
    guest.reaches("10.0.0.1")
    assert await seen(walled.driver, both) == []


async def test_a_guest_s_link_that_went_takes_its_addresses_with_it(walled: Walled) -> None:
    await walled.driver.apply(LAN)
    guest = guest_of(walled)
    uses(guest, "10.9.0.5")
    await sees(walled.driver, "10.9.0.5")
    guest.ip("link", "delete", "eth0")
    await sees(walled.driver)
