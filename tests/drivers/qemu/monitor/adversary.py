"""A QMP server as random as its dice: a double that says all that QEMU may say, at any time and in any pieces.

It answers out of order, late, twice, or under ids that nobody used, with events everywhere. It leaves no request
without a reply if it is given the time, so what a client misses in the end, the client lost.
"""

import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from random import Random
from typing import Any

import orjson

GREETING = {"QMP": {"version": {}, "capabilities": ["oob"]}}
LONG_S = 30.0

BABBLE = [b"hello\n", b"{}\n", b'{"event": 1}\n', b"[]\n", b'{"return": NaN, "id": 1}\n', b"\xff\n"]
BABBLE += [b'{"QMP": {}}\n', b'{"error": {}}\n']


class Said(Enum):
    """What a message was."""

    REPLY = auto()
    """The first to its request."""
    STRAY = auto()
    """A second reply, or one to nobody's request."""
    EVENT = auto()
    OTHER = auto()


class Adversary:
    """The server's end of one connection."""

    def __init__(self, end: socket.socket, dice: Random) -> None:
        self._end = end
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._out = b""
        self._said_bytes = 0
        self._said: list[tuple[int, Said, int]] = []
        """Where in the stream a message ends, what it is, its exchange or event number."""
        self._events = 0
        self._is_mute = False
        self._is_closed = False
        self._loop.add_reader(end, self._read)

    def heard(self, what: Said) -> list[int]:
        """Numbers of the messages that have left whole."""
        written_bytes = self._said_bytes - len(self._out)
        return [number for end, kind, number in self._said if kind is what and end <= written_bytes]

    def greet(self) -> None:
        """With whatever a former client may have left behind."""
        self._make_noise()
        self._say(GREETING, Said.OTHER)

    def babble(self) -> None:
        """Say what is no QMP, and nothing behind it."""
        if not self._is_mute:
            self._queue(self._dice.choice(BABBLE))
            self._is_mute = True

    def hang_up(self) -> None:
        """In the midst of anything."""
        if not self._is_closed:
            self._is_closed = self._is_mute = True
            self._loop.remove_reader(self._end)
            self._end.close()

    # ------------------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self._end.recv(self._dice.choice([1 << 16, 1 << 16, 100]))
        except ConnectionResetError:
            data = b""
        if not data:
            self.hang_up()
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            request = orjson.loads(line)
            if request.get("execute") == "qmp_capabilities":
                self._make_noise()
                self._say({"return": {}, "id": request["id"]}, Said.OTHER)
            else:
                self._later(self._dice.choice([0, 0, 0, 0, 0, 0.001, 0.1, LONG_S]), partial(self._answer, request))

    def _answer(self, request: dict[str, Any]) -> None:
        number = request["arguments"]["number"]
        reply: dict[str, Any] = {"return": {"number": number}, "id": request["id"]}
        if self._dice.random() < 0.2:
            reply = {"error": {"class": "GenericError", "desc": str(number)}, "id": request["id"]}
        self._make_noise()
        self._say(reply, Said.REPLY, number)
        if self._dice.random() < 0.05:
            self._later(self._dice.choice([0, 0.001, LONG_S]), partial(self._say, reply, Said.STRAY))
        self._make_noise()

    def _make_noise(self) -> None:
        chance = self._dice.random()
        if chance < 0.25:
            data = {"number": self._events, "padding": "x" * self._dice.choice([0, 0, 0, 20_000])}
            self._say({"event": self._dice.choice(["STOP", "RESUME"]), "data": data}, Said.EVENT, self._events)
            self._events += 1
        elif chance > 0.95:
            stray = {"id": self._dice.choice([1 << 60, -1, True, 1.0, "1", None, [1]]), "return": {"number": -1}}
            self._say(stray, Said.STRAY)

    def _say(self, message: dict[str, Any], what: Said, number: int = -1) -> None:
        if not self._is_mute:
            self._queue(orjson.dumps(message) + self._dice.choice([b"\r\n", b"\r\n", b"\n"]))
            self._said.append((self._said_bytes, what, number))
            self._queue(self._dice.choice([b"", b"", b"", b"\r\n"]))

    def _queue(self, data: bytes) -> None:
        if not self._out and data:
            self._later(0, self._write)
        self._out += data
        self._said_bytes += len(data)

    def _write(self) -> None:
        """A piece, of any size."""
        if self._is_closed:
            return
        size = self._dice.choice([len(self._out), len(self._out), self._dice.randint(1, len(self._out))])
        try:
            written = self._end.send(self._out[:size])
        except BlockingIOError:
            written = 0
        except (BrokenPipeError, ConnectionResetError):
            self.hang_up()
            return
        self._out = self._out[written:]
        if self._out:
            self._later(0.001 if written == 0 else self._dice.choice([0, 0, 0.001]), self._write)

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        if delay_s > 0:
            self._loop.call_later(delay_s * self._dice.random(), act)
        else:
            self._loop.call_soon(act)
