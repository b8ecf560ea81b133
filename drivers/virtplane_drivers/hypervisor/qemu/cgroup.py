"""A cgroup per guest, outside the agent's: who ends or limits the agent's cgroup does not meet a guest.

Both versions: on v2 one folder, on v1 one in each hierarchy that can be written. cpuset is left alone on v1: a new
group there holds no process before it was given CPUs and memory nodes.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

_PARENT = "virtplane"
_UNTOUCHED = frozenset({"cpuset"})


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """The mounted cgroup hierarchies that groups can be made in."""

    roots: tuple[Path, ...]
    missing: str = ""
    """Why there is none."""

    def put(self, uid: str, pid: int) -> None:
        """Move a process into the machine's own groups; one that cannot be is left where it is."""
        for root in self.roots:
            group = root / _PARENT / uid
            with contextlib.suppress(OSError):
                group.mkdir(parents=True, exist_ok=True)
                (group / "cgroup.procs").write_text(f"{pid}\n")

    def remove(self, uid: str) -> None:
        """Remove the machine's empty groups, and ours when it was the last."""
        for root in self.roots:
            with contextlib.suppress(OSError):
                (root / _PARENT / uid).rmdir()
            with contextlib.suppress(OSError):
                (root / _PARENT).rmdir()


def find_hierarchies() -> Hierarchies:
    """What this process may use: probed by making a group."""
    roots = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        mount = Path(before.split(" ")[4])
        if kind in ("cgroup", "cgroup2") and not _UNTOUCHED & set(options.split(",")) and _can_make_groups(mount):
            roots.append(mount)
    return Hierarchies(tuple(roots), "" if roots else "no cgroup hierarchy can be written: start the agent as root")


def _can_make_groups(root: Path) -> bool:
    probe = root / _PARENT / "probe"
    try:
        probe.mkdir(parents=True, exist_ok=True)
        probe.rmdir()
        with contextlib.suppress(OSError):
            (root / _PARENT).rmdir()
    except OSError:
        return False
    return True
