"""What a driver may raise, by what its caller can do about it.

::

    DriverError                 anything a driver says; never raised itself
    ├── Unavailable             not now: ask again after retry_after_s
    │   └── Unresponsive        the machine's own hypervisor process does not answer; others are not affected
    ├── GuestCommandLost        a program in a guest may have run; nobody knows how it ended
    └── Refused                 never like this: somebody must change something first
        ├── StaleToken          the host or a disk has seen a greater token; carries it
        └── LaunchFailed        the hypervisor could not start the machine; carries argv, exit status, last output

A driver never wraps `asyncio.CancelledError`, and leaves a state behind every error from which the same call may be
made again.
"""

from virtplane_api.reasons import Reason


class DriverError(Exception):
    """Anything that a driver reports."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """One CamelCase word for a condition's reason."""


class Unavailable(DriverError):
    """Not possible now; the same call may succeed later."""

    def __init__(self, message: str, *, reason: str = Reason.UNAVAILABLE, retry_after_s: float = 5.0) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class Unresponsive(Unavailable):
    """The process of one machine does not answer."""

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message, reason=Reason.UNRESPONSIVE, retry_after_s=retry_after_s)


class GuestCommandLost(DriverError):
    """A program was given to a guest, and its end was not seen. Asking again would run it again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.GUEST_COMMAND_LOST)


class Refused(DriverError):
    """Not possible as asked; repeating it changes nothing."""


class StaleToken(Refused):
    """Somebody was placed under a greater token than ours: we act on a past that was put back."""

    def __init__(self, message: str, *, seen: int) -> None:
        super().__init__(message, reason=Reason.STALE_TOKEN)
        self.seen = seen
        """The greatest token that was seen."""


class LaunchFailed(Refused):
    """The hypervisor ended before the machine ran."""

    def __init__(self, message: str, *, argv: tuple[str, ...], exit_status: int | None, last_output: str) -> None:
        super().__init__(message, reason=Reason.LAUNCH_FAILED)
        self.argv = argv
        self.exit_status = exit_status
        self.last_output = last_output
