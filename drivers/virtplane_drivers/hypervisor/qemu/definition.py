"""What a QEMU machine is made of: all that its command line follows from, as it stands in the run record."""

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat, DiskType, DisplayType, InterfaceModel
from virtplane_drivers.attachment import (
    FakeNicAttachment,
    FileAttachment,
    NicAttachment,
    StreamAttachment,
    TapAttachment,
)
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Disk, Effective, Nic

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What may stand in an argument that takes no JSON: nothing that could begin another option."""
_HOST_MODELS = {"kvm": "host", "tcg": "max"}
MAX_CDROMS = 6
"""Ports of q35's own AHCI controller."""
MAX_DISKS = 24
MAX_NICS = 8
_PORTS: Mapping[type[NicAttachment], str] = {
    TapAttachment: "a tap: that takes QEMU 7.2, and an agent with CAP_NET_ADMIN and CAP_SYS_ADMIN",
    StreamAttachment: "a socket that takes frames: that takes QEMU 7.2",
    FakeNicAttachment: "a port that exists in memory only",
}
"""In words, for those who cannot have it."""


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


class NicStage(enum.StrEnum):
    """Of an adapter of a run: written before the act, so that one that was killed in between is understood."""

    PLUGGED = "Plugged"
    COMING = "Coming"
    """It may be there, in part."""
    GOING = "Going"
    """The guest was, or is to be, asked to let it go."""


@dataclass(frozen=True, slots=True)
class NicDefinition:
    """One network adapter, and the port that it is joined to: a tap's, or a program's that takes frames."""

    name: str
    mac: str
    model: InterfaceModel
    queues: int
    boot_order: int | None
    mtu: int
    """What the guest is told."""
    port: int
    """Its root port among those of the NICs. Kept for as long as the NIC is part of the machine."""
    namespace: str = ""
    """Of a tap, as all down to `tap_mtu`. See `TapAttachment`."""
    tap: str = ""
    bridge: str = ""
    alias: str = ""
    tap_mtu: int = 0
    socket: str = ""
    """Of a program. See `StreamAttachment`."""
    link_up: bool = True
    """Of a run: as QEMU was told."""
    stage: NicStage = NicStage.PLUGGED

    @property
    def nic(self) -> Nic:
        """As the contract tells it."""
        return Nic(
            self.name, self.mac, self.attachment, self.mtu, self.model, self.queues, self.boot_order, self.link_up
        )

    @property
    def attachment(self) -> TapAttachment | StreamAttachment:
        """As it was given."""
        if self.socket:
            return StreamAttachment(Path(self.socket))
        return TapAttachment(Path(self.namespace), self.tap, self.bridge, self.tap_mtu, self.alias)


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
    nics: tuple[NicDefinition, ...] = ()
    nic_ports: bool = False
    """Whether it has the root ports of NICs that it does not have: machines of before wake without."""

    @property
    def writable_disks(self) -> tuple[Path, ...]:
        """The images that the guest can write, in order."""
        return tuple(Path(disk.path) for disk in self.disks if disk.type is DiskType.DISK)

    def joined_as(self, newest: "Definition | None") -> "Definition":
        """The same machine, its NICs at the ports that `newest` knows: a reboot of the host makes all of them anew."""
        known = {nic.name: nic for nic in newest.nics} if newest is not None else {}
        return replace(self, nics=tuple(_moved(nic, known.get(nic.name, nic)) for nic in self.nics))

    def begun(self) -> "Definition":
        """As a run of it begins: with all cables in."""
        return replace(self, nics=tuple(replace(nic, link_up=True, stage=NicStage.PLUGGED) for nic in self.nics))

    def with_nic(self, changed: NicDefinition) -> "Definition":
        """The same machine with that adapter, in the place of the one of its name or behind all others."""
        if all(nic.name != changed.name for nic in self.nics):
            return replace(self, nics=(*self.nics, changed))
        return replace(self, nics=tuple(changed if nic.name == changed.name else nic for nic in self.nics))

    def without_nic(self, name: str) -> "Definition":
        """The same machine without it."""
        return replace(self, nics=tuple(nic for nic in self.nics if nic.name != name))

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
    desired: Desired,
    *,
    previous: Definition | None,
    running: Definition | None = None,
    newest_machine_type: str,
    accelerator: str,
    joinable: frozenset[type[NicAttachment]],
) -> Definition:
    """What `desired` means on this host. The machine type of the first definition stays; so do all places.

    A new NIC gets no place that one of the `running` run still has, where there is another.

    `joinable` is what NICs can be joined to here.

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
        nics=_nics(
            desired.nics,
            previous.nics if previous is not None else (),
            {nic.port for nic in running.nics} if running is not None else set(),
            joinable,
        ),
        nic_ports=True,
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


def _nics(
    desired: Sequence[Nic],
    previous: Sequence[NicDefinition],
    occupied: set[int],
    joinable: frozenset[type[NicAttachment]],
) -> tuple[NicDefinition, ...]:
    for nic in desired:
        _refuse_impossible(nic, joinable)
    if len(desired) > MAX_NICS:
        raise Refused(f"interface {desired[MAX_NICS].name}: at most {MAX_NICS}", reason=Reason.TOO_MANY_NICS)
    wanted = {nic.name for nic in desired}
    ports = {nic.name: nic.port for nic in previous if nic.name in wanted}
    free = iter(sorted(set(range(MAX_NICS)) - set(ports.values()), key=lambda port: (port in occupied, port)))
    return tuple(_nic(nic, ports[nic.name] if nic.name in ports else next(free)) for nic in desired)


def _refuse_impossible(nic: Nic, joinable: frozenset[type[NicAttachment]]) -> None:
    kind = type(nic.attachment)
    if kind not in joinable:
        message = f"interface {nic.name}: QEMU on this host cannot be joined to {_PORTS[kind]}"
        raise Refused(message, reason=Reason.NIC_NOT_ATTACHABLE)
    if nic.queues == 1:
        return
    if nic.model is not InterfaceModel.VIRTIO:
        message = f"interface {nic.name}: model {nic.model} has one pair of queues; set queues to 1, or model virtio"
        raise Refused(message, reason=Reason.NOT_SUPPORTED)
    if kind is StreamAttachment:
        message = f"interface {nic.name}: its network takes frames in one pair of queues; set queues to 1"
        raise Refused(message, reason=Reason.NOT_SUPPORTED)


def _nic(nic: Nic, port: int) -> NicDefinition:
    made = NicDefinition(nic.name, nic.mac, nic.model, nic.queues, nic.boot_order, nic.mtu, port, link_up=nic.link_up)
    match nic.attachment:
        case TapAttachment() as tap:
            namespace = str(tap.namespace)
            return replace(made, namespace=namespace, tap=tap.name, bridge=tap.bridge, alias=tap.alias, tap_mtu=tap.mtu)
        case StreamAttachment() as stream:
            return replace(made, socket=str(stream.socket))
        case FakeNicAttachment():
            raise AssertionError("not joinable on any host")


def _moved(nic: NicDefinition, newest: NicDefinition) -> NicDefinition:
    return replace(
        nic,
        namespace=newest.namespace,
        tap=newest.tap,
        bridge=newest.bridge,
        alias=newest.alias,
        tap_mtu=newest.tap_mtu,
        socket=newest.socket,
    )
