"""What a driver that comes back finds: machines by their records, and by the command lines of what runs."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.waiting import eventually
from tests.drivers.qemu.pure.machines import OWNER, argv, definition
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.host.process import ProcessIdentity, boot_id, start_ticks
from virtplane_drivers.host.users import Users
from virtplane_drivers.hypervisor.contract import Owner
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records
from virtplane_drivers.hypervisor.qemu.recovery import _marker, recover

STATE = "0123456789ab"
LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
ALONE, TOGETHER = Users(are_own=True), Users(are_own=False)
"""Machines that have each a user of their own, and machines that run as the agent does."""
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")


def words(records: Records, *, uid: str = "vm-1", incarnation: str = "1a2b3c4d", owner: Owner = OWNER) -> list[str]:
    """The command line of one run of a machine that this state folder keeps."""
    return argv(definition(), uid=uid, incarnation=incarnation, owner=owner, state_id=records.state_id)


@contextmanager
def running(line: list[str], *, user: int | None = None) -> Iterator[int]:
    """A process that has the command line of a QEMU, and does nothing. Yields its pid."""
    process = subprocess.Popen(
        [line[0], "-c", "read _", *line[1:]],
        executable="/bin/sh",
        stdin=subprocess.PIPE,
        user=user,
        group=user,
        cwd="/",
    )
    try:
        eventually(lambda: line[-1] in Path(f"/proc/{process.pid}/cmdline").read_text().split("\0"))
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state")


def record(incarnation: str = "1a2b3c4d", intent: Intent = Intent.RUNNING) -> Record:
    return Record("vm-1", "shop", "web", OWNER, intent, definition=definition(), incarnation=incarnation)


# --- what a command line says -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    namespace=LABELS,
    name=LABELS,
    uid=st.uuids().map(str),
    cluster_id=st.uuids().map(str),
    token=st.integers(1, (1 << 53) - 1),
    incarnation=st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
)
def test_a_machine_is_read_off_the_command_line_that_it_was_started_with(
    namespace: str, name: str, uid: str, cluster_id: str, token: int, incarnation: str
) -> None:
    owner = Owner(cluster_id, token)
    made = definition(namespace=namespace, name=name, uid=uid, owner=owner)
    line = argv(made, uid=uid, incarnation=incarnation, owner=owner, state_id=STATE)
    assert _marker([*line, ""], STATE) == Record(uid, namespace, name, owner, Intent.STARTING, incarnation=incarnation)


def named(guest: str) -> list[str]:
    return ["qemu-system-x86_64", "-name", f"guest={guest},debug-threads=on"]


OTHERS = [
    ("nothing", []),
    ("an empty word", [""]),
    ("a name that is missing", ["qemu-system-x86_64", "-name"]),
    ("another program", ["find", "/", "-name", "virtplane"]),
    ("another manager's machine", named("web")),
    ("another manager's, named alike", named(f"another/{STATE}/c/1/shop/web/vm-1/run")),
    ("another state folder's", named("virtplane/ffffffffffff/c/1/shop/web/vm-1/run")),
    ("one part too few", named(f"virtplane/{STATE}/c/1/shop/web/vm-1")),
    ("one part too many", named(f"virtplane/{STATE}/c/1/shop/web/vm-1/run/more")),
    *((f"a token that is no number: {text}", named(f"virtplane/{STATE}/c/{token}/shop/web/vm-1/run"))
      for text, token in (("a word", "one"), ("none", ""), ("negative", "-1"), ("a superscript", "\N{SUPERSCRIPT TWO}"),
                          ("of another script", "\N{ARABIC-INDIC DIGIT THREE}"), ("too long to be read", "9" * 5000))),
    *((f"a UID that is no name of a folder: {text}", named(f"virtplane/{STATE}/c/1/shop/web/{uid}/run"))
      for text, uid in (("none", ""), ("the folder itself", "."), ("the one above", ".."), ("a hidden one", ".vm-1"),
                        ("an option", "-rf"), ("a blank in it", "vm 1"), ("a line's end", "vm-1\n"),
                        ("too long", "a" * 65))),
]  # fmt: skip


@pytest.mark.parametrize("line", [row[1] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_command_lines_of_others_are_none_of_ours(line: list[str]) -> None:
    assert _marker(line, STATE) is None


def test_the_shortest_and_the_longest_command_line_that_is_ours_is_read() -> None:
    for token, uid in (("1", "a"), ("9" * 16, "a" * 64)):
        found = _marker(named(f"virtplane/{STATE}/c/{token}/shop/web/{uid}/run"), STATE)
        assert found is not None
        assert (found.uid, found.owner.token) == (uid, int(token))


# --- what a state folder and the host together say --------------------------------------------------------------------


def test_an_empty_host_holds_nothing(records: Records) -> None:
    assert recover(records, ALONE) == {}


def test_a_machine_that_does_not_run_is_known_by_its_record(records: Records) -> None:
    records.write(record())
    assert recover(records, ALONE) == {"vm-1": (record(), None)}


def test_a_machine_whose_record_is_lost_is_known_by_its_process(records: Records) -> None:
    with running(words(records)) as pid:
        [(found, identity)] = recover(records, ALONE).values()
        assert found == Record("vm-1", "shop", "web", OWNER, Intent.STARTING, incarnation="1a2b3c4d")
        assert identity is not None
        assert (identity.pid, identity.start_ticks) == (pid, start_ticks(pid))


def test_a_torn_record_is_moved_aside_and_its_machine_known_by_its_process(records: Records) -> None:
    records.write(record())
    path = records.machine_folder("vm-1") / "record.json"
    path.write_bytes(path.read_bytes()[:50])
    with running(words(records)) as pid:
        found, identity = recover(records, ALONE)["vm-1"]
        assert (found.definition, identity and identity.pid) == (None, pid)
    assert (records.machine_folder("vm-1") / "record.torn").exists()
    assert recover(records, ALONE) == {}


def test_a_process_of_the_recorded_run_is_that_machine(records: Records) -> None:
    """Killed between the start and the note of it, the driver knows the process by its command line only."""
    records.write(record(intent=Intent.STARTING))
    with running(words(records)) as pid:
        found, identity = recover(records, ALONE)["vm-1"]
        assert found == record(intent=Intent.STARTING)
        assert identity is not None
        assert identity.pid == pid


def test_a_process_of_an_earlier_run_is_not_the_recorded_one(records: Records) -> None:
    records.write(record(incarnation="ffffffff"))
    with running(words(records)):
        assert recover(records, ALONE) == {"vm-1": (record(incarnation="ffffffff"), None)}


def test_the_guests_of_another_state_folder_are_none_of_ours(records: Records, tmp_path: Path) -> None:
    with running(words(Records(tmp_path / "another"))):
        assert recover(records, ALONE) == {}


def test_a_state_folder_is_known_again_by_its_path(records: Records, tmp_path: Path) -> None:
    assert Records(records.folder).state_id == records.state_id
    assert Records(tmp_path / "another").state_id != records.state_id


def _replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "nothing in it": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_bytes(b"[" * 200_000),
    "a folder in its place": _replace_by_a_folder,
    "another machine's": lambda path: path.write_text(path.read_text().replace("vm-1", "vm-7")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_one_damaged_record_hides_no_other_machine(records: Records, damage: Callable[[Path], object]) -> None:
    records.write(record())
    records.write(replace(record(), uid="vm-2"))
    damage(records.machine_folder("vm-1") / "record.json")
    assert set(recover(records, ALONE)) == {"vm-2"}


# --- whose word is believed -------------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("has_record", [False, True], ids=["of no machine that is known", "of a machine that is known"])
@pytest.mark.parametrize("users", [ALONE, TOGETHER], ids=["users of their own", "one user for all"])
def test_a_process_of_another_user_is_no_machine_whatever_it_says_of_itself(
    records: Records,
    users: Users,
    has_record: bool,  # noqa: FBT001
) -> None:
    """It would be moved into a cgroup, asked for its state, and killed."""
    if has_record:
        records.write(record())
    with running(words(records), user=NOBODY):
        assert recover(records, users) == ({"vm-1": (record(), None)} if has_record else {})


@as_root
def test_a_process_of_the_machines_own_user_is_the_machine_and_keeps_its_user(records: Records) -> None:
    own = ALONE.choose("vm-1", [])
    with running(words(records), user=own) as pid:
        [(found, identity)] = recover(records, ALONE).values()
    assert (found.uid, found.user) == ("vm-1", own)
    assert identity is not None
    assert identity.pid == pid


@as_root
def test_a_machine_cannot_pass_for_another_one(records: Records) -> None:
    """A guest that broke out of its devices has its own user, and can write any command line."""
    with running(words(records, uid="vm-2"), user=ALONE.choose("vm-1", [])):
        assert recover(records, ALONE) == {}


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def names_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@as_root
@pytest.mark.parametrize("uid", ["..", "vm-9"])
async def test_a_driver_that_comes_up_adopts_no_process_of_another_user(tmp_path: Path, uid: str) -> None:
    line = named(f"virtplane/{Records(tmp_path / 'state').state_id}/c/1/shop/web/{uid}/run")
    with running(line, user=NOBODY) as pid:
        groups = groups_of(pid)
        async with QemuDriver(tmp_path / "state", tmp_path / "run", accelerator="tcg") as driver:
            assert await driver.inventory() == ()
        assert groups_of(pid) == groups
    assert (names_in(tmp_path), names_in(tmp_path / "state")) == ({"state", "run"}, set())


async def test_a_driver_comes_up_where_the_pid_of_a_machine_is_a_threads_by_now(tmp_path: Path) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.native_id is not None
    process = ProcessIdentity(boot_id(), thread.native_id, start_ticks(thread.native_id) or 0)
    Records(tmp_path / "state").write(replace(record(), running=definition(), process=process))
    try:
        async with QemuDriver(tmp_path / "state", tmp_path / "run", accelerator="tcg") as driver:
            observed = await driver.observe("vm-1")
    finally:
        over.set()
        thread.join()
    assert observed.power is PowerState.STOPPED
    assert observed.last_exit is not None
    assert observed.last_exit.reason is ExitReason.CRASHED
