"""A fake host's network adapters, which outlive its process as a real host's do."""

from dataclasses import replace
from pathlib import Path

from tests.drivers.hypervisor.hosts import FakeHost, machine
from virtplane_api.vocabulary import ExitReason, InterfaceModel
from virtplane_drivers.attachment import FakeNicAttachment
from virtplane_drivers.hypervisor.contract import Nic
from virtplane_drivers.hypervisor.fake import FakeHypervisor, World

LAN = Nic("lan", "52:54:00:00:00:01", FakeNicAttachment("net-1", ("vm-1", "lan")), 1450, InterfaceModel.VIRTIO, 2, 1)
STORAGE = Nic("storage", "52:54:00:00:00:02", FakeNicAttachment("net-2", ("vm-1", "storage")), boot_order=None)


async def test_adapters_are_those_of_the_start_until_the_end_also_for_the_next_process(tmp_path: Path) -> None:
    file = tmp_path / "world.json"
    world = World(file)
    async with FakeHypervisor(world) as driver:
        host = FakeHost(tmp_path)
        host.open()
        desired = replace(machine(host), nics=(LAN, STORAGE))
        await driver.define(desired)
        assert world.machines[desired.uid].running_nics == ()
        await driver.start(desired.uid)
        await driver.define(replace(desired, nics=(STORAGE,)))
    for again in (world, World(file)):
        seen = again.machines[desired.uid]
        assert (seen.defined_nics, seen.running_nics) == ((STORAGE,), (LAN, STORAGE))
    world.end(desired.uid, ExitReason.CRASHED)
    assert World(file).machines[desired.uid].running_nics == ()
