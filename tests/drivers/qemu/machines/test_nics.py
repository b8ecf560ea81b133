"""Real QEMU processes on real taps, in a namespace that a test makes: what passes, and what is left of them."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.guest_processes import guest_processes
from tests.cluster.guests.boot_sector import GREETING
from tests.drivers.hypervisor.hosts import QemuHost, machine
from tests.drivers.hypervisor.test_contract import until_stopped, until_suspended
from tests.drivers.qemu.machines.lan import Lan, asks_for_address, has_lans, lan_in, new_lan
from tests.drivers.qemu.machines.starting import defined, pid_of, ticks
from tests.drivers.qemu.machines.test_safety import status
from tests.unix_sockets import bound
from virtplane_api.vocabulary import InterfaceModel, PowerState
from virtplane_drivers.attachment import NicAttachment, StreamAttachment, TapAttachment
from virtplane_drivers.errors import LaunchFailed, Unavailable
from virtplane_drivers.host.users import FIRST_UID
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Nic
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver

on_lan = pytest.mark.skipif(not has_lans(), reason="networks take root, and dnsmasq")


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    with new_lan(tmp_path) as one:
        yield one


@pytest.fixture
async def driver(host: QemuHost) -> AsyncIterator[QemuDriver]:
    async with host.open() as opened:
        yield opened


def tap_of(nic: Nic) -> str:
    assert isinstance(nic.attachment, TapAttachment)
    return nic.attachment.name


def with_nics(host: QemuHost, *nics: Nic) -> Desired:
    return replace(defined(host), nics=nics)


async def heard(listener: socket.socket, wanted: Callable[[bytes], bool]) -> bytes:
    """The first frame of that kind."""
    listener.settimeout(0)
    async with asyncio.timeout(30):
        while not wanted(frame := await asyncio.get_running_loop().sock_recv(listener, 65536)):
            pass
    return frame


async def greeted(driver: QemuDriver, uid: str) -> None:
    async with asyncio.timeout(120):
        while GREETING.encode() not in await driver.serial_log(uid, 65536):
            await asyncio.sleep(0.05)


# --- frames -----------------------------------------------------------------------------------------------------------


@on_lan
@pytest.mark.parametrize(
    "changes",
    [{}, {"queues": 2}, {"model": InterfaceModel.E1000E}],
    ids=["virtio", "two pairs of queues", "e1000e"],
)
async def test_a_guest_boots_from_its_network(
    host: QemuHost, driver: QemuDriver, lan: Lan, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """It sends as its own MAC, receives, and runs what it received; its other adapter is not tried."""
    booted = lan.nic("booted", number=7, boot_order=1, **changes)
    desired = replace(machine(host), disks=(), cpu=Cpu(2), nics=(lan.nic("silent", number=6), booted))
    with lan.boot_server(tmp_path / "server"), lan.listener() as listener:
        await driver.define(desired)
        await driver.start(desired.uid)
        asking = await heard(listener, asks_for_address)
        await greeted(driver, desired.uid)
        assert lan.port_of(booted.mac) == tap_of(booted)
    assert (asking[0:6].hex(), asking[6:12].hex(":")) == ("ff" * 6, booted.mac)
    log = (tmp_path / "server" / "log").read_text()
    assert (booted.mac in log, desired.nics[0].mac in log) == (True, False)


async def test_a_guest_s_frames_reach_a_program_s_socket_that_qemu_s_user_may_not_open(
    host: QemuHost, driver: QemuDriver, tmp_path: Path
) -> None:
    """Each after its length in 4 bytes. The path is longer than a socket's address can be."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir(mode=0o700)
    with bound(folder / "frames") as listener:
        listener.listen(1)
        nic = Nic("user", "52:54:00:00:00:05", StreamAttachment(folder / "frames"), boot_order=1)
        desired = replace(machine(host), disks=(), nics=(nic,))
        await driver.define(desired)
        await driver.start(desired.uid)
        program, _ = listener.accept()
    with program:
        reader, writer = await asyncio.open_connection(sock=program)
        async with asyncio.timeout(30):
            while True:
                frame = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
                if asks_for_address(frame):
                    break
        assert frame[6:12].hex(":") == nic.mac
        writer.close()


