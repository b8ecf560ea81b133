"""Commands, from the moment they are asked for to their reply: which wait, which QEMU has, and until when.

::

    queued ──(a slot is free)──► in flight ──(reply)──► settled
       └──(cancelled, timeout)──► never sent     └──(cancelled, timeout)──► abandoned: holds its slot until the reply

A slot is held until the reply, not until the caller goes: QEMU still has the command.
"""

import asyncio
import itertools
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from virtplane_drivers.hypervisor.qemu.monitor.errors import MonitorClosed, MonitorTimeout
from virtplane_drivers.hypervisor.qemu.monitor.outbox import close_descriptor

IN_BAND_SLOTS = 7
"""With 8 in its queue QEMU stops reading (QMP_REQ_QUEUE_LEN_MAX), and then it reads no out-of-band command either."""
OUT_OF_BAND_SLOTS = 8
_FIRST_ID = 1 << 52

Sender = Callable[[bytes, int | None], None]


class Command:
    """One command and the future of its reply."""

    __slots__ = ("deadline", "descriptor", "has_descriptor", "lane", "name", "number", "payload", "reply", "timeout_s")

    def __init__(
        self,
        name: str,
        number: int,
        payload: bytes,
        descriptor: int | None,
        lane: "Lane",
        reply: "asyncio.Future[Any]",
        timeout_s: float,
    ) -> None:
        self.name = name
        self.number = number
        self.payload = payload
        self.descriptor = descriptor
        """Ours to close until it is sent."""
        self.has_descriptor = descriptor is not None
        self.lane = lane
        self.reply = reply
        self.timeout_s = timeout_s
        self.deadline = reply.get_loop().time() + timeout_s


class Lane:
    """Commands of which QEMU may have so many at once; the others wait here, first come, first sent."""

    __slots__ = ("free_slots", "passes_descriptor", "queued")

    def __init__(self, slots: int) -> None:
        self.free_slots = slots
        self.passes_descriptor = False
        """Then no other may: QEMU holds one, the last it read, and gives it to whoever asks next, maybe one before."""
        self.queued: OrderedDict[int, Command] = OrderedDict()

    def may_send(self, command: Command) -> bool:
        """Whether it is this one's turn, if it is the first."""
        return self.free_slots > 0 and not (command.has_descriptor and self.passes_descriptor)


class Commands:
    """All commands of one connection."""

    def __init__(self, send: Sender) -> None:
        self.in_band = Lane(IN_BAND_SLOTS)
        self.out_of_band = Lane(OUT_OF_BAND_SLOTS)
        # The first from anywhere: QEMU sends what it owes to the client before us to us, ahead of the first reply.
        # Then short ones: QEMU reads its monitor byte by byte, at 1 to 2 us each.
        self._ids = itertools.chain([_FIRST_ID + secrets.randbits(52)], itertools.count(1))
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._in_flight: dict[int, Command] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def next_id(self) -> int:
        """Never the same again."""
        return next(self._ids)

    def submit(self, command: Command) -> None:
        """Send it now, or as soon as those before it leave a slot."""
        if command.deadline < self._timer_at:
            self._look_again_at(command.deadline)
        lane = command.lane
        if lane.queued or not lane.may_send(command):
            lane.queued[command.number] = command
            command.reply.add_done_callback(lambda _reply: self._forget(command))
        else:
            self._start(command)

    def replied(self, number: object) -> Command | None:
        """The command that a reply belongs to, once. Its slot goes to the next."""
        # Not `in`: True and 1.0 are keys of what 1 is a key of.
        command = self._in_flight.pop(number, None) if type(number) is int else None
        if command is not None:
            lane = command.lane
            lane.free_slots += 1
            if command.has_descriptor:
                lane.passes_descriptor = False
            while lane.queued and lane.may_send(first := next(iter(lane.queued.values()))):
                if first.reply.done():
                    self._forget(first)
                else:
                    del lane.queued[first.number]
                    self._start(first)
        return command

    def end(self, error_of: Callable[[Command], MonitorClosed]) -> None:
        """Fail all that wait."""
        if self._timer is not None:
            self._timer.cancel()
        commands = list(self._all())
        self._in_flight.clear()
        for command in commands:
            if not command.reply.done():
                command.reply.set_exception(error_of(command))
            self._forget(command)

    def _start(self, command: Command) -> None:
        lane = command.lane
        lane.free_slots -= 1
        self._in_flight[command.number] = command
        descriptor, command.descriptor = command.descriptor, None
        if descriptor is not None:
            lane.passes_descriptor = True
        self._send(command.payload, descriptor)

    def _forget(self, command: Command) -> None:
        """Its caller has gone before it was sent."""
        if command.lane.queued.pop(command.number, None) is not None:
            close_descriptor(command.descriptor)

    def _all(self) -> Iterable[Command]:
        return itertools.chain(self._in_flight.values(), self.in_band.queued.values(), self.out_of_band.queued.values())

    # One timer for all deadlines: one for each command would cost as much as the rest of it.

    def _look_again_at(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        now, earliest = max(self._timer_at, self._loop.time()), math.inf
        for command in list(self._all()):
            if command.reply.done():
                continue
            if command.deadline <= now:
                command.reply.set_exception(self._timeout_of(command))
            elif command.deadline < earliest:
                earliest = command.deadline
        self._timer, self._timer_at = None, math.inf
        if earliest < math.inf:
            self._look_again_at(earliest)

    def _timeout_of(self, command: Command) -> MonitorTimeout:
        what = "not sent, as those before it are unanswered," if command.number in command.lane.queued else "no answer"
        return MonitorTimeout(f"{command.name}: {what} within {command.timeout_s:g} s")
