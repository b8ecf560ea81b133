"""Router namespaces: made once, found again, replaced when only a stale file is left, and gone."""

import asyncio
import errno
import subprocess
import threading
from pathlib import Path

import pytest

from tests.drivers.network.linux.host import Host, Namespace
from virtplane_drivers.host.network_stack import NetworkStack
from virtplane_drivers.network.linux.names import namespace_path
from virtplane_drivers.network.linux.namespace import (
    ensure_namespace,
    in_namespace,
    is_namespace,
    namespaces,
    remove_namespace,
    traces,
)

UID = "0b0b-green"


@pytest.fixture
def path(host: Host) -> Path:
    return namespace_path(host.folder, UID)


def identity(path: Path = Path("/proc/thread-self/ns/net")) -> int:
    return path.stat().st_ino


async def test_a_namespace_is_made_once_and_is_no_one_elses(path: Path, host: Host) -> None:
    assert await ensure_namespace(path)
    made = identity(path)
    assert made not in (identity(), identity(host.machine.path))
    assert not await ensure_namespace(path)
    assert identity(path) == made
    assert list(Namespace(path).links()) == ["lo"]


async def test_those_that_are_there_are_listed_by_the_uid_of_their_network(path: Path, host: Host) -> None:
    assert namespaces(host.folder) == ()
    await ensure_namespace(path)
    (path.parent / "stale").touch()
    (path.parent / "link").symlink_to(path)
    assert namespaces(host.folder) == (UID,)


async def test_a_removed_one_leaves_no_mount_and_no_file_and_may_be_removed_again(path: Path) -> None:
    await ensure_namespace(path)
    await remove_namespace(path)
    assert not path.exists()
    assert str(path) not in Path("/proc/self/mountinfo").read_text()
    await remove_namespace(path)


async def test_one_that_somebody_looks_into_is_removed_all_the_same(path: Path) -> None:
    await ensure_namespace(path)
    with path.open("rb"):
        await remove_namespace(path)
        assert not path.exists()


@pytest.mark.parametrize("left", ["file", "symlink"])
async def test_what_somebody_left_who_was_killed_before_the_mount_is_replaced(path: Path, left: str) -> None:
    path.parent.mkdir()
    elsewhere = path.parent / "elsewhere"
    elsewhere.write_text("kept")
    path.touch() if left == "file" else path.symlink_to(elsewhere)
    assert await ensure_namespace(path)
    assert is_namespace(path)
    assert not path.is_symlink()
    assert elsewhere.read_text() == "kept"


async def test_two_mounts_on_each_other_are_both_removed(path: Path) -> None:
    await ensure_namespace(path)
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    await remove_namespace(path)
    assert not path.exists()


async def test_what_is_something_else_is_in_the_way(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(OSError, match=str(path)) as raised:
        await ensure_namespace(path)
    assert raised.value.errno in (errno.EISDIR, errno.EPERM)


async def test_a_call_runs_in_the_namespace_and_the_process_stays_where_it_is(path: Path) -> None:
    before = identity()
    await ensure_namespace(path)
    assert await in_namespace(path, identity) == identity(path)
    assert await in_namespace(None, identity) == before
    assert identity() == before
    assert await asyncio.to_thread(identity) == before


async def test_what_a_call_raises_comes_back(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=UID):
        await in_namespace(path, identity)
    await ensure_namespace(path)
    with pytest.raises(ZeroDivisionError):
        await in_namespace(path, divmod, 1, 0)


async def test_threads_of_calls_end(path: Path) -> None:
    await ensure_namespace(path)
    ran_in = await in_namespace(path, threading.current_thread)
    ran_in.join(timeout=10)
    assert not ran_in.is_alive()


async def test_settings_are_those_of_the_namespace_that_the_thread_is_in(path: Path, host: Host) -> None:
    await ensure_namespace(path)

    def change() -> None:
        # Both stacks of one thread, used in turn: each writes its own.
        with NetworkStack(path) as router, NetworkStack(host.machine.path) as machine:
            router.set_sysctl("net/ipv4/conf/lo/forwarding", "1")
            machine.set_sysctl("net/ipv4/conf/lo/arp_ignore", "2")
            assert sorted(router.links()) == ["lo"]
            assert sorted(machine.links()) == ["eth0", "lo"]

    own = Path("/proc/sys/net/ipv4/conf/lo/forwarding").read_text()
    await in_namespace(None, change)
    router = Namespace(path)
    assert (router.sysctl("net/ipv4/conf/lo/forwarding"), router.sysctl("net/ipv4/conf/lo/arp_ignore")) == ("1", "0")
    assert host.machine.sysctl("net/ipv4/conf/lo/arp_ignore") == "2"
    assert Path("/proc/sys/net/ipv4/conf/lo/forwarding").read_text() == own


async def test_a_file_of_somebody_who_was_killed_before_the_mount_is_a_trace_and_no_namespace(tmp_path: Path) -> None:
    path = namespace_path(tmp_path, "net-1")
    path.parent.mkdir()
    path.touch()
    assert (namespaces(tmp_path), traces(tmp_path)) == ((), ("net-1",))
    await remove_namespace(path)
    assert traces(tmp_path) == ()
