"""A bridge that is given and is not there: no new guest is joined to nothing, and one that runs gets its way back."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.drivers.network import numbered
from tests.drivers.network.linux.firewalled import ALL_GIVEN, HOST_BRIDGE, Walled, network, walled_host
from tests.drivers.network.numbered import port
from virtplane_api.host_networks import GivenNetwork, VlanRange
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.host.network_stack import Link, NetworkStack
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import HOST_NETWORKS, Network, NetworkState, Port
from virtplane_drivers.network.linux.allowances import Allowances, BridgeVlans
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.names import host_link

RUNS, WAITS = port(2), port(3)
LAN = replace(network(RUNS, WAITS, mode=NetworkMode.BRIDGE), host_bridge=HOST_BRIDGE, ipv4=None, ipv6=None, domain="")
WHY = f"bridge {HOST_BRIDGE} does not exist on the host: make it "
GIVEN = Allowances(ALL_GIVEN.bridges, (), (BridgeVlans("br-dmz", 20, 29), BridgeVlans("eth0", 1, 4094)))


@pytest.fixture
async def walled(root: None) -> AsyncIterator[Walled]:
    async with walled_host() as one:
        yield one


def make_bridge(walled: Walled, name: str = HOST_BRIDGE) -> None:
    walled.host.machine.ip("link", "add", name, "type", "bridge")
    walled.host.machine.ip("link", "set", name, "up")


def remove_bridge(walled: Walled, name: str = HOST_BRIDGE) -> None:
    walled.host.machine.ip("link", "delete", name)


async def attachment(driver: LinuxNetworks, one: Port) -> TapAttachment:
    found = await driver.attachment(LAN, one)
    assert isinstance(found, TapAttachment)
    return found


@contextmanager
def held(attachment: TapAttachment) -> Iterator[None]:
    """A hypervisor has the port."""
    (tap,) = open_tap(attachment, 1)
    try:
        yield
    finally:
        os.close(tap)


async def hinted(driver: LinuxNetworks, uid: str) -> None:
    """Waits until the driver tells of it by itself."""
    async with asyncio.timeout(10):
        async for one in driver.events():
            if one == uid:
                return


async def state(driver: LinuxNetworks) -> tuple[object, str]:
    seen = await driver.observe(LAN.uid)
    return seen.state, seen.reason


NO_BRIDGE, READY = (NetworkState.FAILED, Reason.NO_SUCH_BRIDGE), (NetworkState.READY, "")


async def test_no_new_guest_is_joined_to_a_bridge_that_is_not_there(walled: Walled) -> None:
    await walled.driver.apply(LAN)
    assert await state(walled.driver) == NO_BRIDGE
    with pytest.raises(Unavailable) as told:
        await walled.driver.attachment(LAN, WAITS)
    assert told.value.reason == Reason.NO_SUCH_BRIDGE
    assert str(told.value).startswith(f"network {LAN.namespace}/{LAN.name}: {WHY}")
    make_bridge(walled)
    await walled.driver.apply(LAN)
    assert await state(walled.driver) == READY
    with held(await attachment(walled.driver, WAITS)):
        pass


async def test_a_guest_that_runs_is_left_alone_when_its_bridge_goes_and_is_on_it_again_when_it_is_back(
    walled: Walled,
) -> None:
    make_bridge(walled)
    await walled.driver.apply(LAN)
    async with walled.another_driver(check_every_s=0.05) as driver:
        await driver.apply(LAN)
        with held(await attachment(driver, RUNS)):
            joined = await attachment(driver, RUNS)
            remove_bridge(walled)
            await hinted(driver, LAN.uid)
            await driver.apply(LAN)
            assert await state(driver) == NO_BRIDGE
            # What runs is asked for again with each change of its machine.
            assert await attachment(driver, RUNS) == joined
            with pytest.raises(Unavailable):
                await attachment(driver, WAITS)
            make_bridge(walled)
            await hinted(driver, LAN.uid)
            await driver.apply(LAN)
            assert await state(driver) == READY
            assert walled.host.machine.links()[host_link(LAN.uid)]["master"] == HOST_BRIDGE


async def test_our_port_that_somebody_takes_off_its_bridge_is_put_back(walled: Walled) -> None:
    make_bridge(walled)
    async with walled.another_driver(check_every_s=0.05) as driver:
        await driver.apply(LAN)
        walled.host.machine.ip("link", "set", host_link(LAN.uid), "nomaster")
        await hinted(driver, LAN.uid)
        await driver.apply(LAN)
        assert walled.host.machine.links()[host_link(LAN.uid)]["master"] == HOST_BRIDGE


async def test_a_bridge_that_went_while_no_agent_was_there_is_told_of(walled: Walled) -> None:
    make_bridge(walled)
    await walled.driver.apply(LAN)
    remove_bridge(walled)
    async with walled.another_driver(check_every_s=0.05) as driver:
        await hinted(driver, LAN.uid)


@pytest.mark.parametrize("there", [True, False], ids=["there", "absent"])
async def test_nothing_is_told_of_at_rest(walled: Walled, *, there: bool) -> None:
    if there:
        make_bridge(walled)
    async with walled.another_driver(check_every_s=0.02) as driver:
        await driver.host_networks()
        await driver.apply(LAN)
        hints = driver.events()
        # The first looks are made, and the last of them was at what is there now.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await anext(hints)


async def hints_until_rest(driver: LinuxNetworks, one: Network, at_most: int = 5) -> int:
    """How often the driver tells of the network, which is then applied each time, until it says nothing for a while."""
    events = driver.events()
    for told in range(at_most):
        try:
            async with asyncio.timeout(0.5):
                assert await anext(events) == one.uid
        except TimeoutError:
            return told
        with contextlib.suppress(Refused):
            await driver.apply(one)
    return at_most


async def test_a_network_that_is_refused_and_whose_bridge_went_is_told_of_once(walled: Walled) -> None:
    """On record, of guests that have ended: no apply changes anything of it."""
    make_bridge(walled)
    await walled.driver.apply(LAN)
    remove_bridge(walled)
    given = Allowances(frozenset({"br-other"}), (), ())
    async with walled.another_driver(check_every_s=0.02, allowances=given) as driver:
        assert await hints_until_rest(driver, LAN) == 1
        make_bridge(walled)
        assert await hints_until_rest(driver, LAN) == 1


async def test_a_network_whose_link_is_another_agent_s_is_told_of_once(walled: Walled) -> None:
    make_bridge(walled)
    make_bridge(walled, "br-other")
    await walled.driver.apply(LAN)
    elsewhere = replace(LAN, host_bridge="br-other")
    given = Allowances(frozenset({"br-other"}), (), ())
    other = replace(walled, folder=walled.folder / "other")
    async with other.another_driver(check_every_s=0.02, allowances=given) as driver:
        await driver.apply(elsewhere)
        assert "another agent" in (await driver.observe(LAN.uid)).message
        assert await hints_until_rest(driver, elsewhere) == 1
        await driver.remove(LAN.uid)


async def test_our_port_is_put_back_as_often_as_somebody_takes_it_off_its_bridge(walled: Walled) -> None:
    """Also where nobody looked while it was in order."""
    make_bridge(walled)
    await walled.driver.apply(LAN)
    for _ in range(2):
        walled.host.machine.ip("link", "set", host_link(LAN.uid), "nomaster")
        await walled.driver._look_at_bridges()
        await hinted(walled.driver, LAN.uid)
        await walled.driver.apply(LAN)


async def test_a_network_that_the_kernel_does_not_tell_of_keeps_nobody_from_a_look_at_the_others(
    walled: Walled, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bridge(walled)
    make_bridge(walled, "br-ill")
    ill = replace(numbered.network("ill"), mode=NetworkMode.BRIDGE, host_bridge="br-ill", ipv4=None, ipv6=None)
    link = NetworkStack.link

    def broken(self: NetworkStack, name: str) -> Link | None:
        if name == "br-ill":
            raise OSError(errno.EIO, os.strerror(errno.EIO), name)
        return link(self, name)

    given = Allowances(frozenset({HOST_BRIDGE, "br-ill"}), (), ())
    async with walled.another_driver(check_every_s=0.05, allowances=given) as driver:
        await driver.apply(ill)
        await driver.apply(LAN)
        with monkeypatch.context() as patched:
            patched.setattr(NetworkStack, "link", broken)
            remove_bridge(walled)
            await hinted(driver, LAN.uid)


async def test_a_host_says_which_of_what_it_gives_cannot_be_joined_and_tells_when_that_changes(walled: Walled) -> None:
    make_bridge(walled)
    async with walled.another_driver(check_every_s=0.05, allowances=GIVEN) as driver:
        lan, dmz, adapter = await driver.host_networks()
        assert lan == GivenNetwork(HOST_BRIDGE)
        assert (dmz.name, dmz.vlans, adapter.name) == ("br-dmz", VlanRange(20, 29), "eth0")
        assert dmz.missing.startswith("bridge br-dmz does not exist on the host: make it (ip link add br-dmz type")
        assert adapter.missing.startswith("eth0 is no bridge on the host")
        assert (await driver.probe()).host_networks == GIVEN.host_networks
        make_bridge(walled, "br-dmz")
        await hinted(driver, HOST_NETWORKS)
        assert [bool(one.missing) for one in await driver.host_networks()] == [False, False, True]
        remove_bridge(walled)
        await hinted(driver, HOST_NETWORKS)
        assert [bool(one.missing) for one in await driver.host_networks()] == [True, False, True]
