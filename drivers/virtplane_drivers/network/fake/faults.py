"""What can go wrong with fake networks, set by a test while the driver is at work."""

from collections import deque
from dataclasses import dataclass, field

from virtplane_drivers.errors import DriverError


@dataclass(slots=True)
class Faults:
    """Faults and delays. All off at first; each may be set and unset at any time."""

    apply_s: float = 0.0
    """How long `apply` takes before it does anything."""
    failed: tuple[str, str] | None = None
    """A reason and a message: every network is FAILED."""
    withdrawn: dict[str, DriverError] = field(default_factory=dict)
    """By UID: applying that network raises it each time; its ports stay as they are."""
    _errors: dict[str, deque[DriverError]] = field(default_factory=dict)

    def refuse(self, verb: str, error: DriverError, *, times: int = 1) -> None:
        """The next `times` calls of a verb (`apply`, `attachment`, `remove`, `counters`) raise `error`."""
        self._errors.setdefault(verb, deque()).extend([error] * times)

    def meet(self, verb: str) -> None:
        """Raise what was prepared for this call."""
        if errors := self._errors.get(verb):
            raise errors.popleft()
