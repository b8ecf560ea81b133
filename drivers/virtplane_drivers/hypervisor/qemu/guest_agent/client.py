"""One channel to one guest's agent, one request at a time.

Between requests nothing is read, so a guest that floods while nobody asks costs nothing: QEMU stops taking its bytes.
A request is sent only when a sync has just been answered. None waits in the channel for an agent that starts later,
which would then shut down a guest that nobody wants shut down any more.
"""

import asyncio
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from virtplane_drivers.hypervisor.qemu.guest_agent.errors import (
    AgentDisconnected,
    AgentGarbage,
    AgentRefused,
    AgentSilent,
)
from virtplane_drivers.hypervisor.qemu.guest_agent.replies import ReplyReader, SyncFinder
from virtplane_drivers.hypervisor.qemu.monitor.connecting import connected_socket

SYNC_TIMEOUT_S = 5.0
"""An agent that is there and idle answers in milliseconds."""
REFUSAL_TIMEOUT_S = 2.0
_READ_BYTES = 16 << 10
_MAX_TEXT = 500
_MAX_SYNC_ID = 1 << 53
"""JSON numbers up to here are exact everywhere."""


class GuestAgent(asyncio.BufferedProtocol):
    """The channel. Made by `connect`. That it is open says nothing of an agent: QEMU holds its other end."""

    def __init__(self, sync_timeout_s: float = SYNC_TIMEOUT_S) -> None:
        self._sync_timeout_s = sync_timeout_s
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._transport: asyncio.Transport | None = None
        self._end: AgentDisconnected | None = None
        self._one_at_a_time = asyncio.Lock()
        self._expected: SyncFinder | ReplyReader | None = None
        self._found: asyncio.Future[Any] = self._loop.create_future()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = 10.0,
        max_text_bytes: int | None = None,
    ) -> Any:
        """The agent's `return` value, just as the guest wrote it: check every type.

        With `max_text_bytes` longer texts in it are cut to that (see `TextCutter`), and it may be longer on its way.

        Raises:
            AgentRefused: the agent answered with an error.
            AgentSilent: no answer within `timeout_s`, the wait for former requests and the sync included.
            AgentGarbage: the answer is none.
            AgentDisconnected: the channel ended.
            TypeError: the arguments are no JSON.
        """
        payload = _request(command, arguments)
        try:
            async with asyncio.timeout(timeout_s), self._one_at_a_time:
                await self._sync(command)
                return await self._reply(command, payload, max_text_bytes)
        except TimeoutError as error:
            raise AgentSilent(f"{command}: no answer within {timeout_s:g} s") from error

    async def tell(self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0) -> None:
        """The same for commands that are answered only when they fail (guest-shutdown, guest-suspend-*).

        Returns once no error has come within REFUSAL_TIMEOUT_S, or the channel has ended; watch the guest for the
        effect. Raises what `execute` raises.
        """
        payload = _request(command, arguments)
        try:
            async with asyncio.timeout(timeout_s), self._one_at_a_time:
                await self._sync(command)
                self._check_open()
                try:
                    async with asyncio.timeout(REFUSAL_TIMEOUT_S):
                        await self._reply(command, payload)
                except (TimeoutError, AgentDisconnected):
                    return
        except TimeoutError as error:
            raise AgentSilent(f"{command}: no answer within {timeout_s:g} s") from error

    def close(self) -> None:
        """End the channel on this side. May be called again."""
        self._finish(AgentDisconnected("closed by this side"))

    # ------------------------------------------------------------------------------------------------------------------

    async def _sync(self, command: str) -> None:
        sync_id = secrets.randbelow(_MAX_SYNC_ID)
        # 0xFF ends whatever half request the agent may have read before.
        request = b"\xff" + _request("guest-sync-delimited", {"id": sync_id})
        try:
            async with asyncio.timeout(self._sync_timeout_s):
                await self._exchange(request, SyncFinder(sync_id))
        except TimeoutError as error:
            message = f"{command}: not sent, as no agent answers within {self._sync_timeout_s:g} s"
            raise AgentSilent(message) from error

    async def _reply(self, command: str, payload: bytes, max_text_bytes: int | None = None) -> Any:
        reply = await self._exchange(payload, ReplyReader(max_text_bytes=max_text_bytes))
        if "return" in reply:
            return reply["return"]
        error = reply["error"] if isinstance(reply["error"], dict) else {}
        raise AgentRefused(command, str(error.get("class", ""))[:_MAX_TEXT], str(error.get("desc", ""))[:_MAX_TEXT])

    async def _exchange(self, payload: bytes, expected: SyncFinder | ReplyReader) -> Any:
        transport = self._check_open()
        if transport.get_write_buffer_size() > 0:
            await asyncio.sleep(0)  # who asks in a loop must not keep the loop from writing, nor from anything else
            raise AgentSilent("the guest takes no bytes: no agent runs, or it hangs")
        self._expected, self._found = expected, self._loop.create_future()
        transport.write(payload)
        transport.resume_reading()
        try:
            return await self._found
        finally:
            self._expected = None
            transport.pause_reading()

    def _check_open(self) -> asyncio.Transport:
        if self._end is not None or self._transport is None:
            raise AgentDisconnected(str(self._end or "not connected"))
        return self._transport

    def _finish(self, end: AgentDisconnected) -> None:
        if self._end is not None:
            return
        self._end = end
        if self._transport is not None:
            self._transport.abort()
        if self._expected is not None and not self._found.done():
            self._found.set_exception(end)

    # --- asyncio.BufferedProtocol -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected to QEMU."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what create_unix_connection gives
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of the guest."""
        if self._expected is None or self._found.done():
            return
        try:
            found = self._expected.feed(bytes(self._buffer[:nbytes]))
        except AgentGarbage as garbage:
            self._found.set_exception(garbage)
        else:
            if found:
                self._found.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        """QEMU closed the channel, or died."""
        self._finish(AgentDisconnected("QEMU closed the channel" if exc is None else f"channel lost: {exc!r}"))


async def connect(path: Path, *, timeout_s: float = 5.0, sync_timeout_s: float = SYNC_TIMEOUT_S) -> GuestAgent:
    """An open channel. Leaves nothing open when it fails or is cancelled.

    Raises:
        AgentSilent: QEMU does not take the connection in time; its chardev serves one client.
        OSError: there is no such socket, or nobody listens on it.
    """
    try:
        async with asyncio.timeout(timeout_s):
            connection = await connected_socket(path)
    except TimeoutError as error:
        raise AgentSilent(f"{path}: not connected within {timeout_s:g} s; another client may be connected") from error
    agent = GuestAgent(sync_timeout_s)
    try:
        transport, _agent = await asyncio.get_running_loop().create_unix_connection(lambda: agent, sock=connection)
        transport.pause_reading()
    except BaseException:
        agent.close()
        connection.close()
        raise
    return agent


def _request(command: str, arguments: Mapping[str, Any] | None) -> bytes:
    # Without an id: agents before 3.0 refuse one.
    request: dict[str, Any] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    return orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)
