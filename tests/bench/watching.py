"""When machines become Ready, as a client that watches them sees it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import is_true
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Key, Object


class ReadyTimes:
    """Monotonic time at which each machine was first seen Ready."""

    def __init__(self, client: KubeClient) -> None:
        self.at_s: dict[str, float] = {}
        self._informer = Informer(client, VIRTUAL_MACHINES, self._changed)
        self._news = asyncio.Event()

    def _changed(self, key: Key) -> None:
        machine = self._informer.objects.get(key)
        if machine is not None and key.name not in self.at_s and is_true(machine, "Ready"):
            self.at_s[key.name] = time.monotonic()
            self._news.set()

    async def wait_for(self, count: int, timeout_s: float) -> None:
        """Return once so many machines have been Ready."""
        async with asyncio.timeout(timeout_s):
            while len(self.at_s) < count:
                self._news.clear()
                await self._news.wait()

    async def wait_until_gone(self, timeout_s: float) -> None:
        """Return once there is no machine any more."""
        async with asyncio.timeout(timeout_s):
            while self._informer.objects:
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ReadyTimes"]:
        """Watch for the length of the block."""
        task = asyncio.create_task(self._informer.run())
        try:
            await self._informer.synced.wait()
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def create_paced(client: KubeClient, machines: list[Object], pace_s: float) -> dict[str, float]:
    """Create machines at a steady pace, never faster; when each was asked for."""
    asked: dict[str, float] = {}
    began = time.monotonic()
    for index, machine in enumerate(machines):
        await asyncio.sleep(max(0.0, began + index * pace_s - time.monotonic()))
        asked[machine["metadata"]["name"]] = time.monotonic()
        await client.create(VIRTUAL_MACHINES, machine, field_manager="bench")
    return asked
