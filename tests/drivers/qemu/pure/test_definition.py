"""What a described machine is on this host: what was chosen once stays, what QEMU cannot run is refused."""

from collections.abc import Callable

import pytest

from tests.drivers.qemu.pure.machines import cdrom, definition, disk
from virtplane_api.vocabulary import DiskFormat, DiskType
from virtplane_drivers.attachment import FakeAttachment
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import Cpu, Disk, Effective, Pinned
from virtplane_drivers.hypervisor.qemu.definition import DiskDefinition

OLD, NEW = "pc-q35-6.0", "pc-q35-7.2"


@pytest.mark.parametrize(
    ("pinned", "defined_before", "expected"),
    [
        pytest.param(None, None, NEW, id="a new machine: the newest"),
        pytest.param(OLD, None, OLD, id="the host knows nothing: as the resource has it pinned"),
        pytest.param(None, OLD, OLD, id="as the host has it, after QEMU was upgraded"),
        pytest.param(NEW, OLD, OLD, id="the host's own record is preferred"),
    ],
)
def test_the_machine_type_of_the_first_definition_stays(
    pinned: str | None, defined_before: str | None, expected: str
) -> None:
    previous = definition(newest=defined_before) if defined_before else None
    assert definition(previous=previous, newest=NEW, pinned=Pinned(pinned)).machine_type == expected


@pytest.mark.parametrize(
    ("accelerator", "model", "expected"),
    [
        ("kvm", "Host", "host"),
        ("tcg", "Host", "max"),
        ("kvm", "Nehalem", "Nehalem"),
        ("tcg", "qemu64-v1", "qemu64-v1"),
        ("tcg", "Icelake-Server.2_0", "Icelake-Server.2_0"),
    ],
)
def test_the_hosts_own_cpu_is_what_the_accelerator_can_give(accelerator: str, model: str, expected: str) -> None:
    assert definition(accelerator=accelerator, cpu=Cpu(2, model)).cpu_model == expected


NO_NAMES = ["max,kvm=on", "", "-help", "?", "a b", "max\n", "../max"]


@pytest.mark.parametrize("model", NO_NAMES)
def test_a_cpu_model_that_could_be_read_as_an_option_is_refused(model: str) -> None:
    with pytest.raises(Refused, match=r"cpu\.model") as refused:
        definition(cpu=Cpu(2, model))
    assert refused.value.reason == "CpuModelRefused"


@pytest.mark.parametrize("machine_type", [name for name in NO_NAMES if name])
def test_a_pinned_machine_type_that_could_be_read_as_an_option_is_refused(machine_type: str) -> None:
    """It comes from a status that others may write."""
    with pytest.raises(Refused, match="no name of a machine type") as refused:
        definition(pinned=Pinned(machine_type))
    assert refused.value.reason == "MachineTypeRefused"


def test_a_disk_is_the_file_it_is_attached_by() -> None:
    made = definition(disk("root", boot_order=3), cdrom("tools"))
    assert made.disks == (
        DiskDefinition("root", "/srv/root.qcow2", DiskFormat.QCOW2, DiskType.DISK, 3, 0),
        DiskDefinition("tools", "/srv/tools.iso", DiskFormat.RAW, DiskType.CDROM, None, 0),
    )


def test_what_follows_from_the_spec_alone_follows_it() -> None:
    before = definition(disk("root"))
    now = definition(disk("root", path="/srv/moved.qcow2"), previous=before, cpu=Cpu(4), memory_mib=2048)
    assert (now.cores, now.memory_mib, now.disks[0].path) == (4, 2048, "/srv/moved.qcow2")
    assert now.effective == Effective(Cpu(4, "max"), 2048, NEW, "tcg")


def test_a_cdrom_that_takes_the_name_of_a_disk_does_not_take_its_place() -> None:
    before = definition(disk("a"), disk("b"))
    now = definition(disk("a"), cdrom("b"), previous=before)
    assert [(one.type, one.port) for one in now.disks] == [(DiskType.DISK, 0), (DiskType.CDROM, 0)]


@pytest.mark.parametrize(
    ("make", "most"),
    [(disk, 24), (cdrom, 6)],
    ids=["disks: a root port each", "CD-ROMs: the ports of one controller"],
)
def test_more_disks_than_there_are_places_are_refused(make: Callable[[str], Disk], most: int) -> None:
    disks = [make(f"x-{number}") for number in range(most + 1)]
    assert len(definition(*disks[:most]).disks) == most
    with pytest.raises(Refused, match=f"disk x-{most}: at most {most}") as refused:
        definition(*disks)
    assert refused.value.reason == "TooManyDisks"


def test_the_places_of_removed_disks_can_be_used_again() -> None:
    full = definition(*(disk(f"x-{number}") for number in range(24)))
    renewed = definition(*(disk(f"y-{number}") for number in range(24)), previous=full)
    assert sorted(one.port for one in renewed.disks) == list(range(24))


def test_a_disk_that_is_no_file_is_refused() -> None:
    with pytest.raises(Refused, match="disk root: QEMU attaches files only") as refused:
        definition(Disk("root", FakeAttachment("vol-1")))
    assert refused.value.reason == "DiskNotAttachable"
