"""Machines whose disk has taken a write on and does not answer: h34 and h40 of docs/hazards.md, with a real QEMU."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drivers.hypervisor.hosts import QemuHost

pytestmark = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or os.geteuid() != 0, reason="FUSE is mounted by root, where the kernel has it"
)


async def said(scene: str, folder: Path) -> list[str]:
    """In a mount namespace of its own. When its process ends, so does the disk, and what waits for it is let go."""
    program = [sys.executable, "-m", "tests.drivers.qemu.machines.delayed_writes", scene, str(folder)]
    process = await asyncio.create_subprocess_exec("unshare", "--mount", *program, stdout=subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)  # it lets its guest go, and ends it
            await process.wait()
    assert process.returncode == 0
    return output.decode().split()


async def test_h34_a_qemu_that_is_powered_off_while_it_writes_ends_by_itself(host: QemuHost) -> None:
    assert await said("is-powered-off", host.folder) == ["waits", "ended-with-0"]


async def test_h40_a_qemu_of_which_one_thread_survives_sigkill_is_known_until_that_is_dead(host: QemuHost) -> None:
    """Its first thread is a zombie, and the one that waits for the disk may still write to it."""
    assert await said("is-killed", host.folder) == ["stuck", "stuck-for-the-next-driver", "dead", "gone"]
