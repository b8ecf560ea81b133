"""Passes over one key, one at a time: who asks while one is under way shares the next one with all who ask."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Of fifty machines that start at once on one network each needs a pass that began after it asked: two will do."""

    def __init__(self, work: Callable[[K], Awaitable[None]]) -> None:
        self._work = work
        self._under_way: dict[K, asyncio.Task[None]] = {}
        self._next: dict[K, asyncio.Task[None]] = {}

    async def run(self, key: K) -> None:
        """Returns at the end of a pass that began after this call; raises what it raised.

        A caller that is cancelled leaves the pass to the others.
        """
        if key in self._next:
            turn = self._next[key]
        elif key in self._under_way:
            turn = self._next[key] = self._begun(key, self._after(key, self._under_way[key]))
        else:
            turn = self._under_way[key] = self._begun(key, self._pass(key))
        await asyncio.shield(turn)

    async def stop(self) -> None:
        """Cancels what is under way, and waits for its end."""
        turns = [*self._under_way.values(), *self._next.values()]
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)

    def _begun(self, key: K, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        turn = asyncio.create_task(work, name=f"pass over {key}")
        turn.add_done_callback(_heard)
        return turn

    async def _after(self, key: K, before: asyncio.Task[None]) -> None:
        await asyncio.wait({before})
        # No await in between: whoever asks from here on begins the pass after this one.
        self._under_way[key] = self._next.pop(key)
        await self._pass(key)

    async def _pass(self, key: K) -> None:
        try:
            await self._work(key)
        finally:
            self._under_way.pop(key, None)


def _heard(turn: asyncio.Task[None]) -> None:
    """All who waited may have been cancelled: its failure is nobody's then."""
    if not turn.cancelled():
        turn.exception()
