"""A cgroup for each program that outlives the agent: who ends or limits the agent's cgroup does not meet a guest.

Both versions: on v2 one folder with all controllers, on v1 one in each hierarchy that can be written. cpuset is left
alone on v1: a new group there holds no process before it was given CPUs and memory nodes.

Files and units: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

PROCESSES = "cgroup.procs"
_PARENT = "virtplane"
_UNTOUCHED = frozenset({"cpuset"})
_LIMITING = frozenset({"memory", "cpu"})
PERIOD_US = 100_000
"""Of CPU quotas."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may take of the host."""

    memory_mib: int
    """Of all its processes, and of the files that they have in the page cache."""
    cpu_weight: int
    """In the manner of cgroup v2: 100 is one share."""
    cpu_quota_us: int
    """CPU time per `PERIOD_US`."""

    @property
    def v2(self) -> Mapping[str, str]:
        """File -> content, in a group of v2."""
        return {
            "memory.max": str(self.memory_mib * _MIB),
            "cpu.weight": str(min(10_000, self.cpu_weight)),
            "cpu.max": f"{self.cpu_quota_us} {PERIOD_US}",
        }

    def v1(self, controllers: frozenset[str]) -> Mapping[str, str]:
        """File -> content, in a group of a v1 hierarchy with these controllers."""
        files: dict[str, str] = {}
        if "memory" in controllers:
            files["memory.limit_in_bytes"] = str(self.memory_mib * _MIB)
        if "cpu" in controllers:
            files["cpu.shares"] = str(min(262_144, self.cpu_weight * 1024 // 100))
            files["cpu.cfs_period_us"] = str(PERIOD_US)
            files["cpu.cfs_quota_us"] = str(self.cpu_quota_us)
        return files


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy that groups can be made in."""

    root: Path
    version: int
    controllers: frozenset[str]

    def files(self, limits: Limits) -> Mapping[str, str]:
        """The limits as this hierarchy takes them."""
        if self.version == 1:
            return limits.v1(self.controllers)
        return {name: text for name, text in limits.v2.items() if name.partition(".")[0] in self.controllers}


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """All of them."""

    all: tuple[Hierarchy, ...]
    missing: str = ""
    """Why there is none."""

    @property
    def missing_limits(self) -> str:
        """Which limits cannot be set, and why; empty when all can."""
        lacking = _LIMITING - {name for hierarchy in self.all for name in hierarchy.controllers}
        if not lacking:
            return ""
        return self.missing or f"no cgroup hierarchy has the controllers {', '.join(sorted(lacking))}"

    def prepare(self, uid: str, limits: Limits) -> tuple[Path, ...]:
        """Make the machine's own groups, with these limits; those that could be made."""
        made = []
        for hierarchy in self.all:
            try:
                group = _made(hierarchy.root / _PARENT / uid)
            except OSError as error:
                _log.warning("machine %s stays in the agent's cgroup of %s: %s", uid, hierarchy.root, error)
                continue
            made.append(group)
            try:
                if hierarchy.version == 2:  # the parent is a new one after the last machine has gone
                    _hand_down(hierarchy.controllers, group.parent)
                for name, text in hierarchy.files(limits).items():
                    (group / name).write_text(text)
            except OSError as error:
                _log.warning("machine %s has no limits in %s: %s", uid, hierarchy.root, error)
        return tuple(made)

    def put(self, uid: str, pid: int, limits: Limits) -> None:
        """See to it that a process is in the machine's own groups, with these limits, where that can be."""
        self.move(uid, pid, self.prepare(uid, limits))

    def move(self, uid: str, pid: int, groups: Sequence[Path]) -> None:
        """Move a process that is not in the machine's groups.

        One that is started enters them by itself (`process.spawn`), as what it allocates stays with the group that it
        is in then; this is for one that could not, or that runs from before.
        """
        if is_in_all(uid, pid, groups):
            return
        for group in groups:
            try:
                (group / PROCESSES).write_text(f"{pid}\n")
            except OSError as error:
                _log.warning("machine %s stays in the agent's cgroup beside %s: %s", uid, group, error)

    def remove(self, uid: str) -> None:
        """Remove the machine's empty groups, and ours when it was the last."""
        for hierarchy in self.all:
            with contextlib.suppress(OSError):
                (hierarchy.root / _PARENT / uid).rmdir()
            with contextlib.suppress(OSError):
                (hierarchy.root / _PARENT).rmdir()


class Groups:
    """The machines' groups, in a thread of its own: the kernel takes a millisecond for a move in each hierarchy of v1,
    one after the other."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self._hierarchies = hierarchies
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cgroups")

    async def prepare(self, uid: str, limits: Limits) -> tuple[Path, ...]:
        """See `Hierarchies.prepare`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._hierarchies.prepare, uid, limits)

    async def move(self, uid: str, pid: int, groups: Sequence[Path]) -> None:
        """See `Hierarchies.move`; nearly always there is nothing to do."""
        if not is_in_all(uid, pid, groups):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._hierarchies.move, uid, pid, groups)

    async def put(self, uid: str, pid: int, limits: Limits) -> None:
        """See `Hierarchies.put`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._hierarchies.put, uid, pid, limits)

    async def remove(self, uid: str) -> None:
        """See `Hierarchies.remove`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._hierarchies.remove, uid)


def find_hierarchies() -> Hierarchies:
    """What this process may use: probed by making a group."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        root = Path(before.split(" ")[4])
        if kind not in ("cgroup", "cgroup2") or _UNTOUCHED & set(options.split(",")) or not _can_make_groups(root):
            continue
        if kind == "cgroup":
            found.append(Hierarchy(root, 1, _LIMITING & set(options.split(","))))
        else:
            found.append(Hierarchy(root, 2, _delegated(root)))
    return Hierarchies(tuple(found), "" if found else "no cgroup hierarchy can be written: start the agent as root")


def is_in_all(uid: str, pid: int, groups: Sequence[Path]) -> bool:
    """Whether a process is in all of the machine's groups."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:  # it has gone
        return False
    return sum(line.endswith(f"/{_PARENT}/{uid}") for line in lines) >= len(groups)


def _delegated(root: Path) -> frozenset[str]:
    """The controllers of v2 that the machines' groups get: those that can be handed down to them."""
    parent = _made(root / _PARENT)
    usable = set()
    for controller in sorted(_LIMITING & set((root / "cgroup.controllers").read_text().split())):
        with contextlib.suppress(OSError):
            _hand_down([controller], root)
            _hand_down([controller], parent)
            usable.add(controller)
    with contextlib.suppress(OSError):
        parent.rmdir()
    return frozenset(usable)


def _hand_down(controllers: Collection[str], group: Path) -> None:
    """Give the group's children these controllers (v2)."""
    for controller in sorted(controllers):
        (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _made(group: Path) -> Path:
    """The group, also when another agent of this host removes or makes the parent in between."""
    while True:
        # Not exist_ok: for a folder that goes in that moment it raises what it was to suppress.
        with contextlib.suppress(FileExistsError):
            group.parent.mkdir()
        try:
            group.mkdir()
        except FileExistsError:
            return group
        except FileNotFoundError:
            continue
        return group


def _can_make_groups(root: Path) -> bool:
    try:
        _made(root / _PARENT / f"probe-{os.getpid()}").rmdir()
        with contextlib.suppress(OSError):
            (root / _PARENT).rmdir()
    except OSError:
        return False
    return True
