"""A guest's own cgroups, on the hierarchies that this very host has, and what may be taken of the host in them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from tests.drivers.qemu.pure.machines import definition, disk, nic
from virtplane_api.vocabulary import DisplayType
from virtplane_drivers.host.cgroup import Hierarchies, Hierarchy, Limits, find_hierarchies
from virtplane_drivers.hypervisor.contract import Cpu
from virtplane_drivers.hypervisor.qemu.limits import limits_of

GROUPS = Path("virtplane")
LIMITS = Limits(memory_mib=512, cpu_weight=200, cpu_quota_us=300_000)


@pytest.fixture(scope="module")
def found() -> Hierarchies:
    hierarchies = find_hierarchies()
    if not hierarchies.all:
        assert hierarchies.missing
        pytest.skip(hierarchies.missing)
    return hierarchies


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    started = subprocess.Popen(["sleep", "60"])
    yield started
    started.kill()
    started.wait()


def mounted() -> dict[Path, tuple[str, set[str]]]:
    """Kind and controllers of every mounted hierarchy."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return {Path(row[1]): (row[2], set(row[3].split(","))) for row in rows if row[2] in ("cgroup", "cgroup2")}


def groups_of(pid: int) -> list[str]:
    """Its group in each hierarchy, as the kernel says."""
    return [line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]


def those_with(found: Hierarchies, uid: str) -> list[Path]:
    """The machine's groups that are there."""
    return [group for one in found.all if (group := one.root / GROUPS / uid).exists()]


# --- where groups can be made -----------------------------------------------------------------------------------------


def test_hierarchies_are_those_that_are_mounted_and_that_a_process_can_just_be_moved_in(found: Hierarchies) -> None:
    hosts = mounted()
    roots = [one.root for one in found.all]
    assert set(roots) <= set(hosts)
    assert len(set(roots)) == len(roots)
    assert found.missing == ""
    for one in found.all:
        kind, controllers = hosts[one.root]
        assert kind == ("cgroup" if one.version == 1 else "cgroup2")
        assert "cpuset" not in controllers
        assert (one.root / "cgroup.procs").exists()


def test_looking_for_them_leaves_nothing_behind(found: Hierarchies) -> None:
    find_hierarchies()
    assert those_with(found, f"probe-{os.getpid()}") == []


LOOKS_OFTEN = """
import sys
from virtplane_drivers.host import cgroup
cgroup._PARENT = sys.argv[1]
for _ in range(300):
    print(len(cgroup.find_hierarchies().all))
"""


def test_agents_of_one_host_that_come_up_together_find_the_same_hierarchies(found: Hierarchies) -> None:
    """Each makes the parent of all groups and removes it again where it is empty, under the other's hands.

    A parent of this test's own: in the real one other guests of this host may lie, and it would never be removed.
    """
    parent = f"virtplane-{uuid4()}"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", LOOKS_OFTEN, parent]
    looking = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    try:
        counts = [one.communicate(timeout=60)[0].split() for one in looking]
    finally:
        for one in looking:
            one.kill()
            one.communicate()
        for hierarchy in found.all:
            with contextlib.suppress(FileNotFoundError):
                (hierarchy.root / parent).rmdir()
    assert counts == [[str(len(found.all))] * 300] * 2


# --- a machine's own --------------------------------------------------------------------------------------------------


def test_a_process_is_moved_into_a_group_of_its_own_in_each_and_a_group_with_a_process_stays(
    found: Hierarchies, process: "subprocess.Popen[bytes]"
) -> None:
    uid = str(uuid4())
    try:
        found.put(uid, process.pid, LIMITS)
        assert groups_of(process.pid).count(f"/{GROUPS}/{uid}") == len(found.all)
        found.remove(uid)
        assert len(those_with(found, uid)) == len(found.all)
        found.put(uid, process.pid, LIMITS)
        assert groups_of(process.pid).count(f"/{GROUPS}/{uid}") == len(found.all)
    finally:
        process.kill()
        process.wait()
        found.remove(uid)
    assert those_with(found, uid) == []


def test_what_a_machine_may_take_is_set_in_its_groups_and_can_be_changed(
    found: Hierarchies, process: "subprocess.Popen[bytes]"
) -> None:
    uid, set_ = str(uuid4()), 0
    try:
        for limits in (LIMITS, Limits(memory_mib=256, cpu_weight=100, cpu_quota_us=200_000)):
            found.put(uid, process.pid, limits)
            for one in found.all:
                for name, text in one.files(limits).items():
                    assert (one.root / GROUPS / uid / name).read_text().strip() == text
                    set_ += 1
    finally:
        process.kill()
        process.wait()
        found.remove(uid)
    assert (set_ > 0) == (found.missing_limits == "")


