"""The driver's children, found in /proc by what they were told."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

_PROGRAMS = {"qemu-img", "setpriv", "prlimit"}


def children_at(folder: Path, program: str = "") -> list[int]:
    """Pids of running inspectors and qemu-imgs (`program`: only of those) whose command line names something below."""
    return [
        pid
        for pid, words in _command_lines()
        if str(folder) in " ".join(words) and _program(words) in ({program} if program else {*_PROGRAMS, "inspector"})
    ]


async def until_child(folder: Path, program: str) -> None:
    """Returns once such a child runs."""
    async with asyncio.timeout(10):
        while not children_at(folder, program):
            await asyncio.sleep(0.005)


async def until_no_child(folder: Path) -> None:
    """Returns once none is left."""
    async with asyncio.timeout(10):
        while children_at(folder):
            await asyncio.sleep(0.005)


def end_children(folder: Path) -> None:
    """Kills what `children_at` finds: a test that failed leaves none to the next."""
    for pid in children_at(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def own_children() -> set[int]:
    """Pids of this process's children, also of those that ended and were not waited for."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def _program(words: list[str]) -> str:
    name = os.path.basename(words[0])  # noqa: PTH119
    if name in _PROGRAMS:
        return name
    return "inspector" if any(word.endswith("inspect_image.py") for word in words) else ""


def _command_lines() -> list[tuple[int, list[str]]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.append((int(entry.name), words))
    return found
