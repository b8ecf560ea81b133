"""QMP's framing: JSON documents, one per line, as QEMU writes them; nothing of their meaning."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from virtplane_drivers.hypervisor.qemu.monitor.errors import ProtocolViolation

MAX_MESSAGE_BYTES = 2 << 20
"""QEMU's longest, `query-qmp-schema`, is 0.2 MiB. A hostile one's of this length, empty lists only, takes 61 MiB of
memory and holds the loop for 0.15 s."""

MAX_EVENT_BYTES = 32 << 10
"""Of one event; a queue holds thousands of them. QEMU's own are a few hundred bytes."""

Message = dict[str, Any]


class LineReader:
    """Bytes in, messages out, however the bytes were cut. Holds at most one unfinished message."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.held_bytes = 0
        """Of a message that is not finished yet."""
        self._max_message_bytes = max_message_bytes
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> Iterable[Message]:
        """The messages that are complete with these bytes, in wire order. Must be iterated to its end.

        Raises:
            ProtocolViolation: a line is no JSON object, or is longer than the cap; after the messages before it.
        """
        if not self.held_bytes and data.find(b"\n") == len(data) - 1:
            # Nearly always: one message, whole.
            message = self._parsed(data)
            return () if message is None else (message,)
        return self._pieces(data)

    def _pieces(self, data: bytes) -> Iterator[Message]:
        start, end = 0, data.find(b"\n")
        while end >= 0:
            line = data[start:end]
            if self._parts:
                line = b"".join([*self._parts, line])
                self._parts.clear()
                self.held_bytes = 0
            if (message := self._parsed(line)) is not None:
                yield message
            start = end + 1
            end = data.find(b"\n", start)
        if start < len(data):
            rest = data[start:]
            self._parts.append(rest)
            self.held_bytes += len(rest)
            self._check_size(self.held_bytes)

    def _parsed(self, line: bytes) -> Message | None:
        self._check_size(len(line))
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not line.strip():
                return None
            raise ProtocolViolation(f"no JSON: {error}: {line[:200]!r}") from error
        if not isinstance(message, dict):
            raise ProtocolViolation(f"no JSON object: {line[:200]!r}")
        if len(line) > MAX_EVENT_BYTES and "event" in message:
            raise ProtocolViolation(f"an event longer than {MAX_EVENT_BYTES} bytes: {line[:200]!r}")
        return message

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_message_bytes:
            raise ProtocolViolation(f"a message longer than {self._max_message_bytes} bytes")


def encoded(message: Message) -> bytes:
    """A message as its line.

    Raises:
        TypeError: it holds what JSON or QEMU cannot: other types, integers of more than 64 bits, lone surrogates.
        ValueError: it is longer than the cap.
    """
    line = orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)
    if len(line) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a command of {len(line)} bytes")
    return line
