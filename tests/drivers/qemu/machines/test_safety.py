"""What a guest's process may do on its host: tried as that process's user, and read off the kernel."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until_suspended
from tests.drivers.qemu.machines.starting import pid_of, started
from virtplane_drivers.host.cgroup import find_hierarchies
from virtplane_drivers.host.users import FIRST_UID, UIDS
from virtplane_drivers.hypervisor.contract import Desired
from virtplane_drivers.hypervisor.qemu.definition import Definition
from virtplane_drivers.hypervisor.qemu.limits import limits_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="users and cgroups of their own take root")

OPEN = """
import sys
for path in sys.argv[1:]:
    for mode in ("rb", "r+b"):
        try:
            open(path, mode)
        except OSError:
            continue
        print(path)
"""


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def read(path: str) -> str:
    return Path(path).read_text()


def impostor_named(name: str) -> "subprocess.Popen[bytes]":
    """A process of nobody's that calls itself a machine."""
    argv = ["qemu-system-x86_64", "-c", "import time; print(flush=True); time.sleep(60)", "-name", name]
    return subprocess.Popen(argv, executable="/usr/bin/python3", user=65534, cwd="/", stdout=subprocess.PIPE)


def user_of(host: QemuHost, desired: Desired) -> int:
    return int(status(pid_of(host, desired))["Uid"].split()[0])


def opened_as(user: int, paths: list[Path]) -> list[str]:
    """Those that a process of this user can open; it can open something, else the trial would prove nothing."""
    argv = ["/usr/bin/python3", "-I", "-c", OPEN, "/etc/passwd", *map(str, paths)]
    done = subprocess.run(argv, user=user, group=user, extra_groups=[], capture_output=True, text=True, check=True)
    opened = done.stdout.split()
    assert opened[:1] == ["/etc/passwd"]
    return opened[1:]


async def test_each_guest_has_a_user_of_its_own_without_rights(host: QemuHost) -> None:
    async with host.open() as driver:
        one, other = await started(driver, host), await started(driver, host)
        users = {user_of(host, one), user_of(host, other)}
        assert len(users) == 2
        assert all(FIRST_UID <= user < FIRST_UID + UIDS + 100 for user in users)
        facts = status(pid_of(host, one))
        assert len(set(facts["Uid"].split() + facts["Gid"].split())) == 1
        assert facts["Groups"] == ""
        assert {facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        assert facts["Seccomp"] == "2"
        assert facts["NoNewPrivs"] == "1"


async def test_a_guest_keeps_its_user_over_restarts_of_it_and_of_the_driver(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        user = user_of(host, desired)
    async with host.open() as driver:
        await driver.power_off(desired.uid)
        await driver.start(desired.uid)
        assert user_of(host, desired) == user


async def test_no_file_of_a_machine_can_be_opened_by_a_guest_s_user_its_own_neither(host: QemuHost) -> None:
    async with host.open() as driver:
        one, other = await started(driver, host), await started(driver, host)
        asleep = await started(driver, host)
        await until_suspended(driver, asleep.uid)
        open_to_all = [path for path in (host.folder, *host.folder.parents) if path != Path("/")]
        modes = {path: path.stat().st_mode for path in open_to_all}
        try:
            for path in open_to_all:  # the files' own modes are to hold, not only a parent folder's
                path.chmod(modes[path] | 0o755)
            for path in (host.folder / "state", host.folder / "run", host.folder / "pool"):
                path.chmod(0o755)
            private = [path for path in host.folder.rglob("*") if path.is_file() or path.is_socket()]
            for path in private:
                if path.suffix == ".img":  # as a storage driver makes them
                    path.chmod(0o600)
            names = {path.name for path in private} | {path.suffix for path in private}
            assert {"record.json", "serial.log", "qemu.log", "monitor", ".memory"} <= names
            pid = pid_of(host, other)
            private += [Path(f"/proc/{pid}/mem"), Path(f"/proc/{pid}/environ"), Path(f"/proc/{pid}/fd/0")]
            assert opened_as(user_of(host, one), private) == []
        finally:
            for path, mode in modes.items():
                path.chmod(mode)


async def test_a_guest_is_in_a_cgroup_of_its_own_with_room_for_its_memory_and_its_cpus(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        groups = read(f"/proc/{pid_of(host, desired)}/cgroup").splitlines()
        hierarchies = find_hierarchies()
        own = [line for line in groups if line.endswith(f"/virtplane/{desired.uid}")]
        assert len(own) == len(hierarchies.all)
        definition = Definition("shop", "web", "", 1, "max", 32, "q35", "tcg", ())
        written = {}
        for hierarchy in hierarchies.all:
            for name in hierarchy.files(limits_of(definition)):
                written[name] = (hierarchy.root / "virtplane" / desired.uid / name).read_text().strip()
        if "memory.limit_in_bytes" in written:  # cgroup v1
            assert (32 << 20) < int(written["memory.limit_in_bytes"]) < (512 << 20)
            assert (written["cpu.shares"], written["cpu.cfs_quota_us"]) == ("1024", "200000")
        else:
            assert (32 << 20) < int(written["memory.max"]) < (512 << 20)
            assert (written["cpu.weight"], written["cpu.max"]) == ("100", "200000 100000")


async def test_what_a_machine_takes_is_charged_to_its_own_cgroup_from_its_first_byte_on(host: QemuHost) -> None:
    """Memory stays charged to the group that its process was in then: the agent's would fill up with guests'."""
    controlled = [one for one in find_hierarchies().all if "memory" in one.controllers]
    if not controlled:
        pytest.skip("no hierarchy has the memory controller")
    async with host.open() as driver:
        desired = await started(driver, host)
        group = controlled[0].root / "virtplane" / desired.uid
        used = "memory.usage_in_bytes" if controlled[0].version == 1 else "memory.current"
        resident = next(
            int(line.split()[1]) << 10
            for line in read(f"/proc/{pid_of(host, desired)}/status").splitlines()
            if line.startswith("RssAnon:")
        )
        assert int((group / used).read_text()) > resident // 2


async def test_a_process_that_claims_to_be_a_machine_is_believed_only_as_the_machine_s_user(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, host)
        words = read(f"/proc/{pid_of(host, desired)}/cmdline").split("\0")
        await driver.destroy(desired.uid)
    name = next(word for word in words if "guest=" in word)
    impostor = impostor_named(name)
    try:
        assert impostor.stdout is not None
        impostor.stdout.readline()
        async with host.open() as driver:
            assert await driver.inventory() == ()
    finally:
        impostor.kill()
        impostor.communicate()
