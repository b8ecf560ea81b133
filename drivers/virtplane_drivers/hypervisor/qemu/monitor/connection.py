"""One connection: greeting, negotiation, commands with replies matched by `id`, events in wire order, one end.

::

    connect ──► (greeting) ──► (qmp_capabilities) ──► open ──► closed
                    └───────────────┴─── deadline, garbage, EOF ──┘

Nothing in the reader waits: a reply settles its own future, an event goes to `on_event`, which must return at once. A
caller that is cancelled or runs out of time leaves its command on the wire; the reply that comes later finds an
abandoned id, and is dropped and counted. The end fails every waiting command once, after the delivery of all that was
read before it.
"""

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from virtplane_drivers.hypervisor.qemu.monitor.errors import (
    CommandFailed,
    MonitorClosed,
    MonitorTimeout,
    ProtocolViolation,
)
from virtplane_drivers.hypervisor.qemu.monitor.wire import LineReader, Message

MAX_IN_FLIGHT = 8
"""QEMU stops reading when more in-band commands wait than this (QMP_REQ_QUEUE_LEN_MAX)."""

_SUN_PATH_MAX_BYTES = 107

EventHandler = Callable[[Message], None]
CloseHandler = Callable[[MonitorClosed], None]


class Monitor(asyncio.Protocol):
    """An open QMP connection. Made by `connect`."""

    def __init__(self, on_event: EventHandler, on_close: CloseHandler) -> None:
        self.greeting: Message = {}
        self.dropped_replies = 0
        """Replies whose caller had gone, or whose id was never used."""
        self._on_event = on_event
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._reader = LineReader()
        self._transport: asyncio.Transport | None = None
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._ids = itertools.count(1)
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._end: MonitorClosed | None = None

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._end is None

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0
    ) -> Any:
        """QEMU's `return` value for a command.

        Raises:
            CommandFailed: QEMU refused it.
            MonitorTimeout: no answer within `timeout_s`, the wait for a free slot included. It may still happen.
            MonitorClosed: the connection ended before the answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                # A slot is held until the reply, not until the caller goes: QEMU still has the command.
                await self._slots.acquire()
                try:
                    await self._can_write.wait()
                except BaseException:
                    self._slots.release()
                    raise
                return await self._send(command, arguments)
        except TimeoutError as error:
            raise MonitorTimeout(f"{command}: no answer within {timeout_s:g} s") from error

    def _send(self, command: str, arguments: Mapping[str, Any] | None) -> "asyncio.Future[Any]":
        if self._end is not None or self._transport is None:
            self._slots.release()
            raise MonitorClosed(f"{command}: {self._end or 'not connected'}") from self._end
        number = next(self._ids)
        request: Message = {"execute": command, "id": number}
        if arguments:
            request["arguments"] = arguments
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = (command, reply)
        # One write per command: the transport keeps what the socket does not take, and nothing comes between.
        self._transport.write(orjson.dumps(request) + b"\n")
        return reply

    def close(self) -> None:
        """End the connection; QEMU goes on. Waiting commands fail with MonitorClosed. May be called again."""
        self._finish(MonitorClosed("closed by this side"))

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected; the greeting comes next."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what create_unix_connection gives
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Bytes of the wire: zero or more whole messages."""
        try:
            for message in self._reader.feed(data):
                self._deliver(message)
        except ProtocolViolation as violation:
            self._finish(violation)

    def connection_lost(self, exc: Exception | None) -> None:
        """EOF or reset: all that was readable has been read."""
        self._finish(MonitorClosed("QEMU closed the connection" if exc is None else f"connection lost: {exc!r}"))

    def pause_writing(self) -> None:
        """QEMU does not read: further commands wait under their own deadlines."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """QEMU reads again."""
        self._can_write.set()

    # ------------------------------------------------------------------------------------------------------------------

    def _deliver(self, message: Message) -> None:
        if "event" in message:
            self._on_event(message)
        elif "QMP" in message and not self._greeted.done():
            self.greeting = message["QMP"]
            self._greeted.set_result(None)
        elif "return" in message or "error" in message:
            self._settle(message)
        else:
            self._finish(ProtocolViolation(f"neither reply nor event: {str(message)[:200]}"))

    def _settle(self, message: Message) -> None:
        number = message.get("id")
        if number is None and "error" in message:
            # QEMU could not read a request as far as its id: any of those that wait may stay unanswered.
            self._finish(ProtocolViolation(f"QEMU could not read a request: {message['error']}"))
            return
        waiting = self._waiting.pop(number, None) if isinstance(number, int) else None
        if waiting is None:
            self.dropped_replies += 1
            return
        self._slots.release()
        command, reply = waiting
        if reply.done():
            self.dropped_replies += 1
        elif "return" in message:
            reply.set_result(message["return"])
        else:
            error = message["error"] if isinstance(message["error"], dict) else {}
            reply.set_exception(CommandFailed(command, str(error.get("class", "")), str(error.get("desc", ""))))

    def _finish(self, end: MonitorClosed) -> None:
        if self._end is not None:
            return
        self._end = end
        if self._transport is not None:
            self._transport.abort()
        if not self._greeted.done():
            self._greeted.set_exception(end)
            self._greeted.exception()  # read by nobody when the connection ends before anyone waits
        waiting, self._waiting = self._waiting, {}
        for command, reply in waiting.values():
            self._slots.release()
            if not reply.done():
                reply.set_exception(type(end)(f"{command}: {end}"))
        self._can_write.set()
        self._on_close(end)

    async def negotiate(self) -> None:
        """Wait for the greeting and leave negotiation mode; `connect` calls it."""
        await self._greeted
        await self.execute("qmp_capabilities", timeout_s=60.0)


async def connect(path: Path, *, on_event: EventHandler, on_close: CloseHandler, timeout_s: float = 5.0) -> Monitor:
    """An open monitor on a QMP unix socket. Leaves nothing open when it fails or is cancelled.

    Raises:
        MonitorTimeout: no connection or no greeting in time. QMP serves one client: another may hold the socket.
        MonitorClosed: the other side ended the connection.
        ProtocolViolation: it speaks no QMP.
        OSError: there is no such socket, or nobody listens on it.
    """
    connection = _socket()
    monitor: Monitor | None = None
    try:
        async with asyncio.timeout(timeout_s):
            await _connect_socket(connection, path)
            loop = asyncio.get_running_loop()
            _transport, monitor = await loop.create_unix_connection(
                lambda: Monitor(on_event, on_close), sock=connection
            )
            await monitor.negotiate()
    except BaseException as error:
        if monitor is not None:
            monitor.close()
        connection.close()
        if isinstance(error, TimeoutError):
            message = f"{path}: no QMP greeting within {timeout_s:g} s; another client may be connected"
            raise MonitorTimeout(message) from error
        raise
    return monitor


def _socket() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.setblocking(False)  # noqa: FBT003
    return connection


async def _connect_socket(connection: socket.socket, path: Path) -> None:
    """Connect, through the folder's descriptor where the path is longer than an address holds (unix(7): 107 bytes)."""
    loop = asyncio.get_running_loop()
    if len(os.fsencode(path)) <= _SUN_PATH_MAX_BYTES:
        await loop.sock_connect(connection, str(path))
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await loop.sock_connect(connection, f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
