"""An event loop that kills its own process at a chosen point.

Every await ends in a callback of the event loop. The loop here counts them from where it is armed, and kills its own
process before the chosen one runs: so each point where the program can stand still is found by counting, also those
that nobody thought of.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from contextvars import Context
from typing import Any


class CountingLoop(asyncio.SelectorEventLoop):
    """Kills the process before the callback of number `fatal`, once `arm` was called."""

    def __init__(self, fatal: int) -> None:
        super().__init__()
        self._fatal = fatal
        self._count: int | None = None

    def arm(self) -> None:
        """Count from here."""
        self._count = 0

    def call_soon(  # type: ignore[override]  # its own generics say no more
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(self._counted, callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon_threadsafe(self._counted, callback, *args, context=context)

    def _counted(self, callback: Callable[..., Any], *args: Any) -> None:
        if self._count is not None:
            self._count += 1
            if self._count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        callback(*args)
