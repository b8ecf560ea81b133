"""One connection: greeting, negotiation, commands with replies matched by `id`, events in wire order, one end.

::

    connect ──► (greeting) ──► (qmp_capabilities) ──► open ──► closed
                    └───────────────┴─── deadline, garbage, EOF ──┘

Nothing in the reader waits: a reply settles its own future, an event goes to `on_event`, which must return at once (an
`EventQueue.put` does). A caller that is cancelled or runs out of time leaves its command on the wire; the reply that
comes later finds an abandoned command, and is dropped and counted. The end fails every waiting command once, after the
delivery of all that was read before it; what QEMU wrote before it died is read.
"""

import asyncio
import contextlib
import fcntl
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from virtplane_drivers.hypervisor.qemu.monitor.commands import Command, Commands, Lane
from virtplane_drivers.hypervisor.qemu.monitor.errors import (
    CommandFailed,
    ConnectionSpoilt,
    HungUp,
    MonitorClosed,
    OutOfBandNotOffered,
    ProtocolViolation,
)
from virtplane_drivers.hypervisor.qemu.monitor.events import EventQueue
from virtplane_drivers.hypervisor.qemu.monitor.outbox import Outbox
from virtplane_drivers.hypervisor.qemu.monitor.wire import LineReader, Message, encoded

UNFINISHED_TIMEOUT_S = 60.0
"""From the first byte of a message to its last. A QEMU that was stopped in the middle is connected to again."""
BROKEN_WRITE_GRACE_S = 1.0
"""A peer that takes no more bytes has nearly always closed: its last ones are read first."""

_READ_BYTES = 16 << 10
"""Of a buffer that is used again: asyncio.Protocol allocates 256 KiB for each read, which costs more than all else."""
_NEGOTIATION_TIMEOUT_S = 3600.0
"""`connect` has its own."""

EventHandler = Callable[[Message], None]
CloseHandler = Callable[[MonitorClosed], None]

_log = logging.getLogger(__name__)


