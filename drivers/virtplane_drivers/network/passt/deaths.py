"""How soon a port's passt is started again: what a guest makes end over and over must not keep its host busy."""

import time
from collections.abc import Callable
from pathlib import Path

_FIRST_S = 5.0
_CAP_S = 300.0
_STABLE_S = 600.0


class Deaths:
    """Counts them, by port. In memory: an agent that restarts starts from zero."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[Path, tuple[float, int]] = {}
        """When it last ended, and how often within ten minutes of the time before."""

    def add(self, folder: Path) -> None:
        """It ended, and was not to."""
        at, count = self._last.get(folder, (self._clock(), 0))
        self._last[folder] = (self._clock(), min(count, 30) + 1 if self._clock() - at < _STABLE_S else 1)

    def wait_s(self, folder: Path) -> float:
        """Seconds until it may be started again; 0 when at once.

        After its first end that is at once, after further ones within ten minutes it waits 5 s, doubling up to 300.
        """
        at, count = self._last.get(folder, (0.0, 0))
        if count < 2:
            return 0.0
        return max(0.0, at + min(_CAP_S, _FIRST_S * 2.0 ** (count - 2)) - self._clock())

    def forget(self, folder: Path) -> None:
        """Of a port that is gone."""
        self._last.pop(folder, None)
