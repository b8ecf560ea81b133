"""The hints that a driver's `events` yields: UIDs worth observing again."""

import asyncio
from collections.abc import AsyncIterator


class Hints:
    """UIDs, each held once until it is taken. Never holds more than there are machines or volumes."""

    def __init__(self) -> None:
        self._waiting: dict[str, None] = {}
        self._some = asyncio.Event()

    def add(self, uid: str) -> None:
        """Makes `uid` the last to be taken, unless it waits already."""
        self._waiting.setdefault(uid)
        self._some.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            await self._some.wait()
            while self._waiting:
                uid = next(iter(self._waiting))
                del self._waiting[uid]
                yield uid
            self._some.clear()
