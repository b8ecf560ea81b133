"""What the web server of images does wrong, set by a test while it runs."""

import threading
from dataclasses import dataclass, field
from http import HTTPStatus


@dataclass
class Faults:
    """All off at first; each may be changed at any time, and holds for the requests that come then."""

    answers: list[HTTPStatus] = field(default_factory=list)
    """The next requests are answered by these, one each, and by no file."""
    reason: str = ""
    """The words beside such a status, as Latin-1."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Who asks for the path is sent to the location."""

    cut_after_bytes: int | None = None
    """A connection ends after so many bytes of a body."""
    cut_times: int | None = None
    """So many connections are cut. None: each."""
    stall: threading.Event | None = None
    """No byte of a body after `stall_after_bytes` is sent until it is set."""
    stall_after_bytes: int = 0
    slow_s: float = 0.0
    """A body comes in sixteen pieces, with such a pause after each."""
    endless: bool = False
    """After the file's bytes come zeros for ever."""

    no_length: bool = False
    """A body ends where the connection ends."""
    etag: str | None = None
    """Sent in place of the content's own, as Latin-1; the empty one is not sent."""

    no_ranges: bool = False
    """Each answer is the whole file."""
    if_range_ignored: bool = False
    """A range is sent as asked for, also of another content."""
    range_shift_bytes: int = 0
    """A range begins so many bytes before what was asked for, and says so."""
    range_bytes: int | None = None
    """A range holds at most so many bytes."""

    def takes_cut(self) -> bool:
        """Whether this connection is to be cut."""
        if self.cut_after_bytes is None or self.cut_times == 0:
            return False
        if self.cut_times is not None:
            self.cut_times -= 1
        return True
