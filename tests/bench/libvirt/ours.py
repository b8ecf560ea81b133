"""Our side: the driver in a process that has imported all that an agent does. `ours FOLDER`. One JSON line in, one out.

Ends, and ends its machines, when its stdin does.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import virtplane_agent.main  # noqa: F401  # for what it imports
from tests.bench.libvirt.machines import ACCELERATOR, desired
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver


class Ours:
    """Machines of one driver."""

    def __init__(self, driver: QemuDriver) -> None:
        self._driver = driver

    async def define(self, machines: list[str], disks: list[str]) -> None:
        for uid, disk in zip(machines, disks, strict=True):
            await self._driver.define(desired(uid, Path(disk)))

    async def start(self, machines: list[str]) -> None:
        await self._all(machines, self._driver.start)

    async def destroy(self, machines: list[str]) -> None:
        await self._all(machines, self._driver.destroy)

    async def stats(self, machines: list[str]) -> None:
        seen = await asyncio.gather(*map(self._driver.observe, machines))
        assert all(machine.power is PowerState.RUNNING for machine in seen), seen

    async def states(self, machines: list[str]) -> None:
        """There is no cheaper look."""
        await self.stats(machines)

    async def forget(self, machines: list[str]) -> None:
        """Nothing is left to forget."""

    async def _all(self, machines: list[str], act: Callable[[str], Awaitable[None]]) -> None:
        await asyncio.gather(*map(act, machines))


async def main(folder: Path) -> None:
    """Serve until stdin ends."""
    async with QemuDriver(folder / "state", folder / "run", accelerator=ACCELERATOR) as driver:
        ours = Ours(driver)
        try:
            while line := await asyncio.to_thread(sys.stdin.readline):
                request = json.loads(line)
                act = getattr(ours, request.pop("verb"))
                began = time.perf_counter()
                await act(**request)
                print(json.dumps({"took_s": time.perf_counter() - began}), flush=True)
        finally:
            await asyncio.gather(*map(driver.destroy, await driver.inventory()), return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
