"""How a machine's process is started: on its own, with what it is given and nothing else. All are real."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from virtplane_drivers.host.cgroup import Limits, find_hierarchies
from virtplane_drivers.host.process import spawn


def spawned_and_read(
    tmp_path: Path,
    *argv: str,
    fds: tuple[int, ...] = (),
    user: int | None = None,
    groups: tuple[int, ...] = (),
    cgroups: tuple[Path, ...] = (),
) -> str:
    output = tmp_path / "out"
    process = spawn(argv, output=output, pass_fds=fds, user=user, groups=groups, cgroups=cgroups)
    assert process.wait(10) == 0
    return output.read_text()


def test_a_spawned_process_is_in_a_session_of_its_own(tmp_path: Path) -> None:
    stat = spawned_and_read(tmp_path, "cat", "/proc/self/stat").rpartition(")")[2].split()
    group, session = int(stat[2]), int(stat[3])
    assert group == session != os.getsid(0)


def test_a_spawned_process_inherits_the_descriptors_it_is_given_and_no_others(tmp_path: Path) -> None:
    given, other = os.pipe()
    os.set_inheritable(other, True)  # noqa: FBT003
    try:
        held = spawned_and_read(tmp_path, "ls", "/proc/self/fd", fds=(given,)).split()
    finally:
        os.close(given)
        os.close(other)
    assert str(given) in held
    assert str(other) not in held


def test_a_spawned_process_gets_nothing_of_our_environment_but_where_programs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "token")
    lines = spawned_and_read(tmp_path, "env").splitlines()
    assert {line.split("=")[0] for line in lines} == {"PATH", "LANG"}


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn(["no-such-hypervisor"], output=tmp_path / "out", pass_fds=[], user=None, groups=[])


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")


@only_root
def test_a_spawned_process_is_of_the_user_it_is_given_and_in_no_group_but_its_own_and_those(tmp_path: Path) -> None:
    status = spawned_and_read(tmp_path, "cat", "/proc/self/status", user=1_900_000_007, groups=(4711,))
    said = {line.partition(":")[0]: line.split()[1:] for line in status.splitlines()}
    assert said["Uid"] == said["Gid"] == ["1900000007"] * 4
    assert said["Groups"] == ["4711"]
    assert {said[name][0] for name in ("CapPrm", "CapEff", "CapAmb")} == {"0" * 16}


def test_without_a_user_a_spawned_process_is_of_ours(tmp_path: Path) -> None:
    assert spawned_and_read(tmp_path, "id", "-u").strip() == str(os.geteuid())


@pytest.mark.parametrize("user", [None, pytest.param(1_900_000_007, marks=only_root)])
def test_a_spawned_process_is_in_its_cgroups_before_it_is_itself_and_words_stay_words(
    tmp_path: Path, user: int | None
) -> None:
    hierarchies = find_hierarchies()
    if not hierarchies.all:
        pytest.skip(hierarchies.missing)
    uid = str(uuid4())
    groups = hierarchies.prepare(uid, Limits(memory_mib=512, cpu_weight=100, cpu_quota_us=200_000))
    try:
        said = spawned_and_read(tmp_path, "cat", "/proc/self/cgroup", user=user, cgroups=groups)
        assert said.count(f"/virtplane/{uid}\n") == len(groups) == len(hierarchies.all)
        words = spawned_and_read(tmp_path, "printf", "%s|", "a b", "--", "$HOME", "*", user=user, cgroups=groups)
        assert words == "a b|--|$HOME|*|"
    finally:
        hierarchies.remove(uid)


def test_a_cgroup_that_cannot_be_entered_keeps_nothing_from_being_started(tmp_path: Path) -> None:
    said = spawned_and_read(tmp_path, "echo", "it runs", cgroups=(tmp_path / "no-such-group",))
    assert "it runs\n" in said
    assert "no-such-group" in said
