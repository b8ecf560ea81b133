"""QMP's framing: JSON documents, one per line, as QEMU writes them; nothing of their meaning."""

from collections.abc import Iterator
from typing import Any

import orjson

from virtplane_drivers.hypervisor.qemu.monitor.errors import ProtocolViolation

MAX_MESSAGE_BYTES = 16 << 20
"""`query-qmp-schema` is some hundreds of KB; a message above this is no sane QEMU's."""

Message = dict[str, Any]


class LineReader:
    """Bytes in, messages out, however the bytes were cut. Holds at most one unfinished message."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._parts: list[bytes] = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yields the messages that are complete with these bytes, in wire order. Must be iterated to its end.

        Raises:
            ProtocolViolation: a line is no JSON object, or is longer than the cap; after the messages before it.
        """
        *lines, rest = data.split(b"\n")
        for line in lines:
            if self._parts:
                line = b"".join([*self._parts, line])  # noqa: PLW2901
                self._parts.clear()
                self._held_bytes = 0
            if stripped := line.strip():
                yield self._parsed(stripped)
        if rest:
            self._parts.append(rest)
            self._held_bytes += len(rest)
            self._check_size(self._held_bytes)

    def _parsed(self, line: bytes) -> Message:
        self._check_size(len(line))
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ProtocolViolation(f"no JSON: {error}: {line[:200]!r}") from error
        if not isinstance(message, dict):
            raise ProtocolViolation(f"no JSON object: {line[:200]!r}")
        return message

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_message_bytes:
            raise ProtocolViolation(f"a message longer than {self._max_message_bytes} bytes")
