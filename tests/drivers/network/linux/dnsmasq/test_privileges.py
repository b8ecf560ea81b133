"""What a network's dnsmasq may do, and what it has of the agent: nothing."""

import os
from pathlib import Path

from tests.drivers.network.linux.dnsmasq.networks import WEB
from tests.drivers.network.linux.dnsmasq.served import Served, status
from virtplane_drivers.host.cgroup import find_hierarchies
from virtplane_drivers.network.linux.dnsmasq import process


def looked_at(pid: int) -> tuple[list[str], list[str], set[str], list[str]]:
    """Its cgroups, ours, what its standard files are, its environment."""
    of = Path(f"/proc/{pid}")
    return (
        (of / "cgroup").read_text().splitlines(),
        Path("/proc/self/cgroup").read_text().splitlines(),
        {str((of / "fd" / str(number)).readlink()) for number in range(3)},
        (of / "environ").read_text().rstrip("\0").split("\0"),
    )


async def test_it_runs_as_a_user_of_its_own_with_three_capabilities_and_can_gain_none(served: Served) -> None:
    names = served.names()
    for uid in ("a", "b"):
        await names.apply(served.router().path, served.network(WEB, uid=uid))
    users = set()
    for uid in ("a", "b"):
        said = status(served.pid(uid))
        user = int(said["Uid"].split()[0])
        users.add(user)
        assert said["Uid"].split() == said["Gid"].split() == [str(user)] * 4
        assert said["Groups"] == ""
        net_bind_service, net_admin, net_raw = 10, 12, 13
        mask = f"{1 << net_bind_service | 1 << net_admin | 1 << net_raw:016x}"
        sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        assert {name: said[name] for name in sets} == dict.fromkeys(sets, mask)
        assert said["NoNewPrivs"] == "1"
    assert len(users) == 2
    assert all(process.FIRST_USER <= user < process.FIRST_USER + 100_000_064 for user in users)


async def test_it_is_in_no_session_and_no_cgroup_of_the_agent_and_holds_nothing_of_it(served: Served) -> None:
    router = served.router()
    given, _other = os.pipe()
    os.set_inheritable(given, True)  # noqa: FBT003
    try:
        await served.names().apply(router.path, served.network(WEB))
    finally:
        os.close(given)
        os.close(_other)
    pid = served.pid()
    assert os.getsid(pid) == pid != os.getsid(0)
    assert os.getpgid(pid) == pid
    group = f"/virtplane/network-{served.token}-a"
    its, ours, opened, environment = looked_at(pid)
    assert sum(line.endswith(group) for line in its) == len(find_hierarchies().all)
    assert not any(line.endswith(group) for line in ours)
    assert opened == {"/dev/null"}
    # PWD is of the shell that entered the cgroups.
    assert {line.partition("=")[0] for line in environment} - {"PWD"} == {"PATH", "LANG"}


async def test_its_files_are_readable_by_it_and_by_no_other_user(served: Served) -> None:
    await served.names().apply(served.router().path, served.network(WEB))
    (run,) = (served.folder / "dnsmasq" / f"{served.token}-a").iterdir()
    user = int(status(served.pid())["Uid"].split()[0])
    assert (run.stat().st_gid, run.stat().st_mode & 0o777) == (user, 0o750)
    for name in (process.SETTINGS, process.RESERVATIONS, process.NAMES, process.SERVERS):
        found = (run / name).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, user, 0o640)
