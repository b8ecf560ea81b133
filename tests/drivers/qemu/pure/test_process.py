"""A process is known by boot, pid and start time together, and only that very process is ever ended. All are real."""

import asyncio
import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.waiting import eventually
from virtplane_drivers.host.process import (
    ProcessIdentity,
    boot_id,
    command_lines,
    find,
    start_ticks,
    watch_child,
)

NAMED_LIKE_FIELDS = "open('/proc/self/comm', 'w').write(') Z 1 ('); import time; time.sleep(60)"

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=[60]).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@contextmanager
def child(*argv: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that sleeps, unless `argv` says otherwise; ended with the block."""
    process = subprocess.Popen(argv or ("sleep", "60"))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def identity_of(pid: int) -> ProcessIdentity:
    ticks = start_ticks(pid)
    assert ticks is not None
    return ProcessIdentity(boot_id(), pid, ticks)


@pytest.fixture
def no_descriptor_stays() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- who it is --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_descriptor_stays")
async def test_a_process_is_found_by_what_was_noted_of_it() -> None:
    with child() as process:
        found = find(identity_of(process.pid))
        assert found is not None
        assert found.is_alive
        found.let_go()
        assert process.poll() is None


@pytest.mark.usefixtures("no_descriptor_stays")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda known: replace(known, boot_id="11111111-2222-3333-4444-555555555555"), id="another boot"),
        pytest.param(lambda known: replace(known, start_ticks=known.start_ticks - 1), id="an earlier start"),
        pytest.param(lambda known: replace(known, start_ticks=known.start_ticks + 1), id="a later start"),
        pytest.param(lambda known: replace(known, start_ticks=0), id="a start that was not seen"),
    ],
)
async def test_a_process_that_has_the_pid_of_another_one_is_not_it(
    change: Callable[[ProcessIdentity], ProcessIdentity],
) -> None:
    with child() as process:
        assert find(change(identity_of(process.pid))) is None
        assert process.poll() is None


def test_a_pid_that_was_given_anew_is_not_the_process_of_before() -> None:
    """A namespace of its own makes the kernel use a pid again at once."""
    script = """
import asyncio, os, subprocess
from dataclasses import replace
from pathlib import Path
from virtplane_drivers.host.process import ProcessIdentity, boot_id, find, start_ticks

def born_as(pid):
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
    process = subprocess.Popen(["sleep", "60"])
    assert process.pid == pid, process.pid
    return process, ProcessIdentity(boot_id(), pid, start_ticks(pid))

async def main():
    first, identity = born_as(4711)
    first.kill()
    first.wait()
    while True:
        second, other = born_as(4711)
        if other != identity:  # a start within the same tick of 10 ms is the same one for /proc
            break
        second.kill()
        second.wait()
    found = find(identity)
    again = find(other)
    print(found, again is not None and again.is_alive)
    again.kill()
    second.wait()

asyncio.run(main())
"""
    namespace = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a pid namespace needs root")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [*namespace, sys.executable, "-c", script]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == ("None True\n", "")


@pytest.mark.usefixtures("no_descriptor_stays")
async def test_a_pid_that_is_a_threads_by_now_is_no_process_of_before() -> None:
    """A thread has a number of the same range, and a line in /proc of its own."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        ticks = start_ticks(thread.native_id)
        assert ticks is not None
        assert find(ProcessIdentity(boot_id(), thread.native_id, ticks)) is None
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "is_gone"),
    [
        (errno.ESRCH, True),
        (errno.EINVAL, True),
        (errno.ENOENT, True),
        (errno.EMFILE, False),
        (errno.ENFILE, False),
        (errno.ENOMEM, False),
        (errno.EPERM, False),
    ],
    ids=[
        "no such process",
        "a thread",
        "a thread, since Linux 6.9",
        "no descriptors",
        "none in all",
        "memory",
        "sandbox",
    ],
)
def test_only_a_process_that_is_not_there_is_taken_for_gone(
    answer: int,
    is_gone: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that is taken for dead is started again. (A double of the kernel: of those that answer otherwise.)"""

    def refuses(_pid: int) -> int:
        raise OSError(answer, os.strerror(answer))

    ours = identity_of(os.getpid())
    monkeypatch.setattr(os, "pidfd_open", refuses)
    if is_gone:
        assert find(ours) is None
    else:
        with pytest.raises(OSError, match=re.escape(os.strerror(answer))):
            find(ours)


@pytest.mark.usefixtures("no_descriptor_stays")
async def test_a_process_that_has_ended_is_found_neither_as_a_zombie_nor_afterwards() -> None:
    with child() as process:
        identity = identity_of(process.pid)
        process.kill()
        eventually(lambda: start_ticks(process.pid) is None)
        os.kill(process.pid, 0)  # it is there, as a zombie: nobody has waited for it
        assert find(identity) is None
    assert start_ticks(process.pid) is None
    assert find(identity) is None


@pytest.mark.usefixtures("no_descriptor_stays")
async def test_h40_a_process_is_found_as_long_as_one_of_its_threads_lives() -> None:
    """As after SIGKILL, when one of QEMU's threads waits for a device: its first thread is a zombie then."""
    with child(sys.executable, "-c", FIRST_THREAD_ENDS) as process:
        identity = identity_of(process.pid)
        stat = Path(f"/proc/{process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")
        found = find(identity)
        assert found is not None
        assert not await found.wait(0.1)
        found.kill()
        assert await found.wait(5.0)
        assert found.exit_status == -signal.SIGKILL
        assert find(identity) is None


def test_a_process_that_calls_itself_whatever_it_likes_has_the_start_that_it_has() -> None:
    """Its name stands in the line that is read, in brackets, and may hold brackets and blanks itself."""
    with child(sys.executable, "-c", NAMED_LIKE_FIELDS) as process:
        before = start_ticks(process.pid)
        comm = Path(f"/proc/{process.pid}/comm")
        eventually(lambda: comm.read_text() == ") Z 1 (\n")
        assert start_ticks(process.pid) == before
        assert before is not None
        assert before > 1


def test_a_later_start_has_more_ticks() -> None:
    ours = start_ticks(os.getpid())
    with child() as process:
        theirs = start_ticks(process.pid)
        assert ours is not None
        assert theirs is not None
        assert theirs >= ours


def test_the_boot_has_an_id_that_stays() -> None:
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()


def test_command_lines_are_those_that_processes_were_started_with() -> None:
    with child("sleep", "61.25") as process:
        eventually(lambda: command_lines().get(process.pid, [""])[0] == "sleep")
        assert command_lines()[process.pid] == ["sleep", "61.25", ""]


# --- its end ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_descriptor_stays")
async def test_a_found_process_is_killed_and_seen_to_die() -> None:
    with child() as process:
        found = find(identity_of(process.pid))
        assert found is not None
        assert not await found.wait(0.0)
        found.kill()
        assert await found.wait(5.0)
        assert (found.is_alive, found.exit_status) == (False, -signal.SIGKILL)
        found.kill()  # nobody is there any more
        found.let_go()


@pytest.mark.usefixtures("no_descriptor_stays")
@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(3)", 3), ("import os; os.abort()", -6)])
async def test_how_a_child_ended_is_known(code: str, status: int) -> None:
    with child(sys.executable, "-c", code) as process:
        watched = watch_child(process)
        assert await watched.wait(10.0)
        assert watched.exit_status == status


@pytest.mark.usefixtures("no_descriptor_stays")
async def test_how_a_process_of_somebody_else_ended_is_not_known() -> None:
    parent = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 60 & echo $!; wait", stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    found = find(identity_of(pid))
    assert found is not None
    found.kill()
    assert await found.wait(5.0)
    assert found.exit_status is None
    await parent.communicate()


@pytest.mark.usefixtures("no_descriptor_stays")
async def test_letting_go_ends_nothing_and_may_be_repeated() -> None:
    with child() as process:
        watched = watch_child(process)
        watched.let_go()
        watched.let_go()
        assert start_ticks(process.pid) is not None