def test_a_process_that_is_gone_and_a_group_that_never_was_are_no_error(
    found: Hierarchies, process: "subprocess.Popen[bytes]"
) -> None:
    process.kill()
    process.wait()
    uid = str(uuid4())
    found.put(uid, process.pid, LIMITS)
    found.remove(uid)
    found.remove(uid)
    assert those_with(found, uid) == []


def test_without_any_hierarchy_nothing_is_done(process: "subprocess.Popen[bytes]") -> None:
    before = groups_of(process.pid)
    Hierarchies(()).put(str(uuid4()), process.pid, LIMITS)
    assert groups_of(process.pid) == before


# --- what a machine may take ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "memory_mib", "disks", "accelerator", "expected"),
    [
        (1, 1024, 0, "kvm", Limits(1024 + 256 + 32 + 16, 100, 200_000)),
        (4, 8192, 3, "kvm", Limits(8192 + 256 + 256 + 64 + 24, 400, 500_000)),
        (1, 1024, 0, "tcg", Limits(1024 + 256 + 32 + 16 + 128, 100, 200_000)),
    ],
    ids=["the smallest", "of disks and cores each takes some", "emulation keeps translated code"],
)
def test_a_machine_may_take_its_memory_and_what_qemu_needs_beside_and_a_cpu_more_than_it_has(
    cores: int, memory_mib: int, disks: int, accelerator: str, expected: Limits
) -> None:
    made = definition(
        *(disk(f"disk-{number}") for number in range(disks)),
        cpu=Cpu(cores),
        memory_mib=memory_mib,
        accelerator=accelerator,
    )
    assert limits_of(made) == expected


V1 = Path("/sys/fs/cgroup/some")
FILES = [
    ("v1, memory", Hierarchy(V1, 1, frozenset({"memory"})), {"memory.limit_in_bytes": "536870912"}),
    ("v1, cpu", Hierarchy(V1, 1, frozenset({"cpu"})),
     {"cpu.shares": "2048", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "300000"}),
    ("v1, neither", Hierarchy(V1, 1, frozenset()), {}),
    ("v2", Hierarchy(V1, 2, frozenset({"memory", "cpu"})),
     {"memory.max": "536870912", "cpu.weight": "200", "cpu.max": "300000 100000"}),
    ("v2, cpu not handed down", Hierarchy(V1, 2, frozenset({"memory"})), {"memory.max": "536870912"}),
]  # fmt: skip


@pytest.mark.parametrize(("hierarchy", "files"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_limits_are_written_as_each_hierarchy_takes_them(hierarchy: Hierarchy, files: dict[str, str]) -> None:
    assert hierarchy.files(LIMITS) == files


def test_a_display_takes_its_own_memory_besides() -> None:
    without, having = (limits_of(definition(display=display)).memory_mib for display in (None, DisplayType.VGA))
    assert having == without + 16


def test_adapters_take_room_for_frames_and_more_with_more_queues() -> None:
    without, having = (limits_of(definition(nics=nics)) for nics in ((), (nic("lan"), nic("fast", queues=16))))
    assert having == replace(without, memory_mib=without.memory_mib + 2 * 8 + 1 + 16)


def test_a_machine_of_very_many_cores_has_the_greatest_weight_that_the_kernel_takes() -> None:
    wide = Limits(memory_mib=1, cpu_weight=30_000_000, cpu_quota_us=1)
    assert wide.v2["cpu.weight"] == "10000"
    assert wide.v1(frozenset({"cpu"}))["cpu.shares"] == "262144"


@pytest.mark.parametrize(
    ("hierarchies", "words"),
    [
        (Hierarchies((Hierarchy(V1, 1, frozenset({"memory"})), Hierarchy(V1, 1, frozenset({"cpu"})))), ""),
        (Hierarchies((Hierarchy(V1, 2, frozenset({"cpu"})),)), "no cgroup hierarchy has the controllers memory"),
        (Hierarchies((Hierarchy(V1, 2, frozenset()),)), "no cgroup hierarchy has the controllers cpu, memory"),
        (Hierarchies((), "start the agent as root"), "start the agent as root"),
    ],
    ids=["all", "one lacks", "both lack", "no hierarchy"],
)
def test_which_limits_cannot_be_set_is_said(hierarchies: Hierarchies, words: str) -> None:
    assert hierarchies.missing_limits == words
