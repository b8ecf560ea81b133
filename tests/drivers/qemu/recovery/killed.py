"""A driver that is killed (SIGKILL) in the middle of a verb: `python -m tests.drivers.qemu.recovery.killed ...`.

The points are found by counting (see `counting_loop`). Exit status 0: the verb came to its end first.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.drivers.counting_loop import CountingLoop
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Observed
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver


async def until(driver: QemuDriver, uid: str, power: PowerState) -> Observed:
    async with asyncio.timeout(30):
        while (seen := await driver.observe(uid)).power is not power:
            await asyncio.sleep(0.02)
    return seen


async def start(driver: QemuDriver, uid: str) -> None:
    await driver.start(uid)


async def shut_down(driver: QemuDriver, uid: str) -> None:
    """Asked again as an agent does: a guest that boots hears nothing."""
    async with asyncio.timeout(30):
        while (await driver.observe(uid)).power is not PowerState.STOPPED:
            await driver.shut_down(uid)
            await asyncio.sleep(0.2)


async def restart(driver: QemuDriver, uid: str) -> None:
    await shut_down(driver, uid)
    await driver.start(uid)


async def suspend(driver: QemuDriver, uid: str) -> None:
    async with asyncio.timeout(30):
        while (await driver.observe(uid)).power is not PowerState.SUSPENDED:
            await driver.suspend(uid)
            await asyncio.sleep(0.05)


async def change_nics(driver: QemuDriver, uid: str) -> None:
    await driver.change_nics(uid)


async def power_off(driver: QemuDriver, uid: str) -> None:
    await driver.power_off(uid)


async def destroy(driver: QemuDriver, uid: str) -> None:
    await driver.destroy(uid)


VERBS: dict[str, Callable[[QemuDriver, str], Awaitable[None]]] = {
    verb.__name__: verb for verb in (start, shut_down, restart, suspend, change_nics, power_off, destroy)
}


async def perform(folder: Path, verb: str, uid: str) -> None:
    """Adopt the machine, then do the verb with the counting on."""
    async with QemuDriver(folder / "state", folder / "run", accelerator="tcg") as driver:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        loop.arm()
        await VERBS[verb](driver, uid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("uid")
    parser.add_argument("fatal", type=int)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=lambda: CountingLoop(options.fatal)) as runner:
        runner.run(perform(options.folder, options.verb, options.uid))


if __name__ == "__main__":
    main()
