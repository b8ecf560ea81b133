"""Calls into a file system, which may never return: a server is away, a disk is dying.

`asyncio.to_thread` has a handful of threads: as many calls that hang hold up everything else, and the program's end, as
its threads are waited for. (So are anyio's.) Here each call has a thread of its own, which ends with the program.
"""

import asyncio
import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_TIMEOUT_S = 15.0
"""A disk that is only slow has answered by then; a client of NFS may wait for ever."""


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function returns or raises. One whose caller is cancelled goes on, and its result is dropped."""
    return await _begun(function, *args, **kwargs)


def _begun(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(set_: Callable[[], None]) -> None:
        # The loop may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if answer.done() else set_())

    def run() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            failure = error
            settle(lambda: answer.set_exception(failure))
        else:
            settle(lambda: answer.set_result(result))

    threading.Thread(target=run, name=f"blocking {getattr(function, '__name__', 'call')}", daemon=True).start()
    return answer


def close_aside(descriptor: int) -> None:
    """Close a file that may be of a pool, soon: close(2) writes what is left, and waits for its file system."""
    threading.Thread(target=os.close, args=(descriptor,), name="blocking close", daemon=True).start()


class Questions:
    """Asks folders what can be asked again, and gives up on those that do not answer.

    While one question to a folder is overdue no other is put to it: whoever asks every few seconds would leave a thread
    there each time.
    """

    def __init__(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._overdue: Counter[Path] = Counter()

    async def ask(self, folder: Path, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The answer.

        Raises:
            Unavailable: the folder's file system does not answer (PoolSilent); the question is still there.
        """
        if self._overdue[folder]:
            raise self._silent(folder)
        answer = _begun(function, *args, **kwargs)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(answer)
        except TimeoutError as error:
            if answer.done():
                raise
            self._overdue[folder] += 1
            answer.add_done_callback(lambda late: self._answered(folder, late))
            raise self._silent(folder) from error

    def _answered(self, folder: Path, late: "asyncio.Future[T]") -> None:
        self._overdue[folder] -= 1
        if not late.cancelled():
            late.exception()  # nobody waits for it

    def _silent(self, folder: Path) -> Unavailable:
        message = f"the file system of {folder} does not answer ({self._timeout_s:g} s)"
        return Unavailable(message, reason=Reason.POOL_SILENT, retry_after_s=self._timeout_s)
