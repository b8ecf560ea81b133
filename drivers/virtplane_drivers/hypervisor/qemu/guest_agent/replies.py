"""The bytes of a guest, of which nothing is believed, and the one message among them that is waited for.

A guest answers late, to those who asked before us, or without having been asked. So each request begins with a
guest-sync-delimited, whose answer begins with 0xFF, the byte that is in no UTF-8 text, and holds an id that was never
used before: what is ahead of it is skipped unread, the line after it is the reply.
"""

import re
from typing import Any

import orjson

from virtplane_drivers.hypervisor.qemu.guest_agent.errors import AgentGarbage

MAX_REPLY_BYTES = 1 << 20
"""As Python's objects it may be twenty times as much, and a guest chooses what it is made of."""
MAX_CUT_REPLY_BYTES = 48 << 20
"""Of a reply whose texts are cut while it comes: qemu-ga keeps 16 MiB of each output, which it sends as base64."""
MAX_SKIPPED_BYTES = 8 << 20
"""Ahead of the answer to a sync: late replies, or some 300,000 answers to former syncs."""

_MAX_SYNC_BYTES = 128
"""More than the pattern of a sync's answer can match."""


class SyncFinder:
    """Looks for the answer to one guest-sync-delimited."""

    def __init__(self, sync_id: int, max_skipped_bytes: int = MAX_SKIPPED_BYTES) -> None:
        # A pattern and no parser: a guest that floods is to cost little.
        self._pattern = re.compile(rb'\xff\s{0,4}\{\s{0,4}"return"\s{0,4}:\s{0,4}%d\s{0,4}\}\s{0,4}\n' % sync_id)
        self._max_skipped_bytes = max_skipped_bytes
        self._skipped_bytes = 0
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """Whether these bytes complete the answer.

        Raises:
            AgentGarbage: too much came, and not the answer.
        """
        text = self._tail + data
        if self._pattern.search(text) is not None:
            return True
        self._tail = text[-_MAX_SYNC_BYTES:]
        self._skipped_bytes += len(data)
        if self._skipped_bytes > self._max_skipped_bytes:
            raise AgentGarbage(f"{self._skipped_bytes} bytes, and no answer to guest-sync-delimited among them")
        return False


class ReplyReader:
    """Takes the next line as a reply. For the bytes after a sync's answer.

    With `max_text_bytes` each text in it is cut to so many bytes as it comes, and only what is left is held.
    """

    def __init__(self, max_reply_bytes: int = MAX_REPLY_BYTES, max_text_bytes: int | None = None) -> None:
        self._max_reply_bytes = max_reply_bytes
        self._cutter = TextCutter(max_text_bytes) if max_text_bytes is not None else None
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._seen_bytes = 0

    def feed(self, data: bytes) -> dict[str, Any] | None:
        """The reply, when these bytes complete it; what is behind it is dropped.

        Raises:
            AgentGarbage: it is no reply, or longer than the cap.
        """
        line, newline, _behind = data.partition(b"\n")
        self._seen_bytes += len(line)
        if self._cutter is not None:
            line = self._cutter.feed(line)
        self._parts.append(line)
        self._held_bytes += len(line)
        if self._held_bytes > self._max_reply_bytes:
            raise AgentGarbage(f"a reply longer than {self._max_reply_bytes} bytes")
        if self._seen_bytes > MAX_CUT_REPLY_BYTES:
            raise AgentGarbage(f"a reply longer than {MAX_CUT_REPLY_BYTES} bytes")
        return _parsed(b"".join(self._parts)) if newline else None


class TextCutter:
    """Drops what each text of a JSON document has beyond so many bytes, without holding it.

    It is for base64. A text that is cut within an escape or a character is no JSON any more, and refused as such.
    """

    def __init__(self, max_text_bytes: int) -> None:
        self._max_text_bytes = max_text_bytes
        self._is_in_text = False
        self._is_escaped = False
        """A backslash was the last byte, which none before it took the meaning of."""
        self._room_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """What is left of these bytes. Every quote is: so the cap on what is held bounds the steps, too."""
        kept = bytearray()
        for index, part in enumerate(data.split(b'"')):
            if index > 0:
                self._quote()
                kept += b'"'
            kept += self._part(part)
        return bytes(kept)

    def _quote(self) -> None:
        if not self._is_escaped:
            self._is_in_text = not self._is_in_text
            self._room_bytes = self._max_text_bytes
        self._is_escaped = False

    def _part(self, part: bytes) -> bytes:
        if not self._is_in_text:
            return part
        backslashes = len(part) - len(part.rstrip(b"\\"))
        was_escaped = self._is_escaped and backslashes == len(part)
        self._is_escaped = (backslashes % 2 == 1) != was_escaped
        left = part[: self._room_bytes]
        self._room_bytes -= len(left)
        return left


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        reply = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise AgentGarbage(f"no JSON: {error}: {line[:200]!r}") from error
    if not isinstance(reply, dict) or not ("return" in reply or "error" in reply):
        raise AgentGarbage(f"no reply: {line[:200]!r}")
    return reply
