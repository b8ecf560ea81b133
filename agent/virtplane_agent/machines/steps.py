"""The next step of a machine, as a table over what is seen and what is wanted. `docs/machine-steps.md` draws it."""

import enum
from collections.abc import Mapping

from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Observed


class Seen(enum.StrEnum):
    """What was observed of a machine, as far as a step depends on it."""

    ABSENT = "not there"
    STOPPED = "Stopped"
    ENDED = "Ended"
    """It is off, and nobody asked for that: the guest shut itself down, or died."""
    RUNNING = "Running"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    UNKNOWN = "Unknown"
    """Its hypervisor process does not answer: it may run."""


class Goal(enum.StrEnum):
    """What is wanted of a machine on this host."""

    RUNNING = "Running"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    STOPPED = "Stopped"
    ABSENT = "Absent"
    """The machine is being deleted: nothing of it stays here."""


class Step(enum.StrEnum):
    """One act of a pass."""

    NONE = "None"
    START = "Start"
    """With the definition of now."""
    RESTART = "Restart"
    """As the restart policy says, after a wait where it keeps ending."""
    SETTLE = "Settle"
    """That it is off is as asked from now on."""
    PAUSE = "Pause"
    RESUME = "Resume"
    SUSPEND = "Suspend"
    WAKE = "Wake"
    """Go on from the memory on the disk."""
    SHUT_DOWN = "ShutDown"
    """Ask the guest, and power it off when its grace period is over."""
    DESTROY = "Destroy"
    LOOK_AGAIN = "LookAgain"
    """Nothing can be done with what is seen; it may change by itself."""


def _row(
    seen: Seen, running: Step, paused: Step, suspended: Step, stopped: Step, absent: Step
) -> dict[tuple[Seen, Goal], Step]:
    steps = (running, paused, suspended, stopped, absent)
    return {(seen, goal): step for goal, step in zip(Goal, steps, strict=True)}


NEXT: Mapping[tuple[Seen, Goal], Step] = {
    # wanted:              Running          Paused           Suspended        Stopped         Absent
    **_row(Seen.ABSENT,    Step.START,      Step.START,      Step.NONE,       Step.NONE,      Step.NONE),
    **_row(Seen.STOPPED,   Step.START,      Step.START,      Step.NONE,       Step.NONE,      Step.DESTROY),
    **_row(Seen.ENDED,     Step.RESTART,    Step.RESTART,    Step.NONE,       Step.SETTLE,    Step.DESTROY),
    **_row(Seen.RUNNING,   Step.NONE,       Step.PAUSE,      Step.SUSPEND,    Step.SHUT_DOWN, Step.SHUT_DOWN),
    **_row(Seen.PAUSED,    Step.RESUME,     Step.NONE,       Step.SUSPEND,    Step.SHUT_DOWN, Step.SHUT_DOWN),
    # It is not started only to be deleted; to be stopped it is, so that its guest can write what it has in memory.
    **_row(Seen.SUSPENDED, Step.WAKE,       Step.WAKE,       Step.NONE,       Step.WAKE,      Step.DESTROY),
    # It may run: a second copy must never start, and its guest still gets its grace period.
    **_row(Seen.UNKNOWN,   Step.LOOK_AGAIN, Step.LOOK_AGAIN, Step.LOOK_AGAIN, Step.SHUT_DOWN, Step.SHUT_DOWN),
}  # fmt: skip


def seen(observed: Observed) -> Seen:
    """The row that an observation belongs to."""
    match observed.power:
        case None:
            return Seen.ABSENT
        case PowerState.STOPPED:
            return Seen.ENDED if observed.ended_by_itself else Seen.STOPPED
        case PowerState.RUNNING:
            return Seen.RUNNING
        case PowerState.PAUSED:
            return Seen.PAUSED
        case PowerState.SUSPENDED:
            return Seen.SUSPENDED
        case PowerState.UNKNOWN:
            return Seen.UNKNOWN
