"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0, interval_s: float = 0.05) -> None:
    """Returns once `condition` holds; an AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout_s} s"
        time.sleep(interval_s)
