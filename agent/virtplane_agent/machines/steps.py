"""The next step of a machine, as a table over what is observed and what is wanted. `docs/machine-steps.md` draws it."""

import enum
from collections.abc import Mapping

from virtplane_api.vocabulary import PowerState


class Goal(enum.StrEnum):
    """What is wanted of a machine on this host."""

    RUNNING = "Running"
    STOPPED = "Stopped"
    ABSENT = "Absent"
    """The machine is being deleted: nothing of it stays here."""


class Step(enum.StrEnum):
    """One act of a pass."""

    NONE = "None"
    START = "Start"
    """With the definition of now."""
    SHUT_DOWN = "ShutDown"
    """Ask the guest, and power it off when its grace period is over."""
    DESTROY = "Destroy"
    LOOK_AGAIN = "LookAgain"
    """Nothing can be done with what is seen; it may change by itself."""


NEXT: Mapping[tuple[PowerState | None, Goal], Step] = {
    # None: the hypervisor knows no such machine.
    (None, Goal.RUNNING): Step.START,
    (None, Goal.STOPPED): Step.NONE,
    (None, Goal.ABSENT): Step.NONE,
    (PowerState.STOPPED, Goal.RUNNING): Step.START,
    (PowerState.STOPPED, Goal.STOPPED): Step.NONE,
    (PowerState.STOPPED, Goal.ABSENT): Step.DESTROY,
    (PowerState.RUNNING, Goal.RUNNING): Step.NONE,
    (PowerState.RUNNING, Goal.STOPPED): Step.SHUT_DOWN,
    (PowerState.RUNNING, Goal.ABSENT): Step.SHUT_DOWN,
    # Paused by somebody else, or by the hypervisor (an I/O error): nobody asked us to resume it.
    (PowerState.PAUSED, Goal.RUNNING): Step.LOOK_AGAIN,
    (PowerState.PAUSED, Goal.STOPPED): Step.SHUT_DOWN,
    (PowerState.PAUSED, Goal.ABSENT): Step.SHUT_DOWN,
    # It may run: a second copy must never start, and its guest still gets its grace period.
    (PowerState.UNKNOWN, Goal.RUNNING): Step.LOOK_AGAIN,
    (PowerState.UNKNOWN, Goal.STOPPED): Step.SHUT_DOWN,
    (PowerState.UNKNOWN, Goal.ABSENT): Step.SHUT_DOWN,
}
