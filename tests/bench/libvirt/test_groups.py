"""Nothing of a run is left in the cgroup hierarchies, whatever became of the run."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.libvirt import groups

ROOTS = [root for root in groups.cgroup_roots() if os.access(root, os.W_OK)]
pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not ROOTS, reason="needs root and a cgroup hierarchy")

OWNER = "import subprocess, sys\nsubprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\nsys.stdin.read()\n"


def test_groups_of_a_run_that_was_killed_are_removed_and_those_of_others_are_not() -> None:
    run = f"bench-test{os.getpid()}"
    parents = [root / name for root in ROOTS[:1] for name in ("virtplane", "machine")]
    existed = [parent for parent in parents if parent.exists()]
    ours = [parents[0] / f"{run}-001", parents[1] / f"qemu-1-{run}-001.libvirt-qemu" / "emulator"]
    other = parents[0] / f"other-{os.getpid()}"
    argv = [sys.executable, "-I", "-S", groups.__file__, run]
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        for group in (*ours, other):
            group.mkdir(parents=True)
        owner.send_signal(signal.SIGKILL)
        owner.stdout.read()  # until the cleaner has ended too
        assert not [group for group in ours if group.exists()]
        assert other.exists()
    finally:
        owner.kill()
        owner.communicate()
        for group in (*ours, ours[1].parent, other, *parents):
            if group not in existed:
                with contextlib.suppress(OSError):
                    group.rmdir()


def test_a_group_is_removed_once_its_last_process_is_gone() -> None:
    run = f"bench-busy{os.getpid()}"
    group = ROOTS[0] / "virtplane" / f"{run}-001"
    group.mkdir(parents=True)
    argv = [sys.executable, "-I", "-S", groups.__file__, run]
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as guest,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cleaner,
    ):
        try:
            (group / "cgroup.procs").write_text(f"{guest.pid}\n")
            assert cleaner.stdin is not None
            assert cleaner.stdout is not None
            assert cleaner.stdout.readline() == b"ready\n"
            cleaner.stdin.close()
            assert _still(group, 0.5)
        finally:
            guest.kill()
        guest.wait()
        assert cleaner.wait(30) == 0
    assert not group.exists()
    with contextlib.suppress(OSError):  # others may be in it
        group.parent.rmdir()


def _still(group: Path, seconds: float) -> bool:
    """Whether it is there all the time: with a process in it, it must be."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not group.exists():
            return False
    return True
