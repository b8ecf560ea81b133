"""How long what fails or ends over and over waits before it is tried again."""

import random
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FIRST_S = 5.0
_CAP_S = 300.0
_STABLE_S = 600.0


def backoff_s(failures: int, *, base_s: float = 0.5, cap_s: float = 60.0) -> float:
    """Seconds to wait after so many failures in a row: 0.5 doubling up to 60, each 80 to 120 % of that.

    The jitter keeps objects that failed together (an API server away) from coming back together.
    """
    return _doubled_s(failures, base_s, cap_s) * random.uniform(0.8, 1.2)  # noqa: S311  # no secret


class Recurrences(Generic[K]):
    """What happens to things over and over, by thing, and how long each is left alone then.

    Times are seconds of one clock, of the caller's choice. In memory: a process that restarts counts from zero.
    """

    def __init__(self, *, unpunished: int = 1) -> None:
        self._unpunished = unpunished
        self._last: dict[K, tuple[float, int]] = {}
        """When it last happened, and how often within ten minutes of the time before."""

    def add(self, key: K, at_s: float) -> None:
        """It happened again. Before the time before: the clock was put back in between, and it follows that."""
        before_s, count = self._last.get(key, (at_s, 0))
        self._last[key] = at_s, count + 1 if at_s - before_s < _STABLE_S else 1

    def wait_s(self, key: K, now_s: float) -> float:
        """Seconds to wait still; 0 when none.

        After the first `unpunished` times none; after further ones, each within ten minutes of the one before, 5 s
        since the last one, doubling up to 300.
        """
        at_s, count = self._last.get(key, (now_s, 0))
        if count <= self._unpunished:
            return 0.0
        if now_s < at_s:  # the clock was put back: what it says now is all there is to count from
            at_s = now_s
            self._last[key] = at_s, count
        return max(0.0, at_s + _doubled_s(count - self._unpunished, _FIRST_S, _CAP_S) - now_s)

    def forget(self, key: K) -> None:
        """The thing is gone, or starts anew as somebody asked for it."""
        self._last.pop(key, None)


def _doubled_s(times: int, first_s: float, cap_s: float) -> float:
    """From the first on, doubling up to the cap. Bounded before it is doubled: no float holds 2 ** 1024."""
    return min(cap_s, first_s * 2.0 ** min(times - 1, 30))
