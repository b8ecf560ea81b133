"""What networks leave below a folder when nobody is there to remove them: name servers, and mounted namespaces.

A network outlives its agent, as a guest does. Standard library only, as its user is the supervising process.
"""

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path

from tests.cluster.guest_processes import own_groups, remove_groups

_PROGRAMS = frozenset({"dnsmasq", "passt"})


def mounts_below(folder: Path | str) -> list[str]:
    """Mount points below the folder, the last mounted first (proc(5), mountinfo)."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in reversed(points) if point.startswith(f"{folder}/")]


def network_processes(folder: Path | str) -> list[int]:
    """Pids of programs that serve networks and whose command line names something below the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if Path(words[0]).name.split(".")[0] in _PROGRAMS and f"{folder}/" in " ".join(words):
                    found.append(int(entry.name))
    return sorted(found)


def end_networks(folder: Path | str) -> None:
    """Kill what `network_processes` finds, by pidfd, with its cgroups, and unmount what lies below the folder."""
    for pid in network_processes(folder):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                if pid in network_processes(folder):  # still the same process, now that it is held
                    groups = own_groups(pid)
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    poll.poll(10_000)
                    remove_groups(groups)
            finally:
                os.close(descriptor)
    for point in mounts_below(folder):
        subprocess.run(["umount", "--lazy", point], check=False, stderr=subprocess.DEVNULL)
