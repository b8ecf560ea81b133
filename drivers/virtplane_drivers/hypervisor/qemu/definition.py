"""What a QEMU machine is made of: all that its command line follows from, as it stands in the run record."""

import re
from dataclasses import dataclass
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat, DiskType, DisplayType
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Disk, Effective

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What may stand in an argument that takes no JSON: nothing that could begin another option."""
_HOST_MODELS = {"kvm": "host", "tcg": "max"}
MAX_CDROMS = 6
"""Ports of q35's own AHCI controller."""
MAX_DISKS = 24


@dataclass(frozen=True, slots=True)
class DiskDefinition:
    """One disk."""

    name: str
    path: str
    format: DiskFormat
    type: DiskType
    boot_order: int | None
    port: int
    """Of a Disk: its root port. Of a CDROM: its AHCI port. Kept for as long as the disk is part of the machine."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One machine."""

    namespace: str
    name: str
    smbios_uuid: str
    cores: int
    cpu_model: str
    memory_mib: int
    machine_type: str
    accelerator: str
    disks: tuple[DiskDefinition, ...] = ()
    restarted_at: str = ""
    """See `Desired`."""
    display: DisplayType | None = None
    guest_agent: bool = False
    """Whether it has the port that a guest agent speaks through: machines of before 0.2 wake without."""

    @property
    def writable_disks(self) -> tuple[Path, ...]:
        """The images that the guest can write, in order."""
        return tuple(Path(disk.path) for disk in self.disks if disk.type is DiskType.DISK)

    @property
    def effective(self) -> Effective:
        """As the contract tells it."""
        return Effective(
            cpu=Cpu(self.cores, self.cpu_model),
            memory_mib=self.memory_mib,
            machine_type=self.machine_type,
            accelerator=self.accelerator,
            display=self.display,
        )


def definition_of(
    desired: Desired, *, previous: Definition | None, newest_machine_type: str, accelerator: str
) -> Definition:
    """What `desired` means on this host. The machine type of the first definition stays; so do the disks' places.

    Raises:
        Refused: QEMU cannot run such a machine; the message says which part.
    """
    pinned = previous.machine_type if previous is not None else desired.pinned.machine_type
    model = _HOST_MODELS[accelerator] if desired.cpu.model == "Host" else desired.cpu.model
    if not _WORD.fullmatch(model):
        raise Refused(f"cpu.model: {model!r} is no name of a CPU model", reason=Reason.CPU_MODEL_REFUSED)
    if pinned is not None and not _WORD.fullmatch(pinned):
        raise Refused(f"{pinned!r} is no name of a machine type", reason=Reason.MACHINE_TYPE_REFUSED)
    return Definition(
        namespace=desired.namespace,
        name=desired.name,
        smbios_uuid=desired.smbios_uuid,
        cores=desired.cpu.cores,
        cpu_model=model,
        memory_mib=desired.memory_mib,
        machine_type=pinned or newest_machine_type,
        accelerator=accelerator,
        disks=_disks(desired.disks, previous.disks if previous is not None else ()),
        restarted_at=desired.restarted_at,
        display=desired.display,
        guest_agent=True,
    )


def _disks(desired: tuple[Disk, ...], previous: tuple[DiskDefinition, ...]) -> tuple[DiskDefinition, ...]:
    known = {(disk.type, disk.name): disk.port for disk in previous}
    wanted = {(disk.type, disk.name) for disk in desired}
    taken = {(key[0], port) for key, port in known.items() if key in wanted}
    limits = {DiskType.DISK: MAX_DISKS, DiskType.CDROM: MAX_CDROMS}
    disks = []
    for disk in desired:
        attachment = disk.attachment
        if not isinstance(attachment, FileAttachment):
            raise Refused(f"disk {disk.name}: QEMU attaches files only", reason=Reason.DISK_NOT_ATTACHABLE)
        port = known.get((disk.type, disk.name))
        if port is None:
            free = (number for number in range(limits[disk.type]) if (disk.type, number) not in taken)
            port = next(free, None)
        if port is None:
            raise Refused(
                f"disk {disk.name}: at most {limits[disk.type]} of type {disk.type}", reason=Reason.TOO_MANY_DISKS
            )
        taken.add((disk.type, port))
        disks.append(
            DiskDefinition(disk.name, str(attachment.path), attachment.format, disk.type, disk.boot_order, port)
        )
    return tuple(disks)
