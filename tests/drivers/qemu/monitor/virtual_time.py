"""An event loop whose clock stands while anything can be done, and jumps to the next timer when nothing can.

Both ends of every socket must be in this process: what one end has written, the other can read at once. So a run is
the same each time, takes no time for its waits, and one in which nothing can ever happen again ends with `Stuck`.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

MAX_STEPS = 1_000_000
"""Some hundred times what the longest test takes."""


class Stuck(AssertionError):
    """Somebody waits for what will never come."""


class _JumpingSelector(selectors.EpollSelector):
    """Instead of waiting, moves the clock."""

    now_s = 0.0
    steps = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Stuck("it goes round and round")
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Stuck("no timer runs and no byte is under way")
            self.now_s += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """What `main` returns; Stuck when it cannot."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
