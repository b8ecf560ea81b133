"""Adapters that come and go while a real Linux runs: what it sees, what passes, and what is left on the host."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.guests.quickstart import MEMORY_MIB, quickstart_image
from tests.cluster.waiting import eventually
from tests.drivers.hypervisor.hosts import QemuHost, machine
from tests.drivers.hypervisor.test_contract import until_suspended
from tests.drivers.qemu.machines.lan import Lan, has_lans, new_lan
from tests.drivers.qemu.machines.starting import defined, ticks
from tests.drivers.qemu.machines.test_guest_acts import command, has_agent
from tests.drivers.qemu.machines.test_nics import tap_of
from virtplane_api.vocabulary import DiskFormat, InterfaceModel, PowerState
from virtplane_drivers.attachment import FileAttachment, TapAttachment
from virtplane_drivers.errors import DriverError, Unavailable
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Disk, Nic, Observed
from virtplane_drivers.hypervisor.qemu import plugging, suspension
from virtplane_drivers.hypervisor.qemu.definition import NicDefinition
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver
from virtplane_drivers.hypervisor.qemu.monitor import Monitor, MonitorError
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records
from virtplane_drivers.hypervisor.qemu.run import Run

pytestmark = pytest.mark.skipif(not has_lans(), reason="networks take root")

LINKS = "for link in /sys/class/net/*; do ip link set ${link##*/} up; echo $(cat $link/address $link/carrier); done"

SPEAK = """
cd $(dirname $(grep -l $mac /sys/class/net/*/address))
ls -d queues/rx-*
cat mtu
ip -4 addr add 192.0.2.7/24 dev ${PWD##*/}
arping -U -c 1 -I ${PWD##*/} 192.0.2.7
"""


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    with new_lan(tmp_path / "lan") as one:
        yield one


@pytest.fixture
async def driver(host: QemuHost) -> AsyncIterator[QemuDriver]:
    async with host.open() as opened:
        yield opened


async def linux(host: QemuHost, driver: QemuDriver, *nics: Nic) -> Desired:
    """A machine whose guest is up."""
    root = host.folder / "linux.qcow2"
    shutil.copyfile(await asyncio.to_thread(quickstart_image), root)
    disks = (Disk("root", FileAttachment(root, DiskFormat.QCOW2)),)
    desired = replace(machine(host), memory_mib=MEMORY_MIB + 32, cpu=Cpu(2), disks=disks, nics=nics)
    await driver.define(desired)
    await driver.start(desired.uid)
    async with asyncio.timeout(120):
        while not await has_agent(driver, desired.uid):
            pass
    return desired


async def changed_to(driver: QemuDriver, desired: Desired, *nics: Nic) -> Observed:
    await driver.define(replace(desired, nics=nics))
    await driver.change_nics(desired.uid)
    return await driver.observe(desired.uid)


async def in_guest(driver: QemuDriver, uid: str, script: str = LINKS) -> str:
    return (await driver.run_guest_command(uid, command("sh", "-c", script))).stdout.decode()


async def cables(driver: QemuDriver, uid: str) -> dict[str, bool]:
    """What the guest sees: by MAC address whether the cable is in. Its loopback is not among them."""
    rows = [line.split() for line in (await in_guest(driver, uid)).splitlines()]
    return {mac: carrier == "1" for mac, carrier in rows if mac != "00:00:00:00:00:00"}


async def sees(driver: QemuDriver, uid: str, wanted: dict[str, bool]) -> None:
    """Returns when the guest sees these: a driver of its kernel may take a moment."""
    async with asyncio.timeout(20):
        while await cables(driver, uid) != wanted:
            await asyncio.sleep(0.1)


async def test_adapters_come_move_and_go_while_a_guest_runs(
    host: QemuHost, driver: QemuDriver, lan: Lan, tmp_path: Path
) -> None:
    first, fast = lan.nic("first", number=1), lan.nic("fast", number=2, queues=2, mtu=1400)
    desired = await linux(host, driver, first)
    seen = await changed_to(driver, desired, first, fast)
    assert seen.nics == (first, fast)
    await sees(driver, desired.uid, {first.mac: True, fast.mac: True})
    assert lan.taps() == {tap_of(first), tap_of(fast)}
    assert lan.namespace.links()[tap_of(fast)]["mtu"] == 1400
    found = await in_guest(driver, desired.uid, f"mac={fast.mac}\n{SPEAK}")
    assert (found.count("queues/rx-"), "1400" in found) == (2, True)
    assert lan.port_of(fast.mac) == tap_of(fast)

    # The same adapter on another network: its tap is there now.
    with new_lan(tmp_path / "other") as other:
        moved = replace(fast, attachment=other.nic("fast").attachment)
        assert (await changed_to(driver, desired, first, moved)).nics == (first, moved)
        assert (lan.taps(), other.taps()) == ({tap_of(first)}, {tap_of(moved)})
        await sees(driver, desired.uid, {first.mac: True, fast.mac: True})

        # The first one goes: the other one stays where it is, also for the next driver.
        assert (await changed_to(driver, desired, moved)).nics == (moved,)
        await sees(driver, desired.uid, {fast.mac: True})
        assert lan.taps() == set()
        intel = lan.nic("intel", number=5, model=InterfaceModel.E1000E)
        assert (await changed_to(driver, desired, moved, intel)).nics == (moved, intel)
        assert (await changed_to(driver, desired)).nics == ()
        await sees(driver, desired.uid, {})
        assert (lan.taps(), other.taps()) == (set(), set())


async def test_a_cable_is_out_from_the_start_and_after_the_guest_woke(
    host: QemuHost, driver: QemuDriver, lan: Lan, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = lan.nic("lan", link_up=False)
    desired = await linux(host, driver, down)
    await sees(driver, desired.uid, {down.mac: False})
    up = replace(down, link_up=True)
    await changed_to(driver, desired, up)
    await sees(driver, desired.uid, {up.mac: True})
    plugged = lan.nic("plugged", number=2, link_up=False)
    with monkeypatch.context() as killed:
        links, pull = list[NicDefinition](), plugging.set_link

        async def fails_once_it_is_plugged(monitor: Monitor, nic: NicDefinition) -> None:
            links.append(nic)
            if links.count(nic) > 1:
                raise MonitorError("killed here")
            await pull(monitor, nic)

        killed.setattr(plugging, "set_link", fails_once_it_is_plugged)
        with pytest.raises((MonitorError, DriverError)):
            await changed_to(driver, desired, down, plugged)
        # The guest sees a cable; nothing passes.
        await sees(driver, desired.uid, {down.mac: False, plugged.mac: True})
        await in_guest(driver, desired.uid, f"mac={plugged.mac}\n{SPEAK}")
        assert lan.ports_of(plugged.mac) == []
    await changed_to(driver, desired, down, plugged)
    await sees(driver, desired.uid, {down.mac: False, plugged.mac: False})
    await until_suspended(driver, desired.uid)
    await driver.start(desired.uid)
    await sees(driver, desired.uid, {down.mac: False, plugged.mac: False})
    await changed_to(driver, desired, up, plugged)
    await sees(driver, desired.uid, {down.mac: True, plugged.mac: False})
    # What was plugged while it ran goes as well as what was there from its start, also after it woke.
    assert (await changed_to(driver, desired)).nics == ()
    assert lan.taps() == set()


async def test_a_guest_whose_cable_is_out_boots_once_it_is_and_is_found_by_the_next_driver_when_it_has_not(
    host: QemuHost, lan: Lan, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = lan.nic(link_up=False)
    desired = replace(defined(host), nics=(down,))
    command = Run.command

    async def dies_before_it_boots(run: Run, name: str) -> object:
        if name == "cont":
            raise MonitorError("killed here")
        return await command(run, name)

    with monkeypatch.context() as killed:
        killed.setattr(Run, "command", dies_before_it_boots)
        async with host.open() as driver:
            await driver.define(desired)
            with pytest.raises((MonitorError, DriverError)):
                await driver.start(desired.uid)
    async with host.open() as driver:
        seen = await driver.observe(desired.uid)
        assert (seen.power, seen.nics) == (PowerState.PAUSED, (down,))
        assert "tick" not in (await driver.serial_log(desired.uid, 65536)).decode()
        await driver.resume(desired.uid)
        await ticks(driver, desired.uid, 1)


async def test_h38_a_guest_that_lets_an_adapter_go_after_our_time_limit_is_heard(host: QemuHost, lan: Lan) -> None:
    """It is held when it is asked, so that it answers nothing; let go on, it does, to a driver that asks nothing."""
    first, second = lan.nic("first"), lan.nic("second", number=2)
    async with host.open() as driver:
        desired = await linux(host, driver, first, second)
        await driver.pause(desired.uid)
        seen = await changed_to(driver, desired, second)
        assert (seen.power, seen.nics) == (PowerState.PAUSED, (first, second))
        # Meanwhile it is wanted again elsewhere: it waits for the place, and takes nobody's.
        again = lan.nic("first", number=3)
        assert (await changed_to(driver, desired, again, second)).nics == (first, second)
    async with host.open() as driver:
        assert (await driver.observe(desired.uid)).nics == (first, second)
        await driver.resume(desired.uid)
        async with asyncio.timeout(20):
            while (await driver.observe(desired.uid)).nics != (second,):
                await asyncio.sleep(0.05)
        eventually(lambda: lan.taps() == {tap_of(second)})
        await driver.change_nics(desired.uid)
        assert (await driver.observe(desired.uid)).nics == (second, again)
        await sees(driver, desired.uid, {second.mac: True, again.mac: True})


async def test_a_port_that_cannot_be_joined_leaves_nothing_and_is_asked_for_again(
    host: QemuHost, driver: QemuDriver, lan: Lan
) -> None:
    desired = defined(host)
    await driver.define(desired)
    await driver.start(desired.uid)
    await ticks(driver, desired.uid, 1)
    other, nic = lan.nic("other", number=2), lan.nic()
    assert (await changed_to(driver, desired, other)).nics == (other,)
    pulled, elsewhere = replace(other, link_up=False), TapAttachment(lan.namespace.path, "tmore", "br1", 1500, "more")
    more = replace(lan.nic("more", number=3), attachment=elsewhere)
    lan.namespace.ip("link", "add", "br1", "type", "bridge")
    lan.namespace.ip("link", "delete", "br0")
    await driver.define(replace(desired, nics=(pulled, nic, more)))
    for _ in range(2):
        with pytest.raises(Unavailable, match="interface lan: "):
            await driver.change_nics(desired.uid)
        # What hinders one holds no other one up, neither its cable nor its plug.
        assert (await driver.observe(desired.uid)).nics == (pulled, more)
    assert lan.taps() == {tap_of(other), tap_of(more)}
    lan.namespace.ip("link", "add", "br0", "type", "bridge")
    await driver.change_nics(desired.uid)
    assert (await driver.observe(desired.uid)).nics == (pulled, more, nic)
    assert lan.taps() == {tap_of(other), tap_of(more), tap_of(nic)}


async def test_a_guest_whose_memory_cannot_be_written_runs_on_also_with_an_adapter_on_its_way(
    host: QemuHost, driver: QemuDriver, lan: Lan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugging, "UNPLUG_TIMEOUT_S", 0.1)
    nic = lan.nic()
    desired = replace(defined(host), nics=(nic,))
    await driver.define(desired)
    await driver.start(desired.uid)
    await ticks(driver, desired.uid, 1)
    assert (await changed_to(driver, desired)).nics == (nic,)
    with monkeypatch.context() as full_pool:
        full_pool.setattr(suspension, "missing_space", lambda _definition, _folder: "no room")
        with pytest.raises(Unavailable, match="no room"):
            await driver.suspend(desired.uid)
    assert (await driver.observe(desired.uid)).power is PowerState.RUNNING
    write = Records.write

    def no_suspension(records: Records, record: Record) -> None:
        if record.intent is Intent.SUSPENDING:
            raise OSError("no record")
        write(records, record)

    with monkeypatch.context() as full_state_folder:
        full_state_folder.setattr(Records, "write", no_suspension)
        with pytest.raises(Unavailable, match="no record"):
            await driver.suspend(desired.uid)
    assert (await driver.observe(desired.uid)).power is PowerState.RUNNING
