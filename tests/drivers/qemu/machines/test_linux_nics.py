"""What a real Linux sees of its network adapters, and that it sees the same after its machine has changed."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.guests.quickstart import MEMORY_MIB, quickstart_image
from tests.drivers.hypervisor.hosts import QemuHost, machine
from tests.drivers.qemu.machines.lan import has_lans, new_lan
from tests.drivers.qemu.machines.test_guest_acts import command, has_agent
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.hypervisor.contract import Cpu, Disk
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver

SEEN = """
for link in /sys/class/net/eth*; do
    pci=$(readlink -f $link/device/..)
    set -- $link/queues/rx-*
    echo $(cat $link/address $link/mtu $pci/acpi_index) $# ${pci#/sys/devices/pci0000:00/}
done
"""

pytestmark = pytest.mark.skipif(not has_lans(), reason="networks take root")


async def seen(driver: QemuDriver, uid: str) -> dict[str, tuple[list[str], str]]:
    """By MAC: MTU, index and pairs of queues; and the path of it through the PCI buses, as the guest numbers them."""
    async with asyncio.timeout(120):
        while not await has_agent(driver, uid):
            pass
    said = (await driver.run_guest_command(uid, command("sh", "-c", SEEN))).stdout.decode()
    rows = [line.split() for line in said.splitlines()]
    return {row[0]: (row[1:4], row[4]) for row in rows}


async def test_an_adapter_s_index_stays_when_disks_and_other_adapters_come_and_go(
    host: QemuHost, tmp_path: Path
) -> None:
    """Linux names it by that (eno1, eno2): the number of its bus, which it would else be named by, changes."""
    root = tmp_path / "linux.qcow2"
    shutil.copyfile(await asyncio.to_thread(quickstart_image), root)
    with new_lan(tmp_path / "lan") as lan:
        first = lan.nic("first", number=1)
        plain, fast = lan.nic("plain", number=2, mtu=1400), lan.nic("fast", number=3, mtu=9000, queues=2)
        disks = (Disk("root", FileAttachment(root, DiskFormat.QCOW2)),)
        desired = replace(machine(host), memory_mib=MEMORY_MIB + 32, cpu=Cpu(2), disks=disks, nics=(first, plain, fast))
        async with host.open() as driver:
            await driver.define(desired)
            await driver.start(desired.uid)
            before = await seen(driver, desired.uid)
            await driver.power_off(desired.uid)
            more = (*disks, Disk("data", host.disk(obedient=True)))
            await driver.define(replace(desired, disks=more, nics=(fast, plain)))
            await driver.start(desired.uid)
            after = await seen(driver, desired.uid)
    assert before[plain.mac][0] == ["1400", "2", "1"]
    assert before[fast.mac][0] == ["9000", "3", "2"]
    assert set(before) == {first.mac, plain.mac, fast.mac}
    assert {mac: facts for mac, (facts, _path) in after.items()} == {
        mac: facts for mac, (facts, _path) in before.items() if mac != first.mac
    }
    assert after[plain.mac][1] != before[plain.mac][1]
