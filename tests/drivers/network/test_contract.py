"""What every driver of networks keeps: the contract, tried against each of them."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.drivers.network import numbered
from tests.drivers.network.hosts import NetworkHost, host_of
from tests.drivers.network.numbered import subnet
from virtplane_api.host_networks import HostNetwork, gives, routes
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import FirewallAction, FirewallDirection, ForwardProtocol, NetworkMode
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.network.contract import (
    NO_NETWORK,
    AddressGroup,
    Firewall,
    FirewallRule,
    Network,
    NetworkState,
    Port,
    PortForward,
)


def port(number: int, machine: str = "vm") -> Port:
    return numbered.port(number, cidrs=("10.20.0.0/24", "fd00:20::/64"), machine=f"{machine}-")


def network(host: NetworkHost, uid: str, *ports: Port, mode: NetworkMode | None = None) -> Network:
    return Network(
        uid=uid,
        namespace="shop",
        name=uid,
        mode=mode or host.mode,
        ipv4=subnet("10.20.0.0/24", "10.20.0.1"),
        ipv6=subnet("fd00:20::/64", "fd00:20::1"),
        domain="shop.test",
        forwarders=(ip_address("203.0.113.1"),),
        ports=ports,
    )


def keys(*ports: Port) -> frozenset[tuple[str, str]]:
    return frozenset(port.key for port in ports)


_TAKES_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces take root")


@pytest.fixture(params=["fake", *(pytest.param(kind, marks=_TAKES_ROOT) for kind in ("linux", "passt"))])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[NetworkHost]:
    async with host_of(request.param, tmp_path) as host:
        yield host


async def test_a_host_without_networks_knows_none(host: NetworkHost) -> None:
    async with host.open() as driver:
        assert await driver.inventory() == ()
        assert await driver.observe("net-1") == NO_NETWORK
        await driver.remove("net-1")


async def test_a_host_says_which_modes_it_has(host: NetworkHost) -> None:
    async with host.open() as driver:
        facts = await driver.probe()
        assert host.mode in facts.modes
        assert not {f"Network{mode}" for mode in facts.modes} & set(facts.missing)


async def test_a_network_of_each_mode_is_there_with_its_ports_once_it_was_applied(host: NetworkHost) -> None:
    async with host.open() as driver:
        for mode in sorted((await driver.probe()).modes - {NetworkMode.BRIDGE, NetworkMode.OVERLAY}):
            uid = f"net-{mode.lower()}"
            await driver.apply(network(host, uid, port(5), port(6), mode=mode))
            seen = await driver.observe(uid)
            assert (seen.state, seen.message, seen.ports) == (NetworkState.READY, "", keys(port(5), port(6)))
            assert await driver.inventory() == (uid,)
            await driver.remove(uid)


@pytest.mark.parametrize("cidr", ["10.20.0.0/24", "192.0.2.0/24"])
async def test_addresses_are_routed_where_the_host_says_so_and_nowhere_else(host: NetworkHost, cidr: str) -> None:
    asked = ip_network(cidr)
    async with host.open() as driver:
        facts = await driver.probe()
        if NetworkMode.ROUTED not in facts.modes:
            pytest.skip("it has no such networks")
        routed = replace(network(host, "net-1", mode=NetworkMode.ROUTED), ipv4=subnet(cidr, str(asked[1])), ipv6=None)
        if routes(facts.routed, asked):
            await driver.apply(routed)
            assert (await driver.observe("net-1")).state is NetworkState.READY
            return
        with pytest.raises(Refused, match=f"{cidr}.*--allow-routed") as refused:
            await driver.apply(routed)
        assert refused.value.reason == Reason.NETWORK_NOT_ALLOWED
        assert await driver.observe("net-1") == NO_NETWORK


async def test_a_host_network_that_the_host_does_not_give_is_not_joined(host: NetworkHost) -> None:
    asked = HostNetwork("br-stolen")
    async with host.open() as driver:
        facts = await driver.probe()
        if gives(facts.host_networks, asked):
            pytest.skip("it gives every one")
        joined = replace(network(host, "net-1", mode=NetworkMode.BRIDGE), ipv4=None, ipv6=None, host_bridge=asked.name)
        with pytest.raises(Refused, match=asked.name) as refused:
            await driver.apply(joined)
        assert refused.value.reason == Reason.NETWORK_NOT_ALLOWED
        assert await driver.observe("net-1") == NO_NETWORK


async def test_a_firewall_is_taken_or_refused_and_never_left_out(host: NetworkHost) -> None:
    peers_only = FirewallRule(FirewallDirection.INGRESS, FirewallAction.ALLOW, is_of_everybody=False, groups=("peers",))
    shut = Firewall("shut", FirewallAction.DENY, FirewallAction.ALLOW, (peers_only,))
    walled = replace(
        network(host, "net-1", replace(port(5), firewall="shut"), port(6)),
        firewalls=(shut,),
        groups=(AddressGroup("peers", port(6).addresses),),
    )
    async with host.open() as driver:
        if host.mode is NetworkMode.USER:
            with pytest.raises(Refused) as refused:
                await driver.apply(walled)
            assert refused.value.reason == Reason.FIREWALL_NOT_POSSIBLE
            assert await driver.observe("net-1") == NO_NETWORK
            return
        await driver.apply(walled)
        seen = await driver.observe("net-1")
        assert (seen.state, seen.message, seen.ports) == (NetworkState.READY, "", keys(port(5), port(6)))
    async with host.open() as driver:  # another one, of later
        assert (await driver.observe("net-1")).ports == keys(port(5), port(6))


async def test_ports_come_and_go(host: NetworkHost) -> None:
    async with host.open() as driver:
        for ports in ((port(5),), (port(5), port(6)), (port(6),), (), (port(7),)):
            await driver.apply(network(host, "net-1", *ports))
            assert (await driver.observe("net-1")).ports == keys(*ports)


async def test_forwards_come_and_go(host: NetworkHost) -> None:
    forwards = tuple(PortForward(protocol, 5300, 53) for protocol in ForwardProtocol)
    async with host.open() as driver:
        for changed in (replace(port(5), forwards=forwards), replace(port(5), forwards=forwards[:1]), port(5)):
            await driver.apply(network(host, "net-1", changed))
            assert (await driver.observe("net-1")).state is NetworkState.READY


async def test_each_port_can_be_joined_and_joined_again(host: NetworkHost) -> None:
    both = network(host, "net-1", port(5), port(6))
    async with host.open() as driver:
        await driver.apply(both)
        first, second = [await driver.attachment(both, one) for one in both.ports]
        assert first != second
        for _ in range(2):
            with host.joined(first), host.joined(second):
                await driver.apply(both)
        assert await driver.attachment(both, port(5)) == first


async def test_a_driver_that_is_opened_again_knows_what_is_there(host: NetworkHost) -> None:
    both = network(host, "net-1", port(5), port(6))
    async with host.open() as driver:
        await driver.apply(both)
        before = [await driver.attachment(both, one) for one in both.ports]
    async with host.open() as driver:
        assert await driver.inventory() == ("net-1",)
        seen = await driver.observe("net-1")
        assert (seen.state, seen.ports) == (NetworkState.READY, keys(port(5), port(6)))
        await driver.apply(both)
        assert [await driver.attachment(both, one) for one in both.ports] == before
        await driver.remove("net-1")
        assert await driver.inventory() == ()


async def test_what_a_hypervisor_holds_is_not_removed_before_it_lets_go(host: NetworkHost) -> None:
    one = network(host, "net-1", port(5))
    async with host.open() as driver:
        await driver.apply(one)
        with host.joined(await driver.attachment(one, port(5))):
            with pytest.raises(Unavailable) as refused:
                await driver.remove("net-1")
            assert refused.value.reason == Reason.NETWORK_IN_USE
            assert (await driver.observe("net-1")).state is NetworkState.READY
        await driver.remove("net-1")
        assert await driver.observe("net-1") == NO_NETWORK


async def test_what_a_hypervisor_holds_stays_served_also_when_nobody_asks_for_it(host: NetworkHost) -> None:
    both, one = network(host, "net-1", port(5), port(6)), network(host, "net-1", port(5))
    async with host.open() as driver:
        await driver.apply(both)
        with host.joined(await driver.attachment(both, port(6))):
            await driver.apply(one)
            assert (await driver.observe("net-1")).ports == keys(port(5), port(6))
            async with host.open() as next_driver:
                await next_driver.apply(one)
                assert (await next_driver.observe("net-1")).ports == keys(port(5), port(6))
        await driver.apply(one)
        assert (await driver.observe("net-1")).ports == keys(port(5))


async def test_what_went_through_a_port_is_told_while_it_is_joined_and_no_longer(host: NetworkHost) -> None:
    both = network(host, "net-1", port(5), port(6))
    async with host.open() as driver:
        if host.mode is NetworkMode.USER:
            await driver.apply(both)
            assert await driver.counters() is None
            return
        assert await driver.counters() == {}
        await driver.apply(both)
        with host.joined(await driver.attachment(both, port(5))), host.joined(await driver.attachment(both, port(6))):
            told = await driver.counters()
            assert told is not None
            assert {uid: set(ports) for uid, ports in told.items()} == {"net-1": keys(port(5), port(6))}
            async with host.open() as next_driver:
                told_next = await next_driver.counters()
                assert told_next is not None
                assert set(told_next["net-1"]) == keys(port(5), port(6))
        await driver.apply(network(host, "net-1", port(6)))
        left = await driver.counters()
        assert left is not None
        assert set(left["net-1"]) <= keys(port(6))
        await driver.remove("net-1")
        assert await driver.counters() == {}


async def test_networks_of_one_host_may_have_the_same_addresses(host: NetworkHost) -> None:
    async with host.open() as driver:
        for uid in ("net-1", "net-2"):
            await driver.apply(network(host, uid, port(5, uid)))
        assert sorted(await driver.inventory()) == ["net-1", "net-2"]
        await driver.remove("net-1")
        assert (await driver.observe("net-2")).ports == keys(port(5, "net-2"))
