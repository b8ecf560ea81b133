"""What a loop has done, in numbers that only grow: for whoever measures it."""

from collections import Counter
from dataclasses import dataclass, field

from virtplane_api.reconcile.outcome import Done, Failed, Outcome, Wait


@dataclass(slots=True)
class Tally:
    """Of all passes that ended since the loop was made; those that were cancelled are not in it."""

    done: int = 0
    waits: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """By reason."""
    spent_s: float = 0.0
    """From the beginning of each pass to its end; of passes side by side the sum."""

    def add(self, outcome: Outcome, took_s: float) -> None:
        """One pass ended so."""
        self.spent_s += took_s
        match outcome:
            case Done():
                self.done += 1
            case Wait():
                self.waits += 1
            case Failed(reason=reason):
                self.failures[reason] += 1
