"""What goes wrong, and how long things take."""

from collections import deque
from dataclasses import dataclass, field

from virtplane_drivers.errors import DriverError
from virtplane_drivers.hypervisor.contract import GuestCommandResult

ANY = ""


@dataclass(slots=True)
class Faults:
    """Delays and errors of a fake hypervisor; may be changed while it runs."""

    start_s: float = 0.0
    """How long `start` takes."""
    shut_down_s: float | None = 0.0
    """How long a guest takes to shut down when asked; None: it never does."""
    guest_command: GuestCommandResult | None = None
    """What every program in a guest comes to, but for its output's limit; None: it prints its arguments."""
    keeps_nics: bool = False
    """The guest lets no adapter go."""
    lose_hints: bool = False
    """Events are lost."""
    _errors: dict[tuple[str, str], deque[DriverError]] = field(default_factory=dict)

    def refuse(self, verb: str, error: DriverError, *, uid: str = ANY, times: int = 1) -> None:
        """The next `times` calls of a verb (`define`, `start`, `pause`, ...) raise `error`."""
        self._errors.setdefault((verb, uid), deque()).extend([error] * times)

    def meet(self, verb: str, uid: str) -> None:
        """Raise what was prepared for this call."""
        for key in ((verb, uid), (verb, ANY)):
            if errors := self._errors.get(key):
                raise errors.popleft()
