"""The agent's process is killed at each point where it can stand still; the next driver ends as if nothing had been.

Meanwhile the packets of a guest that is there already flow: to its gateway, and out.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.dnsmasq.served import lease
from tests.drivers.network.linux.host import OUTSIDE_IPV4, Namespace
from tests.drivers.network.linux.networks import GATEWAY_IPV4
from tests.drivers.network.linux.recovery.driven import Driven
from tests.drivers.network.linux.recovery.flow import flowing
from tests.drivers.network.linux.recovery.killed import COMES, STAYS, after, before
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import Network, NetworkState
from virtplane_drivers.network.linux.names import tap_name

EVERY = int(os.environ.get("VIRTPLANE_EVERY_AWAIT", "23"))
"""Each how many-th point is tried: `pytest` alone takes a sample, `make test-long` takes all (1)."""

pytestmark = pytest.mark.timeout(2400)


@asynccontextmanager
async def killed(driven: Driven, verb: str, fatal: int) -> AsyncIterator[bool]:
    """Whether the verb did not come to its end before."""
    words = (str(driven.folder), str(driven.host.machine.path), verb, driven.uid, str(fatal))
    module = "tests.drivers.network.linux.recovery.killed"
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *words)
    status = await process.wait()
    assert status in (0, -signal.SIGKILL)
    yield status != 0


async def seen_after(driven: Driven, network: Network) -> Counter[str]:
    """The host as a driver leaves it that nobody killed."""
    async with driven.open() as driver:
        await driver.apply(network)
    return driven.seen()


async def seen_without(driven: Driven) -> Counter[str]:
    """The host that had networks, and has none."""
    async with driven.open() as driver:
        await driver.remove(driven.uid)
    eventually(lambda: set(driven.host.machine.links()) == {"lo", "eth0"})
    return driven.seen()


@pytest.mark.parametrize("verb", ["apply", "remove"])
@pytest.mark.parametrize("is_wanted_then", [True, False], ids=["is wanted then", "is not wanted then"])
async def test_a_network_that_was_being_made_or_removed_is_whole_or_gone_after_the_next_driver(
    driven: Driven, verb: str, *, is_wanted_then: bool
) -> None:
    whole, nothing = await seen_after(driven, after(driven.uid)), await seen_without(driven)
    fatal, goes_on = 1, True
    while goes_on:
        async with driven.open() as driver:
            await (driver.remove(driven.uid) if verb == "apply" else driver.apply(after(driven.uid)))
        async with killed(driven, verb, fatal) as goes_on, driven.open() as driver:
            if is_wanted_then:
                await driver.apply(after(driven.uid))
                assert (await driver.observe(driven.uid)).state is NetworkState.READY
                assert driven.differs(whole) == [], f"killed at point {fatal}"
            else:
                for uid in await driver.inventory():
                    await driver.remove(uid)
                settled(driven, nothing, f"killed at point {fatal}")
        fatal += EVERY
    assert fatal > 1 + EVERY
    await seen_without(driven)


async def test_a_change_is_gone_on_with_and_a_running_guest_does_not_notice(driven: Driven) -> None:
    begun, changed = before(driven.uid), after(driven.uid)
    await seen_after(driven, begun)
    guest = joined(driven)
    whole = await seen_after(driven, changed)
    fatal, goes_on = 1, True
    while goes_on:
        await seen_after(driven, begun)
        with flowing(guest, GATEWAY_IPV4), flowing(guest, OUTSIDE_IPV4):
            async with killed(driven, "attach", fatal) as goes_on, driven.open() as driver:
                await driver.apply(changed)
                settled(driven, whole, f"killed at point {fatal}")
                (comes,) = (port for port in changed.ports if port.key == COMES.key)
                for descriptor in open_tap(await driver.attachment(changed, comes), 2):
                    os.close(descriptor)
        assert str(lease(guest, STAYS.mac).address) == str(STAYS.addresses[0])
        fatal += EVERY
    assert fatal > 1 + EVERY
    guest.ip("link", "delete", "eth0")
    await seen_without(driven)


async def test_a_namespace_that_was_never_mounted_is_known_and_goes(driven: Driven) -> None:
    """Killed between its file and the mount: that happens in a thread, where no await is."""
    await seen_after(driven, after(driven.uid))
    nothing = await seen_without(driven)
    driven.router.touch()
    async with driven.open() as driver:
        assert driven.uid in await driver.inventory()
        assert (await driver.observe(driven.uid)).state is None
        await driver.remove(driven.uid)
    assert driven.differs(nothing) == []


def joined(driven: Driven) -> Namespace:
    """Stands in for the guest of the port that stays, and has looked up its neighbours."""
    addresses = [f"{address}/{24 if address.version == 4 else 64}" for address in STAYS.addresses]
    how = {"gateways": (GATEWAY_IPV4,), "port": tap_name(STAYS)}
    guest = driven.host.guest(driven.router, STAYS.mac, *addresses, **how)  # type: ignore[arg-type]
    for address in (GATEWAY_IPV4, OUTSIDE_IPV4):
        guest.reaches(address)
    return guest


def settled(driven: Driven, expected: Counter[str], when: str) -> None:
    """What takes its time to go is waited for; then nothing differs."""
    try:
        eventually(lambda: driven.differs(expected) == [])
    except AssertionError:
        assert driven.differs(expected) == [], when
