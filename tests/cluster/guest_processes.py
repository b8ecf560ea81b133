"""Guests' processes, found by what they have open or were told: the ground truth beside what the resources say."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path


def guest_processes(folder: Path | str) -> list[int]:
    """Pids of QEMU processes whose command line names something below `folder`."""
    return sorted(pid for pid, words in _command_lines() if _is_qemu(words) and str(folder) in " ".join(words))


def end_guests(folder: Path | str) -> None:
    """Kill what `guest_processes` finds, by pidfd, wait until it is gone, and remove the cgroups it leaves."""
    for pid in guest_processes(folder):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in guest_processes(folder):  # still the same process, now that it is held
                groups = own_groups(pid)
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _wait(descriptor)
                remove_groups(groups)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def end_machines(folder: Path) -> None:
    """`end_guests`, and remove the cgroups of the machines of this host, whose state is below `folder`.

    A driver that ends just after a guest leaves its empty cgroup to the next driver, and after a test there is none.
    """
    end_guests(folder)
    with contextlib.suppress(FileNotFoundError):
        for machine in (folder / "state").iterdir():
            remove_groups(groups_named(machine.name))


def _wait(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(10_000)


def own_groups(pid: int) -> list[Path]:
    """The cgroups that an agent made for this process (proc(5): `number:controllers:path` a line)."""
    paths = {Path(line.split(":", 2)[2]) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
    names = {path.name for path in paths if path.parent.name == "virtplane"}
    return [group for name in names for group in groups_named(name)]


def groups_named(name: str) -> list[Path]:
    """The cgroups, one in each hierarchy, that an agent makes for the machine of that UID."""
    # No glob: it fails when somebody else's group goes in this moment.
    parents = (
        Path(folder) for folder, _folders, _files in os.walk("/sys/fs/cgroup") if Path(folder).name == "virtplane"
    )
    return [parent / name for parent in parents if (parent / name).exists()]


def remove_groups(groups: list[Path]) -> None:
    """Those that nothing is in any more."""
    for group in groups:
        for folder in (group, group.parent):  # the parent too when it was the last
            with contextlib.suppress(OSError):
                folder.rmdir()


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield int(entry.name), words


def _is_qemu(words: list[str]) -> bool:
    """Also in the moments before a shell and setpriv become it."""
    return "qemu" in Path(words[0]).name or (
        words[0] in ("sh", "setpriv") and any(word.startswith("qemu-sys") for word in words)
    )
