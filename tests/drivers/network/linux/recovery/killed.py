"""A driver that is killed (SIGKILL) in the middle of a verb, by `test_killed_at_every_await`.

The points are found by counting (see `counting_loop`). Exit status 0: the verb came to its end first.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from tests.drivers.counting_loop import CountingLoop
from tests.drivers.network.linux.networks import network
from tests.drivers.network.linux.recovery.driven import driver_of, port
from virtplane_api.vocabulary import ForwardProtocol, NetworkMode
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import Network, PortForward
from virtplane_drivers.network.linux.driver import LinuxNetworks

STAYS, GOES, COMES = port(1), port(2), port(3)
_FORWARDED = replace(COMES, forwards=(PortForward(ForwardProtocol.TCP, 8080, 80),))


def before(uid: str) -> Network:
    """As it is to begin with."""
    return network(NetworkMode.NAT, uid=uid, ports=(STAYS, GOES))


def after(uid: str) -> Network:
    """One port has gone, one has come, with a forward; one stays."""
    return network(NetworkMode.NAT, uid=uid, ports=(STAYS, _FORWARDED))


async def apply(driver: LinuxNetworks, uid: str) -> None:
    await driver.apply(after(uid))


async def attach(driver: LinuxNetworks, uid: str) -> None:
    """As a hypervisor driver does, whose process then holds the tap."""
    one = after(uid)
    await driver.apply(one)
    descriptors = await in_thread(open_tap, await driver.attachment(one, _FORWARDED), 2)
    assert len(descriptors) == 2


async def remove(driver: LinuxNetworks, uid: str) -> None:
    await driver.remove(uid)


VERBS: dict[str, Callable[[LinuxNetworks, str], Awaitable[None]]] = {
    verb.__name__: verb for verb in (apply, attach, remove)
}


async def perform(options: argparse.Namespace) -> None:
    """Know the networks that are there, then do the verb with the counting on."""
    async with driver_of(options.folder, options.host_namespace) as driver:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        loop.arm()
        await VERBS[options.verb](driver, options.uid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("host_namespace", type=Path)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("uid")
    parser.add_argument("fatal", type=int)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=lambda: CountingLoop(options.fatal)) as runner:
        runner.run(perform(options))


if __name__ == "__main__":
    main()
