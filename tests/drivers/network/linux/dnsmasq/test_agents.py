"""Agents come and go, are killed between any two lines, and networks go: what runs and what is left."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.dnsmasq.networks import DB, OTHER_MAC, WEB
from tests.drivers.network.linux.dnsmasq.served import Served, lease, status, told
from virtplane_drivers.host.cgroup import find_hierarchies
from virtplane_drivers.network.linux.dnsmasq import process


async def test_an_agent_that_starts_adopts_what_runs(served: Served) -> None:
    router, before = served.router(), served.names()
    guest = served.guest(router)
    await before.apply(router.path, served.network(WEB))
    pid = served.pid()
    before.close()
    after = served.names()
    assert await after.inventory() == (served.network().uid,)
    await after.apply(router.path, served.network(WEB))
    assert served.pid() == pid
    await after.apply(router.path, served.network(WEB, DB))
    assert served.pid() == pid
    assert str(lease(guest, OTHER_MAC).address) == "10.20.0.10"
    os.kill(pid, signal.SIGKILL)
    await told(served, served.network().uid)


async def test_an_agent_that_was_killed_before_it_told_of_a_change_tells_it_later(served: Served) -> None:
    router, before = served.router(), served.names()
    guest = served.guest(router)
    await before.apply(router.path, served.network(WEB))
    pid = served.pid()
    before.close()
    (run,) = (served.folder / "dnsmasq" / f"{served.token}-a").iterdir()
    for name, text in await written_for(served, router.path):
        (run / name).write_text(text)  # as the agent did, and then died
    await served.names().apply(router.path, served.network(WEB, DB))
    assert str(lease(guest, OTHER_MAC).address) == "10.20.0.10"
    assert served.pid() == pid


async def written_for(served: Served, path: Path) -> list[tuple[str, str]]:
    """What is written of a network with two machines: by another one that is the same but for its UID."""
    names = served.names()
    await names.apply(served.router().path, served.network(WEB, DB, uid="b"))
    (run,) = (served.folder / "dnsmasq" / f"{served.token}-b").iterdir()
    texts = [(name, (run / name).read_text()) for name in (process.RESERVATIONS, process.NAMES)]
    await names.remove(served.network(uid="b").uid)
    return texts


async def test_what_an_agent_left_of_a_start_is_cleared(served: Served) -> None:
    router, names = served.router(), served.names()
    folder = served.folder / "dnsmasq" / f"{served.token}-a"
    (folder / "torn").mkdir(parents=True)
    (folder / "torn" / process.SETTINGS).write_text("nonsense")
    await names.apply(router.path, served.network(WEB))
    assert [entry.name for entry in folder.iterdir()] != ["torn"]
    assert len(list(folder.iterdir())) == 1


async def test_one_whose_files_are_lost_is_found_and_replaced(served: Served) -> None:
    router, before = served.router(), served.names()
    guest = served.guest(router)
    await before.apply(router.path, served.network(WEB))
    before.close()
    pid = served.pid()
    shutil.rmtree(served.folder / "dnsmasq")
    after = served.names()
    assert await after.inventory() == (served.network().uid,)
    await after.apply(router.path, served.network(WEB))
    assert served.pid() != pid
    assert str(lease(guest).address) == "10.20.0.9"


def cgroups(name: str) -> list[Path]:
    return [group for each in find_hierarchies().all if (group := each.root / "virtplane" / name).exists()]


async def test_a_removed_network_leaves_neither_process_nor_file_nor_cgroup(served: Served) -> None:
    router, names = served.router(), served.names()
    await names.apply(router.path, served.network(WEB))
    assert cgroups(f"network-{served.token}-a") != []
    await names.remove(served.network().uid)
    await names.remove(served.network().uid)
    assert served.pids() == []
    assert list((served.folder / "dnsmasq").iterdir()) == []
    assert cgroups(f"network-{served.token}-a") == []
    assert await names.inventory() == ()


async def test_a_process_of_another_user_with_such_a_command_line_is_left_alone(served: Served) -> None:
    router, names = served.router(), served.names()
    await names.apply(router.path, served.network(WEB))
    pretended = f"--conf-file={served.folder}/dnsmasq/{served.token}-a/run/{process.SETTINGS}"
    argv = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "sh", "-c", "sleep 60; :", pretended)
    liar = await asyncio.create_subprocess_exec(*argv)
    try:
        eventually(lambda: status(liar.pid)["Uid"].startswith("65534") and len(served.pids()) == 2)
        await names.remove(served.network().uid)
        assert served.pids() == [liar.pid]
    finally:
        liar.kill()
        await liar.wait()


async def test_verbs_of_many_networks_at_once_do_not_meet(served: Served) -> None:
    names, uids = served.names(), [f"n{number}" for number in range(6)]
    routers = {uid: served.router() for uid in uids}
    await asyncio.gather(*(names.apply(routers[uid].path, served.network(WEB, uid=uid)) for uid in uids))
    assert sorted(await names.inventory()) == [f"{served.token}-{uid}" for uid in uids]
    assert len({served.pid(uid) for uid in uids}) == 6
    await asyncio.gather(*(names.remove(served.network(uid=uid).uid) for uid in uids[::2]))
    assert [len(served.pids(uid)) for uid in uids] == [0, 1, 0, 1, 0, 1]
