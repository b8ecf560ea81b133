"""A passt that ends over and over: how soon it is started again, and whom that hinders."""

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.drivers.network.passt.test_passt import UserHost, host, network, port
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import NetworkState, Subnet

__all__ = ["host"]


async def test_one_that_ends_again_soon_waits_and_only_its_own_machine_with_it(
    host: UserHost,  # the fixture
) -> None:
    mine, other = port(), port(machine="vm-2")
    async with host.open() as driver:
        await driver.apply(network(mine, other))
        (mine_socket, other_socket) = [(await driver.attachment(network(), one)).socket for one in (mine, other)]
        for _ in range(2):
            (pid,) = host.pids(mine_socket)
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                await anext(driver.events())
            await driver.apply(network(mine, other))
        assert (len(host.pids(mine_socket)), len(host.pids(other_socket))) == (0, 1)
        seen = await driver.observe("net-1")
        assert (seen.state, seen.ports) == (NetworkState.FAILED, frozenset({other.key}))
        with pytest.raises(Unavailable, match="passt of vm-1/lan ended again and again"):
            await driver.attachment(network(), mine)
        assert (await driver.attachment(network(), other)).socket == other_socket
        # A machine that comes meanwhile, and the next agent, which counts from zero.
        await driver.apply(network(mine, other, port(machine="vm-3")))
        assert len(host.pids()) == 2
    async with host.open() as driver:
        await driver.apply(network(mine, other))
        assert len(host.pids(mine_socket)) == 1


async def test_each_has_a_cgroup_of_its_own_which_goes_with_it(host: UserHost) -> None:
    async with host.open() as driver:
        await driver.apply(network(port()))
        (pid,) = host.pids()
        groups = {line.rsplit("/", 1)[-1] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}  # noqa: ASYNC240
        (name,) = {name for name in groups if name.startswith("port-net-1-")}
        await driver.remove("net-1")
    assert [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if folder.endswith(name)] == []


async def test_one_that_cannot_start_is_no_network_that_is_served_and_its_words_stay_with_who_waits(
    host: UserHost,  # the fixture
) -> None:
    mine = replace(port(), addresses=(ip_address("fd00::5"),))
    ipv6 = Subnet(ip_network("fd00::/64"), ip_address("fd00::1"))
    alone = replace(network(mine), ipv4=None, ipv6=ipv6)
    host.host.machine.run("ip", "-6", "route", "flush", "default")
    async with host.open() as driver:
        for _ in range(3):  # the third time it waits already
            with contextlib.suppress(Unavailable):
                await driver.apply(alone)
        seen = await driver.observe("net-1")
        assert (seen.state, seen.ports) == (NetworkState.FAILED, frozenset())
        assert "No external routable interface for IPv6" in seen.message
        with pytest.raises(Unavailable, match=r"again and again.*No external routable interface for IPv6"):
            await driver.attachment(alone, mine)
        await driver.remove("net-1")
        assert (await driver.observe("net-1")).state is None
