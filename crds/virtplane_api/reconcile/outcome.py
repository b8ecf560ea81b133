"""How one pass over an object may end. The loop turns them into waiting; conditions and events are the pass's own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """Observed equals desired, or only a change of the object or of the world can bring it further."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something takes its time: look again after `after_s`, or earlier when the key is enqueued."""

    after_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """This pass could not do its step: again after a backoff, at least `retry_after_s` where that is known."""

    reason: str
    message: str
    retry_after_s: float | None = None


Outcome = Done | Wait | Failed
