"""What QEMU's run states (QAPI run-state.json, RunState) mean for a machine, as a table."""

import enum
from collections.abc import Mapping


class Meaning(enum.Enum):
    """What a machine in such a state is doing."""

    RUNS = enum.auto()
    PAUSED = enum.auto()
    HAS_IO_ERROR = enum.auto()
    """Paused, as a disk cannot be read or written."""
    ENDED = enum.auto()
    """The guest is over; the process is left behind, paused, so that an agent that was away still learns of it."""


MEANINGS: Mapping[str, Meaning] = {
    "running": Meaning.RUNS,
    "restore-vm": Meaning.RUNS,
    "save-vm": Meaning.RUNS,
    "colo": Meaning.RUNS,
    # The guest's own sleep (ACPI S3): for us it runs.
    "suspended": Meaning.RUNS,
    "paused": Meaning.PAUSED,
    # A start is over before the first command is answered: this is a guest that was reset while it was held.
    "prelaunch": Meaning.PAUSED,
    "debug": Meaning.PAUSED,
    "finish-migrate": Meaning.PAUSED,
    "postmigrate": Meaning.PAUSED,
    "io-error": Meaning.HAS_IO_ERROR,
    "shutdown": Meaning.ENDED,
    "guest-panicked": Meaning.ENDED,
    "watchdog": Meaning.ENDED,
    "internal-error": Meaning.ENDED,
    # Not of a machine that is known to wake: it waits for memory that nobody sends it any more.
    "inmigrate": Meaning.ENDED,
}

END_CAUSES: Mapping[str, str] = {
    "shutdown": "guest-shutdown",
    "guest-panicked": "guest-panic",
    "watchdog": "watchdog",
    "internal-error": "internal-error",
    "inmigrate": "inmigrate",
}
"""State in which a guest is over -> its cause, by QEMU's own words (ShutdownCause) where it has one."""


def meaning_of(state: str) -> Meaning:
    """Of a state that a later QEMU may bring nobody knows the meaning: such a machine is held, never ended."""
    return MEANINGS.get(state, Meaning.PAUSED)