class Monitor(asyncio.BufferedProtocol):
    """An open QMP connection. Made by `connect`."""

    def __init__(self, connection: socket.socket, on_event: EventHandler, on_close: CloseHandler) -> None:
        self.greeting: Message = {}
        self.dropped_replies = 0
        """Replies whose caller had gone, or whose id was never used."""
        self._on_event = on_event
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._reader = LineReader()
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._outbox = Outbox(connection, self._write_failed)
        self._commands = Commands(self._outbox.send)
        self._queues: set[EventQueue] = set()
        self._transport: asyncio.Transport | None = None
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._end: MonitorClosed | None = None

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._end is None

    @property
    def runs_out_of_band(self) -> bool:
        """Whether `execute_out_of_band` can be used."""
        return "oob" in self.greeting.get("capabilities", ())

    async def opened(self) -> None:
        """Wait for the greeting and leave negotiation mode; `connect` calls it and limits its time."""
        await self._greeted
        if self._end is not None:
            raise self._end
        arguments = {"enable": ["oob"]} if self.runs_out_of_band else None
        # QEMU sends what it still owes to the client before us to us, but all of it before the answer to this.
        await self.execute("qmp_capabilities", arguments, timeout_s=_NEGOTIATION_TIMEOUT_S)

    # --- commands -----------------------------------------------------------------------------------------------------

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = 10.0,
        descriptor: int | None = None,
    ) -> Any:
        """QEMU's `return` value for a command.

        `descriptor` goes with it (getfd, add-fd). It may be closed as soon as this is awaited; of the open file that it
        stands for, QEMU takes O_NONBLOCK away.

        Raises:
            CommandFailed: QEMU refused it.
            MonitorTimeout: no answer within `timeout_s`, the wait for a free slot included. It may still happen.
            MonitorClosed: the connection ended before the answer.
            TypeError, ValueError: the arguments are no JSON, or too long; nothing was sent.
        """
        return await self._submit(self._commands.in_band, "execute", command, arguments, timeout_s, descriptor)

    async def execute_out_of_band(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0
    ) -> Any:
        """The same for a command that overtakes all others, also when QEMU's main loop is stuck (yank, migrate-pause).

        Raises:
            OutOfBandNotOffered: this QEMU cannot.
            CommandFailed, MonitorTimeout, MonitorClosed: as `execute`. CommandFailed also if this command cannot.
        """
        if not self.runs_out_of_band:
            raise OutOfBandNotOffered(f"{command}: this QEMU offers no out-of-band execution")
        return await self._submit(self._commands.out_of_band, "exec-oob", command, arguments, timeout_s, None)

    async def quit(self, *, timeout_s: float = 10.0) -> None:
        """Ask QEMU to end. Its hanging up instead of a reply is success: the two race.

        Raises:
            MonitorTimeout, MonitorClosed: as `execute`; MonitorClosed if the connection had ended before.
        """
        with contextlib.suppress(HungUp):
            await self.execute("quit", timeout_s=timeout_s)

    def _submit(
        self,
        lane: Lane,
        kind: str,
        name: str,
        arguments: Mapping[str, Any] | None,
        timeout_s: float,
        descriptor: int | None,
    ) -> "asyncio.Future[Any]":
        if self._end is not None:
            raise MonitorClosed(f"{name}: {self._end}") from self._end
        number = self._commands.next_id()
        request: Message = {kind: name, "id": number}
        if arguments:
            request["arguments"] = arguments
        payload = encoded(request)
        if descriptor is not None:
            # Of our own: the caller may be cancelled and close its one, and the number may be another file's then.
            descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._commands.submit(Command(name, number, payload, descriptor, lane, reply, timeout_s))
        return reply

    # --- events -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def events(self, *names: str) -> Iterator[EventQueue]:
        """Events of these names from now on, beside `on_event`. Open it before the command whose answer is an event."""
        queue = EventQueue(names)
        if self._end is not None:
            queue.end(self._end)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection; QEMU goes on. Waiting commands fail with MonitorClosed. May be called again."""
        self._finish(MonitorClosed("closed by this side"))

    def _finish(self, end: MonitorClosed) -> None:
        if self._end is not None:
            return
        self._end = end
        for timer in self._timers.values():
            timer.cancel()
        self._outbox.close()
        if self._transport is not None:
            self._transport.abort()
        if not self._greeted.done():
            self._greeted.set_exception(end)
            self._greeted.exception()  # read by nobody when the connection ends before anyone waits
        self._commands.end(lambda command: type(end)(f"{command.name}: {end}"))
        for queue in self._queues:
            queue.end(end)
        self._on_close(end)

    def _finish_in(self, delay_s: float, end: MonitorClosed, why: str) -> None:
        self._timers[why] = self._loop.call_later(delay_s, self._finish, end)

    def _write_failed(self, error: OSError) -> None:
        # Not at once: the reader comes to the end by itself, with the last events before it.
        self._finish_in(BROKEN_WRITE_GRACE_S, HungUp(f"QEMU reads no more: {error}"), "write failed")

    # --- asyncio.BufferedProtocol -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected; the greeting comes next."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what create_unix_connection gives
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of the wire: zero or more whole messages."""
        delivered = False
        try:
            for message in self._reader.feed(bytes(self._buffer[:nbytes])):
                delivered = True
                self._deliver(message)
                if self._end is not None:
                    return
        except ProtocolViolation as violation:
            self._finish(violation)
            return
        if self._reader.held_bytes or self._timers:
            self._watch_unfinished(delivered)

    def connection_lost(self, exc: Exception | None) -> None:
        """EOF or reset: all that was readable has been read."""
        where = f", {self._reader.held_bytes} bytes into a message" if self._reader.held_bytes else ""
        how = "QEMU closed the connection" if exc is None else f"connection lost: {exc!r}"
        self._finish(HungUp(how + where))

    # --- messages -----------------------------------------------------------------------------------------------------

    def _deliver(self, message: Message) -> None:
        if "return" in message or "error" in message:
            self._settle(message)
        elif "event" in message:
            self._tell(message)
        elif "QMP" in message:
            self._greet(message["QMP"])
        else:
            raise ProtocolViolation(f"neither reply nor event: {str(message)[:200]}")

    def _settle(self, message: Message) -> None:
        number = message.get("id")
        command = self._commands.replied(number)
        if command is None:
            if number is None and "error" in message:
                # It did not come as far as the id: any of those that wait may stay unanswered.
                raise ConnectionSpoilt(f"QEMU could not read a request: {str(message['error'])[:200]}")
            self.dropped_replies += 1
            return
        reply = command.reply
        if reply.done():
            self.dropped_replies += 1
            _log.info("QMP: the late reply to an abandoned %s was dropped", command.name)
        elif "return" in message:
            reply.set_result(message["return"])
        else:
            error = message["error"] if isinstance(message["error"], dict) else {}
            reply.set_exception(CommandFailed(command.name, str(error.get("class", "")), str(error.get("desc", ""))))

    def _tell(self, event: Message) -> None:
        if type(event["event"]) is not str or type(event.get("data", {})) is not dict:
            raise ProtocolViolation(f"a malformed event: {str(event)[:200]}")
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001  # what follows in this read is still owed to others
            _log.exception("QMP: the handler of %s failed", event["event"])
        for queue in self._queues:
            queue.put(event)

    def _greet(self, greeting: object) -> None:
        if not isinstance(greeting, dict) or not isinstance(greeting.get("capabilities", []), list):
            raise ProtocolViolation(f"a malformed greeting: {str(greeting)[:200]}")
        if self._greeted.done():
            # QEMU 7.2 does so in 3 of 10,000 starts, if it is connected to while it starts: two of its threads read the
            # connection then, byte by byte, and tear commands to pieces.
            raise ConnectionSpoilt("QEMU greeted twice")
        self.greeting = greeting
        self._greeted.set_result(None)

    def _watch_unfinished(self, delivered: bool) -> None:  # noqa: FBT001
        why = "unfinished"
        if (delivered or not self._reader.held_bytes) and (timer := self._timers.pop(why, None)) is not None:
            timer.cancel()
        if self._reader.held_bytes and why not in self._timers:
            violation = ProtocolViolation(f"a message not finished within {UNFINISHED_TIMEOUT_S:g} s")
            self._finish_in(UNFINISHED_TIMEOUT_S, violation, why)
