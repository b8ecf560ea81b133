"""Ports that come and go leave nothing, however many there were.

One network stays, with one machine on it, as the network of a busy tenant does; each tenth cycle it is removed as a
whole and made anew, which costs as much as the three steps of a cycle together.
"""

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.recovery.driven import Driven, port
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.linux.driver import LinuxNetworks

ANEW_EVERY = 10
_NUMBERS = 200
"""Of ports: addresses are used again."""


def held_by_us() -> Counter[str]:
    """Descriptors of this process by kind, of files by name without its folder, as each dnsmasq has one; threads."""
    held: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            held[entry.readlink().name.split(":[")[0]] += 1
        except FileNotFoundError:  # that of the listing itself
            continue
    held["threads"] = threading.active_count()
    return held


async def come_and_go(driver: LinuxNetworks, driven: Driven, cycle: int) -> None:
    """A machine with a tap comes to the network and goes."""
    stays, comes = port(0), port(1 + cycle % _NUMBERS)
    both = driven.network(stays, comes)
    await driver.apply(both)
    for descriptor in open_tap(await driver.attachment(both, comes), 1):
        os.close(descriptor)
    await driver.apply(driven.network(stays))
    if cycle % ANEW_EVERY == 0:
        await driver.remove(driven.uid)
        await driver.apply(driven.network(stays))


@pytest.mark.parametrize(
    "cycles", [50, pytest.param(1_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])], ids="{} cycles".format
)
async def test_ports_that_come_and_go_leave_nothing(driven: Driven, cycles: int) -> None:
    async with driven.open() as driver:
        await come_and_go(driver, driven, 0)  # what is made once for all, is
        await driver.remove(driven.uid)
        eventually(lambda: set(driven.host.machine.links()) == {"lo", "eth0"})
        without = driven.seen()
        await driver.apply(driven.network(port(0)))
        with_one, ours = driven.seen(), held_by_us()
        for cycle in range(1, cycles + 1):
            await come_and_go(driver, driven, cycle)
        eventually(lambda: driven.differs(with_one) == [])
        eventually(lambda: held_by_us() == ours)
        await driver.remove(driven.uid)
        eventually(lambda: driven.differs(without) == [])
    assert without["dnsmasq"] == 0
    assert not any(driven.uid in what or what.startswith("nft ") for what in without)
