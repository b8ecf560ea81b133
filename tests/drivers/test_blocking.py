"""Calls that may never return: each has a thread of its own, and nothing waits for it longer than it wants to."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.blocking import Questions, in_thread


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """Reading it hangs in the kernel until somebody writes, as a file of a server that is away."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    release(path)


def release(fifo: Path) -> None:
    """Let all readers go."""
    os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))


def read(fifo: Path) -> bytes:
    return fifo.read_bytes()


async def test_what_the_call_returns_or_raises_comes_back() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)
    assert await in_thread(threading.get_ident) != threading.get_ident()


async def test_however_many_calls_hang_the_next_one_is_served(fifo: Path) -> None:
    hanging = [asyncio.create_task(in_thread(read, fifo)) for _ in range(100)]
    await asyncio.sleep(0)
    assert await in_thread(divmod, 7, 2) == (3, 1)
    assert not any(task.done() for task in hanging)
    with fifo.open("wb"):  # opens when a reader is there: all hundred read until this end
        pass
    for task in hanging:
        task.cancel()


async def test_a_caller_that_is_cancelled_goes_on_and_the_late_answer_is_dropped(fifo: Path) -> None:
    task = asyncio.create_task(in_thread(read, fifo))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_program_ends_while_its_calls_hang(fifo: Path) -> None:
    code = f"""
import asyncio, pathlib
from virtplane_drivers.host.blocking import in_thread
async def main():
    asyncio.ensure_future(in_thread(pathlib.Path({str(fifo)!r}).read_bytes))
    await asyncio.sleep(0.05)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0


# --- questions --------------------------------------------------------------------------------------------------------


async def test_a_folder_that_does_not_answer_is_told_of_in_words(fifo: Path) -> None:
    with pytest.raises(Unavailable, match=f"the file system of {fifo.parent} does not answer") as silent:
        await Questions(timeout_s=0.05).ask(fifo.parent, read, fifo)
    assert silent.value.reason == Reason.POOL_SILENT


async def test_a_silent_folder_is_not_asked_again_before_it_has_answered(fifo: Path) -> None:
    questions, asked = Questions(timeout_s=0.05), []

    def ask() -> bytes:
        asked.append(True)
        return fifo.read_bytes()

    for _ in range(5):
        with pytest.raises(Unavailable):
            await questions.ask(fifo.parent, ask)
    assert len(asked) == 1
    # Other folders are others.
    assert await questions.ask(Path("/elsewhere"), divmod, 7, 2) == (3, 1)
    await asyncio.to_thread(lambda: fifo.open("wb").close())
    async with asyncio.timeout(5):
        while True:
            try:
                assert await questions.ask(fifo.parent, divmod, 7, 2) == (3, 1)
                break
            except Unavailable:
                await asyncio.sleep(0.01)


async def test_questions_to_a_folder_that_answers_do_not_wait_for_one_another() -> None:
    questions = Questions()
    barrier = threading.Barrier(8, timeout=10)
    await asyncio.gather(*(questions.ask(Path("/srv"), barrier.wait) for _ in range(8)))


async def test_a_timeout_of_the_call_itself_is_its_own() -> None:
    def fails() -> None:
        raise TimeoutError("of NFS")

    with pytest.raises(TimeoutError, match="of NFS"):
        await Questions().ask(Path("/srv"), fails)
