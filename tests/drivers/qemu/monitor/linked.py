"""A monitor that is connected to a scripted server, and what it told its owner."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.drivers.qemu.monitor.scripted_qmp import DEADLINE_S, ScriptedServer, scripted_server
from virtplane_drivers.hypervisor.qemu.monitor import Monitor, MonitorClosed, connect

Requests = list[dict[str, Any]]


class Linked:
    """Both ends of a connection."""

    def __init__(self, path: Path, server: ScriptedServer) -> None:
        self.path = path
        self.server = server
        self.events: list[dict[str, Any]] = []
        self.ends: list[MonitorClosed] = []
        self.monitor: Monitor

    @property
    def event_names(self) -> list[str]:
        return [event["event"] for event in self.events]

    async def connect(self, *left_overs: object) -> Monitor:
        """A monitor that the server has negotiated with."""
        connecting = asyncio.create_task(connect(self.path, on_event=self.events.append, on_close=self.ends.append))
        await self.server.accept()
        await self.server.negotiate(*left_overs)
        self.monitor = await connecting
        return self.monitor

    def ask(self, command: str, **arguments: Any) -> "asyncio.Task[Any]":
        """A caller of its own."""
        return asyncio.create_task(self.monitor.execute(command, arguments))

    async def asked(self, count: int) -> "tuple[list[asyncio.Task[Any]], Requests]":
        """So many callers whose commands the server has."""
        tasks = [self.ask(f"command-{number}") for number in range(count)]
        return tasks, [await self.server.request() for _ in tasks]

    async def end(self) -> MonitorClosed:
        """The monitor's end, once it has come."""
        await until(lambda: bool(self.ends))
        return self.ends[0]


async def until(condition: Callable[[], bool], timeout_s: float = DEADLINE_S) -> None:
    """Returns once it holds; a TimeoutError when it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)


def open_descriptors() -> int:
    """Of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[Linked]:
    """A server and a monitor, connected."""
    path = folder / "qmp"
    async with scripted_server(path) as server:
        link = Linked(path, server)
        await link.connect()
        try:
            yield link
        finally:
            link.monitor.close()
