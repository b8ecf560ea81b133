"""A guest's agent in this process that does what a test tells it to: a double, as no real one is hostile.

It stands where QEMU's end of the channel is: what a test sends, the guest wrote.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.unix_sockets import bound
from virtplane_drivers.hypervisor.qemu.guest_agent import GuestAgent, connect
from virtplane_drivers.hypervisor.qemu.guest_agent.client import SYNC_TIMEOUT_S

DEADLINE_S = 20.0


class ScriptedAgent:
    """The guest's end of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.raw = b""
        """All that came, unparsed."""
        self._unread = b""

    async def send(self, *messages: object) -> None:
        """Bytes go as they are."""
        payload = b"".join(m if isinstance(m, bytes) else orjson.dumps(m) + b"\n" for m in messages)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_sendall(self.channel, payload)

    async def request(self) -> dict[str, Any]:
        """The next request, of whatever kind."""
        async with asyncio.timeout(DEADLINE_S):
            while b"\n" not in self._unread:
                data = await asyncio.get_running_loop().sock_recv(self.channel, 1 << 16)
                assert data, "the client hung up"
                self.raw += data
                self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        request = orjson.loads(line.lstrip(b"\xff"))
        assert isinstance(request, dict)
        return request

    async def sync(self, before: bytes = b"", behind: bytes = b"") -> int:
        """Answer a sync, with these bytes around the answer; its id."""
        request = await self.request()
        assert request["execute"] == "guest-sync-delimited"
        number = request["arguments"]["id"]
        assert isinstance(number, int)
        await self.send(before + b'\xff{"return": %d}\n' % number + behind)
        return number

    async def serve(self, reply: object = None) -> dict[str, Any]:
        """Answer a sync and the request behind it."""
        await self.sync()
        request = await self.request()
        await self.send({"return": {}} if reply is None else reply)
        return request

    def syncs_so_far(self) -> int:
        """How many have been asked for, of those that were read."""
        return len(re.findall(b"guest-sync-delimited", self.raw))


@asynccontextmanager
async def channel(
    folder: Path, sync_timeout_s: float = SYNC_TIMEOUT_S
) -> AsyncIterator[tuple[GuestAgent, ScriptedAgent]]:
    """A client and its guest."""
    with bound(folder / "agent") as listener:
        listener.setblocking(False)  # noqa: FBT003
        listener.listen(1)
        client = await connect(folder / "agent", sync_timeout_s=sync_timeout_s)
        end, _address = await asyncio.get_running_loop().sock_accept(listener)
    with end:
        try:
            yield client, ScriptedAgent(end)
        finally:
            client.close()
