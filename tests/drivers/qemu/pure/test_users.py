"""A Unix user per machine: which number it gets, and whether a process may be its own."""

import os
import subprocess
import sys
from uuid import UUID

import pytest

from virtplane_drivers.host.process import user_of
from virtplane_drivers.host.users import FIRST_UID, UIDS, Users, find_users

OWN, SHARED = Users(are_own=True), Users(are_own=False)
MACHINES = [str(UUID(int=number)) for number in range(200)]
NOBODY = 65534


def chosen(uid: str, *taken: int) -> int:
    number = OWN.choose(uid, taken)
    assert number is not None
    return number


def test_a_machine_has_the_same_number_after_every_restart_and_on_every_host() -> None:
    assert chosen("0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11") == chosen("0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11")
    assert chosen("0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11") == 1_949_334_402


def test_the_machines_of_a_host_have_numbers_of_their_own_that_no_user_database_knows() -> None:
    numbers: list[int] = []
    for uid in MACHINES:
        numbers.append(chosen(uid, *numbers))
    assert len(set(numbers)) == len(MACHINES)
    assert min(numbers) >= FIRST_UID
    assert max(numbers) < FIRST_UID + UIDS + 64 < (1 << 31)


def test_where_two_machines_meet_the_later_one_takes_the_next_number() -> None:
    first = chosen("vm-1")
    assert chosen("vm-1", first) == first + 1
    assert chosen("vm-1", first, first + 1) == first + 2


def test_without_the_right_to_change_users_no_machine_has_one() -> None:
    assert SHARED.choose("vm-1", []) is None


def test_a_machines_process_is_of_its_own_user_or_of_ours() -> None:
    number = chosen("vm-1")
    for users, accepted in ((OWN, {os.geteuid(), number, number + 1}), (SHARED, {os.geteuid()})):
        asked = [os.geteuid(), number, number + 1, number - 1, chosen("vm-2"), NOBODY, FIRST_UID - 1]
        assert {one for one in asked if users.may_be(one, "vm-1")} == accepted


# --- whether this process may change users ----------------------------------------------------------------------------


def found(change: str, *wrapper: str) -> str:
    """What a process finds that did so first."""
    code = f"import os; from virtplane_drivers.host.users import find_users; {change}; print(find_users())"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [*wrapper, sys.executable, "-c", code]
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=env).stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_who_is_not_root_is_told_to_be() -> None:
    assert found(f"os.setresuid(*[{NOBODY}] * 3)") == str(
        Users(are_own=False, missing="guests run as the agent's own user: start the agent as root")
    )


def test_root_of_a_user_namespace_that_maps_no_such_users_is_told_so() -> None:
    namespace = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this host lets nobody make a user namespace")
    message = "guests run as root: this user namespace maps no users from 1900000000 on"
    assert found("pass", *namespace) == str(Users(are_own=False, missing=message))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_root_can_start_a_process_of_any_machines_number_where_it_is_said_that_it_can() -> None:
    if not find_users().are_own:
        pytest.skip(find_users().missing)
    for number in (FIRST_UID, FIRST_UID + UIDS + 63):
        said = subprocess.run(["id", "-u"], check=True, capture_output=True, text=True, user=number).stdout
        assert int(said) == number


# --- whose a process is -----------------------------------------------------------------------------------------------


def test_a_process_of_ours_is_of_our_user() -> None:
    assert user_of(os.getpid()) == os.geteuid()


def test_a_process_that_is_gone_is_nobodys() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert user_of(process.pid) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
@pytest.mark.parametrize(
    ("change", "user"),
    [
        ("os.setresuid(1900000007, 1900000007, 1900000007)", 1_900_000_007),
        ("os.setresuid(1900000007, 0, 0)", None),
        ("os.setresuid(0, 1900000007, 0)", None),
    ],
    ids=["all of it", "root by a setuid program", "root, for the time being another"],
)
def test_a_process_of_several_users_is_nobodys(change: str, user: int | None) -> None:
    """A setuid program is started by anybody, with any command line."""
    code = f"import os, sys; {change}; print(); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert user_of(process.pid) == user
        process.kill()
