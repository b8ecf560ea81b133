"""One monitor, some callers and an adversary, and the account of it: no reply lost, doubled or given to another.

Every message that the adversary wrote whole is found again: a reply with its caller, or counted as dropped because its
caller had gone; a stray one counted as dropped; an event in its place.
"""

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

from tests.drivers.qemu.monitor.adversary import LONG_S, Adversary, Said
from tests.drivers.qemu.monitor.virtual_time import run_in_virtual_time
from virtplane_drivers.hypervisor.qemu.monitor import CommandFailed, Monitor, MonitorClosed, MonitorTimeout
from virtplane_drivers.hypervisor.qemu.monitor.commands import IN_BAND_SLOTS, OUT_OF_BAND_SLOTS

PATIENT_S = 1000.0
"""By then every command has had its turn and its answer."""


class Outcome(StrEnum):
    """How an exchange ended for its caller."""

    ANSWERED = "answered"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    CLOSED = "closed"
    MISROUTED = "misrouted"


class End(StrEnum):
    """How a conversation ends."""

    QUIET = "quiet"
    HANG_UP = "hang up"
    BABBLE = "babble"
    CLOSE = "close"


@dataclass
class Account:
    """What came of it. `faults` says what must never be."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    ends: Counter[End] = field(default_factory=Counter)
    dropped: int = 0
    strays: int = 0
    events: int = 0
    lost: int = 0
    """Replies that were written, and neither given to a waiting caller nor dropped for a reason."""
    doubled: int = 0
    """Replies that were given out or dropped more often than they were written."""
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Account") -> None:
        self.outcomes.update(other.outcomes)
        self.ends.update(other.ends)
        for name in ("dropped", "strays", "events", "lost", "doubled"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults.extend(other.faults)


def converse(dice: Random, exchanges: int) -> Account:
    """A conversation of about so many exchanges, in virtual time."""
    return run_in_virtual_time(_Conversation(dice, exchanges).run())


class _Conversation:
    def __init__(self, dice: Random, exchanges: int) -> None:
        self._dice = dice
        self._exchanges = exchanges
        self._end = dice.choice([End.QUIET, End.QUIET, End.QUIET, End.HANG_UP, End.BABBLE, End.CLOSE])
        self._end_after = exchanges if self._end is End.QUIET else dice.randint(0, exchanges)
        self._numbers = iter(range(exchanges))
        self._outcomes: dict[int, Outcome] = {}
        self._heard: list[int] = []
        self._account = Account()
        self._ends: list[MonitorClosed] = []

    async def run(self) -> Account:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: self._fault(f"in a callback: {context}"))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (ours, theirs):
            end.setblocking(False)  # noqa: FBT003
            if self._dice.random() < 0.2:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel takes its own least: 4,608
        self._adversary = Adversary(theirs, self._dice)
        self._monitor = monitor = Monitor(ours, self._hear, self._ends.append)
        await loop.create_unix_connection(lambda: monitor, sock=ours)
        try:
            self._adversary.greet()
            await monitor.opened()
            await self._talk()
        finally:
            self._adversary.hang_up()
            monitor.close()
            await asyncio.sleep(1.0)
        self._settle()
        return self._account

    async def _talk(self) -> None:
        async with asyncio.TaskGroup() as group:
            handling = group.create_task(self._handle_events())
            callers = [group.create_task(self._call()) for _ in range(self._dice.randint(1, 20))]
            await asyncio.wait(callers)
            if self._monitor.is_open:
                # The last replies, late and doubled ones too.
                await asyncio.sleep(4 * LONG_S)
            if self._end is End.QUIET:
                self._check_slots()
                self._adversary.hang_up()
                await asyncio.sleep(1.0)
            self._monitor.close()
            await handling

    # --- the callers --------------------------------------------------------------------------------------------------

    async def _call(self) -> None:
        while self._monitor.is_open and (number := next(self._numbers, None)) is not None:
            if number == self._end_after:
                self._bring_the_end()
            await self._pause()
            await self._exchange(number)

    async def _handle_events(self) -> None:
        """Slow, and with commands of its own."""
        with self._monitor.events() as queue:
            previous = -1
            while True:
                try:
                    number = (await queue.get())["data"]["number"]
                except MonitorClosed:
                    return
                if number <= previous:
                    self._fault(f"a queue gave event {number} after {previous}")
                previous = number
                await self._pause()
                if self._dice.random() < 0.3 and (exchange := next(self._numbers, None)) is not None:
                    await self._exchange(exchange)

    async def _exchange(self, number: int) -> None:
        if self._dice.random() < 0.15:
            task = asyncio.create_task(self._ask(number))
            await self._pause()
            task.cancel()
            await asyncio.wait([task])
        else:
            await self._ask(number)

    async def _ask(self, number: int) -> None:
        arguments: dict[str, Any] = {"number": number, "padding": "x" * self._dice.choice([0, 0, 0, 0, 300, 20_000])}
        timeout_s = self._dice.choice([0.0005, 0.05, LONG_S, PATIENT_S, PATIENT_S])
        execute = self._monitor.execute if self._dice.random() < 0.8 else self._monitor.execute_out_of_band
        try:
            answer = await execute("echo", arguments, timeout_s=timeout_s)
        except CommandFailed as failure:
            answer = {"number": int(failure.description)}
        except MonitorTimeout:
            self._outcomes[number] = Outcome.TIMED_OUT
            if timeout_s == PATIENT_S and self._end is End.QUIET:
                self._fault(f"{number} was never answered, or never sent")
            return
        except MonitorClosed:
            self._outcomes[number] = Outcome.CLOSED
            return
        except asyncio.CancelledError:
            self._outcomes[number] = Outcome.CANCELLED
            raise
        self._outcomes[number] = Outcome.ANSWERED if answer == {"number": number} else Outcome.MISROUTED

    async def _pause(self) -> None:
        for _ in range(self._dice.choice([0, 0, 1, 2, 5])):
            await asyncio.sleep(0)
        if self._dice.random() < 0.1:
            await asyncio.sleep(0.1 * self._dice.random())

    def _bring_the_end(self) -> None:
        match self._end:
            case End.HANG_UP:
                self._adversary.hang_up()
            case End.BABBLE:
                self._adversary.babble()
            case End.CLOSE:
                self._monitor.close()
            case End.QUIET:
                pass

    # --- the account --------------------------------------------------------------------------------------------------

    def _hear(self, event: dict[str, Any]) -> None:
        self._heard.append(event["data"]["number"])

    def _fault(self, what: str) -> None:
        self._account.faults.append(what)

    def _check_slots(self) -> None:
        commands = self._monitor._commands
        free = (commands.in_band.free_slots, commands.out_of_band.free_slots)
        if free != (IN_BAND_SLOTS, OUT_OF_BAND_SLOTS) or any(commands._all()):
            self._fault(f"all is answered, and slots are held: {free}")

    def _settle(self) -> None:
        account, dropped = self._account, self._monitor.dropped_replies
        written, strays = set(self._adversary.heard(Said.REPLY)), len(self._adversary.heard(Said.STRAY))
        events = self._adversary.heard(Said.EVENT)
        account.outcomes.update(self._outcomes.values())
        account.ends[self._end] += 1
        account.dropped, account.strays, account.events = dropped, strays, len(self._heard)
        if len(self._ends) != 1:
            self._fault(f"on_close was called {len(self._ends)} times")
        if self._heard != events[: len(self._heard)]:
            self._fault(f"events out of order: {self._heard}")
        invented = [n for n, outcome in self._outcomes.items() if outcome is Outcome.ANSWERED and n not in written]
        account.doubled = len(invented)
        if self._end is not End.CLOSE:
            # All that was written was read: whoever waited to the end has no written reply, and the rest was dropped.
            account.lost += len(events) - len(self._heard)
            account.lost += sum(1 for n in written if self._outcomes.get(n, Outcome.CLOSED) is Outcome.CLOSED)
            late = Counter(self._outcomes[n] for n in written if n in self._outcomes)
            at_least = strays + late[Outcome.TIMED_OUT]
            # A caller that is cancelled in the very step in which its reply came has had it.
            at_most = at_least + late[Outcome.CANCELLED]
            account.lost += max(0, at_least - dropped)
            account.doubled += max(0, dropped - at_most)
