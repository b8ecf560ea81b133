"""What keeps a machine from where it is to be."""

import enum
from dataclasses import dataclass


class Progress(enum.Enum):
    """Whether it will come further, as kstatus tells it."""

    RECONCILING = enum.auto()
    """By itself."""
    STALLED = enum.auto()
    """Not until somebody acts."""
    HELD = enum.auto()
    """It is left as it is, as its own spec says."""
    BLOCKED = enum.auto()
    """Nothing is done to it, whatever is seen of it, until somebody acts."""
    SETTLING = enum.auto()
    """By itself; what is seen of it may not last, and is not yet believed."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """One reason, for a condition."""

    reason: str
    message: str
    progress: Progress = Progress.RECONCILING
    seen_token: int | None = None
    """Of a StaleToken: the token that was seen on the host or on a disk."""
