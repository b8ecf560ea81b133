"""What must hold whatever happens: read off /proc, the file system and the API server, beside what a test looks at.

I1 at most one process may write a disk; I2 every process, folder, file and cgroup belongs to a resource that lives, or
to an orphan that is listed; I3 no data is gone unless a resource that says Delete was deleted; I4 a status claims
nothing that is not so.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane
from tests.cluster.guest_processes import guest_processes
from tests.cluster.system import System

Object = dict[str, Any]
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_RUNS = ("Running", "Paused")


@dataclass(frozen=True)
class World:
    """The resources as they are now."""

    machines: list[Object]
    volumes: list[Object]
    hypervisors: list[Object]

    @property
    def known_uids(self) -> set[str]:
        """Of everything that may have something on a host."""
        orphans = (orphan for one in self.hypervisors for orphan in (one.get("status", {}).get("orphans") or []))
        return {one["metadata"]["uid"] for one in (*self.machines, *self.volumes)} | {one["uid"] for one in orphans}


def broken(
    control_plane: ControlPlane, system: System, agents: Iterable[str], pool: Path, seen_uids: Iterable[str]
) -> list[str]:
    """What does not hold, in words; transient states of a moment included, so ask until it is empty.

    `seen_uids` are all machines that there ever were: of the host's cgroups only theirs are ours.
    """
    world = _world(control_plane)
    folders = [(system.state_folder(agent) / "qemu", system.runtime_folder(agent)) for agent in agents]
    found = list(two_writers(system.directory))
    for state, runtime in folders:
        found += _without_owner(world, "folder", [*_children(state), *_children(runtime)])
    found += _without_owner(world, "file", _children(pool))
    groups = (group for uid in seen_uids for group in Path("/sys/fs/cgroup").glob(f"*/virtplane/{uid}"))
    found += _without_owner(world, "cgroup", groups)
    found += _lost_data(world, pool)
    found += _untrue_claims(world)
    return found


def two_writers(folder: Path) -> Iterator[str]:
    """I1, which may not be broken for a moment either: files that two processes hold open for writing."""
    writers: defaultdict[tuple[int, int, str], set[int]] = defaultdict(set)
    for pid in guest_processes(folder):
        for file in _written(pid):
            writers[file].add(pid)
    for (_device, _inode, path), pids in writers.items():
        if len(pids) > 1:
            yield f"I1: {path} is written by {sorted(pids)}"


def _written(pid: int) -> Iterator[tuple[int, int, str]]:
    for entry in _children(Path(f"/proc/{pid}/fd")):
        try:
            path = str(entry.readlink())
            flags = int(Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().split("flags:")[1].split()[0], 8)
            status = entry.stat()
        except OSError:
            continue
        if path.endswith((".qcow2", ".raw", ".img")) and flags & os.O_ACCMODE == os.O_RDWR:
            yield status.st_dev, status.st_ino, path


def _without_owner(world: World, kind: str, paths: Iterable[Path]) -> list[str]:
    known = world.known_uids
    return [
        f"I2: {kind} {path} belongs to nobody"
        for path in paths
        if (uid := _UID.search(path.name)) is not None and uid[0] not in known
    ]


def _lost_data(world: World, pool: Path) -> list[str]:
    names = [path.name for path in _children(pool)]
    return [
        f"I3: Volume {volume['metadata']['name']} was made and has no file"
        for volume in world.volumes
        if "size" in volume.get("status", {})
        and volume["status"]["host"]["state"] == "Present"
        and "deletionTimestamp" not in volume["metadata"]
        and not any(name.startswith(volume["metadata"]["uid"]) for name in names)
    ]


def _untrue_claims(world: World) -> Iterator[str]:
    for machine in world.machines:
        power = machine.get("status", {}).get("powerState")
        uid = machine["metadata"]["uid"]
        own = guest_processes(f"/state/qemu/{uid}/")
        if power in _RUNS and len(own) != 1:
            yield f"I4: {machine['metadata']['name']} is said to be {power} and has the processes {own}"
        if power in ("Stopped", "Suspended") and own:
            yield f"I4: {machine['metadata']['name']} is said to be {power} and has the processes {own}"


def _world(control_plane: ControlPlane) -> World:
    kinds = {}
    for kind in ("virtualmachines", "volumes", "hypervisors"):
        kinds[kind] = json.loads(control_plane.request("GET", f"/apis/virtplane.dev/v1alpha1/{kind}"))["items"]
    return World(kinds["virtualmachines"], kinds["volumes"], kinds["hypervisors"])


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []
