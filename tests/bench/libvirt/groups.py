"""Removes the cgroups of one run of the benchmark, however the run ends: `python -I -S groups.py RUN`.

It says `ready`, waits for the end of its stdin (its owner closed it, or died), then for the processes to go. Groups
lie in `virtplane/RUN-*` (ours) and `machine/qemu-*-RUN-*` (libvirt's without systemd), in every hierarchy. Standard
library only.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

_PARENTS = {"virtplane": "{run}-*", "machine": "qemu-*-{run}-*"}
_PATIENCE_S = 60.0


def main(run: str) -> None:
    """Wait, then remove."""
    parents = [root / name for root in cgroup_roots() for name in _PARENTS]
    fresh = [parent for parent in parents if not parent.exists()]
    print("ready", flush=True)
    sys.stdin.read()
    deadline = time.monotonic() + _PATIENCE_S
    while sum(_removed_some(parent, run) for parent in parents) and time.monotonic() < deadline:
        time.sleep(0.1)
    for parent in fresh:
        with contextlib.suppress(OSError):  # another's groups are in it by now
            parent.rmdir()


def _removed_some(parent: Path, run: str) -> bool:
    """Whether there was anything to remove: it is looked for again then, as a group with a process in it stays."""
    groups = list(parent.glob(_PARENTS[parent.name].format(run=run)))
    for group in groups:
        for folder, _folders, _files in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
    return bool(groups)


def cgroup_roots() -> list[Path]:
    """Where hierarchies of either version are mounted."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = (line.split(" - ") for line in lines)
    return [Path(before.split()[4]) for before, after in mounts if after.split()[0] in ("cgroup", "cgroup2")]


if __name__ == "__main__":
    main(sys.argv[1])
