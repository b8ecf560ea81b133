"""What guests are told by DHCP, while dnsmasq dies, and while no agent is there."""

import asyncio
import os
import signal

from tests.cluster.network_leftovers import network_processes
from tests.drivers.network.linux.dnsmasq import dhcp_client
from tests.drivers.network.linux.dnsmasq.served import lease
from tests.drivers.network.linux.networks import GATEWAY_IPV4
from tests.drivers.network.linux.recovery.driven import Driven
from tests.drivers.network.linux.recovery.killed import STAYS
from tests.drivers.network.linux.recovery.test_killed_at_every_await import joined, killed

ADDRESS = str(STAYS.addresses[0])


async def test_a_dnsmasq_that_was_killed_is_told_of_and_served_again_by_the_apply_that_follows(driven: Driven) -> None:
    network = driven.network(STAYS)
    async with driven.open() as driver:
        await driver.apply(network)
        guest = joined(driven)
        (dnsmasq,) = network_processes(driven.folder)
        told = asyncio.ensure_future(anext(driver.events()))
        os.kill(dnsmasq, signal.SIGKILL)
        # As an agent's loop does.
        assert await asyncio.wait_for(told, 20.0) == driven.uid
        await driver.apply(network)
        assert network_processes(driven.folder) not in ([], [dnsmasq])
        assert str(lease(guest, STAYS.mac).address) == ADDRESS
        guest.ip("link", "delete", "eth0")
        await driver.remove(driven.uid)


async def test_a_guest_renews_while_no_agent_is_there_and_when_the_next_one_has_come(driven: Driven) -> None:
    async with killed(driven, "apply", 10**9):  # comes to its end, and is gone then
        pass
    guest = joined(driven)
    (dnsmasq,) = network_processes(driven.folder)

    def renews() -> bool:
        reply = guest.inside(lambda: dhcp_client.renewed(STAYS.mac, ADDRESS, GATEWAY_IPV4))
        return reply is not None and str(reply.address) == ADDRESS

    assert renews()
    async with driven.open() as driver:
        renewing = asyncio.create_task(asyncio.to_thread(renews))
        (uid,) = await driver.inventory()
        assert await renewing
        assert network_processes(driven.folder) == [dnsmasq]
        guest.ip("link", "delete", "eth0")
        await driver.remove(uid)