# --- what QEMU is, with a tap -----------------------------------------------------------------------------------------


@on_lan
async def test_qemu_holds_a_tap_elsewhere_and_has_no_right_to_make_one(
    host: QemuHost, driver: QemuDriver, lan: Lan
) -> None:
    one, fast = lan.nic("one", number=1, mtu=1400), lan.nic("fast", number=2, queues=3)
    desired = with_nics(host, one, fast)
    await driver.define(desired)
    await driver.start(desired.uid)
    pid = pid_of(host, desired)
    facts = status(pid)
    assert int(facts["Uid"].split()[0]) >= FIRST_UID
    assert {facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert facts["Seccomp"] == "2"
    assert network_of(pid) == network_of(os.getpid())
    assert held_taps(pid) == sorted([tap_of(one), *[tap_of(fast)] * 3])
    assert held_taps(os.getpid()) == []
    links = lan.namespace.links()
    assert {tap_of(one), tap_of(fast)} == lan.taps()
    assert (links[tap_of(one)]["mtu"], links[tap_of(one)]["master"]) == (1400, "br0")
    assert not lan.taps() & {name for _index, name in socket.if_nameindex()}


def network_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino  # noqa: PTH116


def held_taps(pid: int) -> list[str]:
    """Names of the taps that a process has open, once for each descriptor (tun's own line in fdinfo)."""
    texts = []
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            texts.append(entry.read_text())
        except FileNotFoundError:  # the folder's own descriptor
            continue
    return sorted(line.split()[1] for text in texts for line in text.splitlines() if line.startswith("iff:"))


# --- ends -------------------------------------------------------------------------------------------------------------


@on_lan
@pytest.mark.parametrize("end", ["kill", "power_off", "destroy"])
async def test_a_tap_ends_with_its_qemu(host: QemuHost, driver: QemuDriver, lan: Lan, end: str) -> None:
    desired = with_nics(host, lan.nic("one"), lan.nic("fast", number=2, queues=2))
    await driver.define(desired)
    await driver.start(desired.uid)
    assert lan.taps() == {tap_of(nic) for nic in desired.nics}
    if end == "kill":
        os.kill(pid_of(host, desired), signal.SIGKILL)
        await until_stopped(driver, desired.uid)
    else:
        await getattr(driver, end)(desired.uid)
    assert lan.taps() == set()


@on_lan
async def test_a_driver_that_ends_leaves_the_taps_to_its_guests_and_the_next_one_starts_them_again(
    host: QemuHost, lan: Lan
) -> None:
    desired = with_nics(host, lan.nic())
    async with host.open() as driver:
        await driver.define(desired)
        await driver.start(desired.uid)
        index = lan.namespace.links()[tap_of(desired.nics[0])]["ifindex"]
    async with host.open() as driver:
        await ticks(driver, desired.uid, 1)
        assert lan.namespace.links()[tap_of(desired.nics[0])]["ifindex"] == index
        for _ in range(3):  # at once: the one before has gone with its process
            await driver.power_off(desired.uid)
            await driver.start(desired.uid)
        assert lan.taps() == {tap_of(desired.nics[0])}


# --- starts that fail -------------------------------------------------------------------------------------------------


@on_lan
@pytest.mark.parametrize("missing", ["namespace", "bridge", "socket"])
async def test_a_network_that_is_not_there_is_named_and_the_start_leaves_nothing(
    host: QemuHost, driver: QemuDriver, lan: Lan, tmp_path: Path, missing: str
) -> None:
    there = lan.nic("there")
    tap = lan.nic("missing", number=2)
    assert isinstance(tap.attachment, TapAttachment)
    lacking: dict[str, NicAttachment] = {
        "namespace": replace(tap.attachment, namespace=tmp_path / "netns" / "net-1"),
        "bridge": replace(tap.attachment, bridge="br7"),
        "socket": StreamAttachment(tmp_path / "netns" / "frames"),
    }
    desired = with_nics(host, there, replace(tap, attachment=lacking[missing]))
    await driver.define(desired)
    with pytest.raises(Unavailable, match="interface missing: ") as unavailable:
        await driver.start(desired.uid)
    assert unavailable.value.reason == "NetworkNotReady"
    assert (lan.taps(), guest_processes(host.folder), held_taps(os.getpid())) == (set(), [], [])
    assert (await driver.observe(desired.uid)).power is PowerState.STOPPED
    await driver.define(replace(desired, nics=(there, tap)))
    await driver.start(desired.uid)
    assert lan.taps() == {tap_of(there), tap_of(tap)}


@on_lan
async def test_a_machine_that_qemu_refuses_leaves_no_tap(host: QemuHost, driver: QemuDriver, lan: Lan) -> None:
    desired = replace(with_nics(host, lan.nic()), cpu=Cpu(1, "NoSuchModel"))
    await driver.define(desired)
    with pytest.raises(LaunchFailed, match="NoSuchModel"):
        await driver.start(desired.uid)
    assert (lan.taps(), held_taps(os.getpid())) == (set(), [])


async def test_a_program_that_takes_no_connection_is_asked_again_and_holds_nothing_up(
    host: QemuHost, driver: QemuDriver, tmp_path: Path
) -> None:
    with bound(tmp_path / "busy") as listener:
        listener.listen(0)
        desired = with_nics(host, Nic("user", "52:54:00:00:00:05", StreamAttachment(tmp_path / "busy")))
        await driver.define(desired)
        with socket.socket(socket.AF_UNIX) as another:
            another.connect(listener.getsockname())
            with pytest.raises(Unavailable, match="interface user: "):
                await driver.start(desired.uid)
            listener.accept()[0].close()
        await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING


# --- machines that were suspended -------------------------------------------------------------------------------------


@on_lan
async def test_a_suspended_machine_wakes_on_the_network_of_now(host: QemuHost, lan: Lan, tmp_path: Path) -> None:
    """As after a reboot of its host: the namespace of then is gone, and so is the driver's process."""
    desired = with_nics(host, lan.nic("one", boot_order=2), lan.nic("fast", number=2, queues=2, mtu=1400))
    desired = replace(desired, disks=(replace(desired.disks[0], boot_order=1),))
    async with host.open() as driver:
        await driver.define(desired)
        await driver.start(desired.uid)
        await ticks(driver, desired.uid, 1)
        await until_suspended(driver, desired.uid)
        assert lan.taps() == set()
    with new_lan(tmp_path / "rebooted") as now:
        async with host.open() as driver:
            moved = (now.nic("one", boot_order=2), now.nic("fast", number=2, queues=2, mtu=1400))
            await driver.define(replace(desired, nics=moved))
            await driver.start(desired.uid)
            assert now.taps() == {tap_of(nic) for nic in moved}
            assert lan.taps() == set()
            console = await ticks(driver, desired.uid, 3)
            assert console.count(GREETING) == 1


@on_lan
async def test_a_suspended_machine_waits_for_its_network_and_keeps_its_memory(
    host: QemuHost, driver: QemuDriver, lan: Lan
) -> None:
    desired = with_nics(host, lan.nic())
    await driver.define(desired)
    await driver.start(desired.uid)
    await ticks(driver, desired.uid, 1)
    await until_suspended(driver, desired.uid)
    lan.namespace.ip("link", "delete", "br0")
    with pytest.raises(Unavailable, match="interface lan: "):
        await driver.start(desired.uid)
    assert (await driver.observe(desired.uid)).power is PowerState.SUSPENDED
    lan_in(lan.namespace)
    await driver.start(desired.uid)
    assert (await ticks(driver, desired.uid, 2)).count(GREETING) == 1
