"""Machines as an agent describes them to the QEMU driver, and their definitions."""

import itertools
from pathlib import Path
from typing import Any

from virtplane_api.vocabulary import DiskFormat, DiskType
from virtplane_drivers.attachment import FileAttachment, NicAttachment, StreamAttachment, TapAttachment
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Disk, Nic, Owner
from virtplane_drivers.hypervisor.qemu.argv import Run, argv_of
from virtplane_drivers.hypervisor.qemu.definition import Definition, definition_of
from virtplane_drivers.hypervisor.qemu.grants import GrantedFile, Grants

SMBIOS_UUID = "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"
OWNER = Owner("5d6d1c36", 7)


def disk(name: str, *, path: str = "", boot_order: int | None = None) -> Disk:
    """A qcow2 file that is called as the disk is."""
    return Disk(name, FileAttachment(Path(path or f"/srv/{name}.qcow2"), DiskFormat.QCOW2), boot_order=boot_order)


def cdrom(name: str, *, boot_order: int | None = None) -> Disk:
    """A raw image."""
    return Disk(name, FileAttachment(Path(f"/srv/{name}.iso"), DiskFormat.RAW), DiskType.CDROM, boot_order)


def nic(name: str, *, socket: str = "", number: int = 1, **changes: Any) -> Nic:
    """Joined to a tap in a router's namespace, or to a program's socket."""
    tap = TapAttachment(Path("/run/virtplane/netns/net-1"), f"t-{name}", "br0", 1450, f"virtplane/vm-1/{name}")
    attachment = StreamAttachment(Path(socket)) if socket else tap
    return Nic(name, f"52:54:00:00:00:{number:02x}", attachment, **{"mtu": 1450} | changes)


def desired(*disks: Disk, **changes: Any) -> Desired:
    """A machine of two CPUs and 1 GiB."""
    machine: dict[str, Any] = {
        "uid": "vm-1",
        "namespace": "shop",
        "name": "web",
        "owner": OWNER,
        "smbios_uuid": SMBIOS_UUID,
        "cpu": Cpu(2),
        "memory_mib": 1024,
        "disks": disks,
    }
    return Desired(**machine | changes)


def definition(
    *disks: Disk,
    previous: Definition | None = None,
    accelerator: str = "tcg",
    newest: str = "pc-q35-7.2",
    joinable: frozenset[type[NicAttachment]] = frozenset({TapAttachment, StreamAttachment}),
    **changes: Any,
) -> Definition:
    """What `desired` means on a host of this accelerator and newest machine type."""
    machine = desired(*disks, **changes)
    return definition_of(
        machine, previous=previous, newest_machine_type=newest, accelerator=accelerator, joinable=joinable
    )


def run(
    machine: Definition,
    *,
    uid: str = "vm-1",
    incarnation: str = "1a2b3c4d",
    owner: Owner = OWNER,
    state_id: str = "0123456789ab",
    serial_log: str = "/var/lib/virtplane/qemu/vm-1/serial.log",
) -> Run:
    """One run of the machine: its log is open under the number 10, its disks from 20 on, its NICs from 60 on."""
    disks = tuple(GrantedFile(20 + index, Path(one.path)) for index, one in enumerate(machine.disks))
    numbers = itertools.count(60)
    nics = tuple(tuple(itertools.islice(numbers, one.queues)) for one in machine.nics)
    grants = Grants(disks, GrantedFile(10, Path(serial_log)), locks=(), nics=nics)
    return Run(uid, incarnation, owner, state_id, monitor_fd=9, guest_agent_fd=8, grants=grants)


def argv(machine: Definition, **changes: Any) -> list[str]:
    """The command line of such a run."""
    return argv_of(machine, run(machine, **changes))
