"""The writing side: bytes go out in order, a descriptor together with the first byte of its command.

asyncio's transport is not used for it, for two reasons. It cannot pass descriptors. And when a write fails because
QEMU has just died, it stops reading too, and with that loses the last events, which still lie in the socket.
"""

import array
import asyncio
import socket
from collections import deque
from collections.abc import Callable

from virtplane_drivers.host.blocking import close_aside


class Outbox:
    """Takes whole commands; what the socket does not take at once waits here, and nothing overtakes it.

    It is no longer than what may be in flight: `Commands` holds back the rest.
    """

    def __init__(self, connection: socket.socket, on_failure: Callable[[OSError], None]) -> None:
        # A descriptor of its own: the event loop lets only the transport wait for the one that it reads from.
        self._socket = connection.dup()
        self._loop = asyncio.get_running_loop()
        self._on_failure = on_failure
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        self._broken = False

    def send(self, payload: bytes, descriptor: int | None = None) -> None:
        """Write, now or when the socket takes it. The descriptor is closed once it was passed; never fails."""
        if self._broken:
            close_descriptor(descriptor)
        elif self._unsent:
            self._unsent.append((payload, descriptor))
        elif (rest := self._written(payload, descriptor)) is not None:
            self._unsent.append(rest)
            self._loop.add_writer(self._socket, self._write_more)

    def close(self) -> None:
        """Forget what was not written. May be called again."""
        self._give_up()
        self._socket.close()

    def _write_more(self) -> None:
        while self._unsent:
            rest = self._written(*self._unsent.popleft())
            if rest is not None:
                self._unsent.appendleft(rest)
                return
        if not self._broken:
            self._loop.remove_writer(self._socket)

    def _written(self, payload: bytes, descriptor: int | None) -> tuple[bytes, int | None] | None:
        """What is left to write; None when nothing is, or nothing ever will be."""
        try:
            if descriptor is None:
                count = self._socket.send(payload)
            else:
                rights = array.array("i", [descriptor])
                count = self._socket.sendmsg([payload], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except (BlockingIOError, InterruptedError):
            return payload, descriptor
        except OSError as error:
            close_descriptor(descriptor)
            self._give_up()
            self._on_failure(error)
            return None
        close_descriptor(descriptor)
        return (payload[count:], None) if count < len(payload) else None

    def _give_up(self) -> None:
        if self._broken:
            return
        self._broken = True
        self._loop.remove_writer(self._socket)
        while self._unsent:
            close_descriptor(self._unsent.popleft()[1])


def close_descriptor(descriptor: int | None) -> None:
    """Close it soon, if there is one: not in the event loop, which would wait for a file system that hangs."""
    if descriptor is not None:
        close_aside(descriptor)
