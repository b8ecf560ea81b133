"""A QMP server in this process that says what a test tells it to: a double, for timings that no QEMU shows at will."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": ["oob"]}}


class ScriptedServer:
    """One client at a time, as QMP. Negotiates by itself unless told not to; the rest is the test's."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.connected = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    def send(self, *messages: object, end: bytes = b"\r\n") -> None:
        """Messages in one write; bytes go as they are."""
        assert self._writer is not None
        self._writer.write(b"".join(m if isinstance(m, bytes) else orjson.dumps(m) + end for m in messages))

    async def drain(self) -> None:
        assert self._writer is not None
        await self._writer.drain()

    async def request(self) -> dict[str, Any]:
        """The next request that came in."""
        async with asyncio.timeout(5):
            return await self.requests.get()

    def hang_up(self) -> None:
        assert self._writer is not None
        self._writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, greet: bool) -> None:
        self._writer = writer
        self.connected.set()
        if greet:
            self.send(GREETING)
        while line := await reader.readline():
            request = orjson.loads(line)
            if request["execute"] == "qmp_capabilities":
                self.send({"return": {}, "id": request["id"]})
            else:
                self.requests.put_nowait(request)
        writer.close()


@asynccontextmanager
async def scripted_server(path: Path, *, greet: bool = True) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    serving: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(scripted.serve(reader, writer, greet=greet)))

    server = await asyncio.start_unix_server(accepted, path, limit=1 << 24)
    try:
        yield scripted
    finally:
        server.close()
        if scripted._writer is not None:
            scripted._writer.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
