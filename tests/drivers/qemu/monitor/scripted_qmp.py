"""A QMP server in this process that does what a test tells it to: a double, for timings that no QEMU shows at will.

It reads only when the test asks for a request, so that a server that does not read is one that is not asked.
"""

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.unix_sockets import address_of

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": ["oob"]}}
DEADLINE_S = 20.0


def event(name: str, **data: Any) -> dict[str, Any]:
    return {"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}}


class ScriptedServer:
    """Listens; its one client is whoever came last."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.setblocking(False)  # noqa: FBT003
        with address_of(path) as address:
            self.listener.bind(address)
        self.listener.listen(1)
        self.client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.descriptors: list[int] = []
        """Passed and not closed yet, in the order of their arrival."""
        self._lines: deque[bytes] = deque()
        self._unfinished = b""

    async def accept(self) -> None:
        """Take the next client, and say nothing to it."""
        async with asyncio.timeout(DEADLINE_S):
            self.client.close()
            self.client, _address = await asyncio.get_running_loop().sock_accept(self.listener)
        self._lines.clear()
        self._unfinished = b""

    async def negotiate(self, *left_overs: object) -> None:
        """Greet and leave negotiation mode, with messages of old between the client's request and the answer to it."""
        await self.send(GREETING)
        request = await self.request()
        assert request["execute"] == "qmp_capabilities"
        await self.send(*left_overs, {"return": {}, "id": request["id"]})

    async def send(self, *messages: object, end: bytes = b"\r\n") -> None:
        """Messages in one write, if the socket takes it; bytes go as they are."""
        payload = b"".join(m if isinstance(m, bytes) else orjson.dumps(m) + end for m in messages)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_sendall(self.client, payload)

    async def flood(self, size_bytes: int) -> None:
        """Bytes without a line's end."""
        for _ in range(size_bytes >> 20):
            await self.send(b"x" * (1 << 20))

    async def answer(self, request: dict[str, Any], value: object = None) -> None:
        await self.send({"return": {} if value is None else value, "id": request["id"]})

    async def request(self) -> dict[str, Any]:
        """The next request."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._lines:
                await self._readable()
                assert self._read(), "the client hung up"
        message = orjson.loads(self._lines.popleft())
        assert isinstance(message, dict)
        return message

    def requests_so_far(self) -> list[dict[str, Any]]:
        """What has come in by now."""
        try:
            while self._read():
                pass
        except BlockingIOError:
            pass
        lines = [orjson.loads(line) for line in self._lines]
        self._lines.clear()
        return lines

    async def client_is_gone(self) -> bool:
        """Once the client has closed; what it sent before is dropped."""
        async with asyncio.timeout(DEADLINE_S):
            await self._readable()
            while self._read():
                await self._readable()
        return True

    def hang_up(self) -> None:
        """Close; with requests unread, which the client sees as a reset."""
        self.client.close()

    def close(self) -> None:
        self.client.close()
        self.listener.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.client, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self.client)

    def _read(self) -> bool:
        """Whether the client is still there. Raises BlockingIOError when there is nothing to read."""
        try:
            data, ancillary, _flags, _address = self.client.recvmsg(1 << 16, socket.CMSG_SPACE(64))
        except ConnectionResetError:
            return False
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.descriptors.extend(array.array("i", rights))
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        self._lines.extend(lines)
        return bool(data)


@asynccontextmanager
async def scripted_server(path: Path) -> AsyncIterator[ScriptedServer]:
    """A server that listens."""
    server = ScriptedServer(path)
    try:
        yield server
    finally:
        server.close()
