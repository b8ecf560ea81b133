"""Events for a task that takes its time: in wire order, bounded, and never in the reader's way.

Events are hints: QEMU itself holds some back for a second, and none is sent while nobody is connected. Whoever acts on
one asks QEMU for the state first.
"""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

from virtplane_drivers.hypervisor.qemu.monitor.errors import EventsLost, MonitorClosed
from virtplane_drivers.hypervisor.qemu.monitor.wire import Message

MAX_EVENTS = 4096
MAX_BYTES = 16 << 20
"""Of memory, for all that wait. On the wire an empty list is two bytes, here it is 56."""

NOISY: Mapping[str, str] = {
    "BALLOON_CHANGE": "",
    "BLOCK_IO_ERROR": "device",
    "BLOCK_WRITE_THRESHOLD": "node-name",
    "MEMORY_DEVICE_SIZE_CHANGE": "qom-path",
    "NIC_RX_FILTER_CHANGED": "path",
    "QUORUM_REPORT_BAD": "node-name",
    "RTC_CHANGE": "qom-path",
    "SPICE_CONNECTED": "",
    "SPICE_DISCONNECTED": "",
    "SPICE_INITIALIZED": "",
    "VNC_CONNECTED": "",
    "VNC_DISCONNECTED": "",
    "VNC_INITIALIZED": "",
    "VSERPORT_CHANGE": "id",
}
"""Events that a guest or a client can cause without end, and whose last one says all: the member of `data` that names
the device it speaks of. One of each waits at most, the newest. Every other event, unknown ones too, is kept."""


class EventQueue:
    """Events of some names (of all, when none is given) for one reader."""

    def __init__(self, names: Collection[str] = (), max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self.replaced = 0
        """Noisy events that a newer one took the place of."""
        self.lost = 0
        self._names = frozenset(names)
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._waiting: OrderedDict[object, tuple[Message, int]] = OrderedDict()
        """Each event, and the memory it takes."""
        self._waiting_bytes = 0
        self._number = 0
        self._is_full = False
        self._end: MonitorClosed | None = None
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: Message) -> None:
        """Take an event, or count it as lost. Never waits: it is what `connect` wants for `on_event`."""
        name = event["event"]
        if self._names and name not in self._names:
            return
        key = self._key(name, event)
        older = self._waiting.pop(key, None)
        if older is not None:
            self.replaced += 1
            self._waiting_bytes -= older[1]
        if (self._is_full and older is None) or not self._has_room(size_bytes := _memory_bytes(event)):
            # Until the reader has been told, none goes in: else it would not know where the gap is.
            self._is_full = True
            self.lost += 1
        else:
            self._waiting[key] = event, size_bytes
            self._waiting_bytes += size_bytes
        self._news.set()

    def end(self, end: MonitorClosed) -> None:
        """No more will come: what `connect` wants for `on_close`."""
        self._end = end
        self._news.set()

    async def get(self) -> Message:
        """The oldest event.

        Raises:
            EventsLost: once, in the place of those that found the queue full.
            MonitorClosed: there is none left and the connection has ended.
        """
        while not self._waiting:
            if self._is_full:
                self._is_full = False
                raise EventsLost(f"more than {self._max_events} events, or {self._max_bytes} bytes of them, waited")
            if self._end is not None:
                raise type(self._end)(str(self._end))
            self._news.clear()
            await self._news.wait()
        event, size_bytes = self._waiting.popitem(last=False)[1]
        self._waiting_bytes -= size_bytes
        return event

    def _has_room(self, size_bytes: int) -> bool:
        return len(self._waiting) < self._max_events and self._waiting_bytes + size_bytes <= self._max_bytes

    def _key(self, name: str, event: Message) -> object:
        device = NOISY.get(name)
        if device is None:
            self._number += 1
            return self._number
        return name, str(event.get("data", {}).get(device, ""))


def _memory_bytes(event: Message) -> int:
    """What an event takes, or more: a word that it holds twice may be one in memory."""
    parts: list[Any] = [event]
    size_bytes = 0
    while parts:  # no recursion: its depth is the other side's to choose
        part = parts.pop()
        size_bytes += sys.getsizeof(part)
        if isinstance(part, dict):
            parts += [*part, *part.values()]
        elif isinstance(part, list):
            parts += part
    return size_bytes
