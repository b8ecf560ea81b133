"""VirtualMachine: what a guest is to be, and what it was last seen as."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import (
    Cel,
    CelRule,
    CustomResource,
    ListAtomic,
    ListMap,
    PrinterColumn,
    Quantity,
    StructuralModel,
)
from virtplane_api.models.common import (
    Conditions,
    DnsLabel,
    Generation,
    HostStatus,
    Message,
    ObjectName,
    Time,
    Token,
    Uid,
)
from virtplane_api.models.firewall import Firewall
from virtplane_api.models.machine_interface import MAX_INTERFACES, Interface, InterfaceStatus, PlacedInterface
from virtplane_api.models.transition_rules import PLACEMENT_KEPT, STATUS_PLACEMENT_KEPT, TOKEN_GROWS, unchanged
from virtplane_api.models.volume import VolumeTemplate
from virtplane_api.names import CATEGORY, GROUP, VERSION
from virtplane_api.vocabulary import DiskType, DisplayType, ExitReason, PowerState, RestartPolicy


class DesiredPowerState(StrEnum):
    """What can be asked of a machine."""

    RUNNING = "Running"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    STOPPED = "Stopped"


class Cpu(StructuralModel):
    """The processors that the guest sees."""

    cores: Annotated[int, Field(ge=1, le=512)] = Field(description="Number of virtual CPUs.", examples=[2])
    model: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")] | None = Field(
        default=None,
        description=(
            "The CPU model, by the hypervisor's name for it. Host, the default, is the host's own CPU where the "
            "hardware runs the guest and the fullest emulated one elsewhere; status.effective says which."
        ),
        examples=["Host"],
    )


class Memory(StructuralModel):
    """The memory that the guest sees."""

    size: Annotated[
        Quantity,
        Cel(
            "quantity(string(self)).compareTo(quantity('1Mi')) >= 0",
            "memory must be at least 1Mi, for example 2Gi",
        ),
        Cel("quantity(string(self)).compareTo(quantity('16Ti')) <= 0", "memory must be at most 16Ti"),
    ] = Field(description="Size of the guest's memory, rounded up to whole MiB.", examples=["2Gi"])


class Disk(StructuralModel):
    """One disk of the guest: made with the machine (`volume`) or existing (`volumeName`)."""

    cel_rules = (
        CelRule(
            rule="has(self.volume) != has(self.volumeName)",
            message="name exactly one of volume (a new disk) and volumeName (an existing Volume)",
        ),
    )

    name: DnsLabel = Field(
        description="Name of the disk within the machine. The guest's PCI address of the disk follows from it.",
        examples=["root"],
    )
    volume: VolumeTemplate | None = Field(
        default=None,
        description=(
            "A disk to make with the machine. The operator makes a Volume of it, owned by the machine and deleted with "
            "it unless its deletionPolicy is Retain."
        ),
        examples=[{"size": "20Gi"}],
    )
    volume_name: ObjectName | None = Field(
        default=None,
        description="An existing Volume of the same namespace. The machine waits until it is there and ready.",
        examples=["web-data"],
    )
    type: DiskType | None = Field(
        default=None,
        description="What the guest sees: Disk (the default) or CDROM, which is read-only.",
        examples=["Disk"],
    )
    boot_order: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="The disk with the lowest number boots first. Without any number: the first disk of the list.",
        examples=[1],
    )


class Display(StructuralModel):
    """The guest's screen."""

    type: DisplayType = Field(
        description="The graphics adapter. VGA: every guest knows it, from its first boot screen on.", examples=["VGA"]
    )


class HypervisorSelector(StructuralModel):
    """Labels that a Hypervisor must carry, all of them."""

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] | None = Field(
        default=None, description="Label names and values.", examples=[{"zone": "a"}]
    )


class Scheduling(StructuralModel):
    """Where the machine may be placed. Read when it is placed; a placed machine is not moved by it."""

    driver: DnsLabel | None = Field(
        default=None, description="Only Hypervisors of this driver. Without it: any.", examples=["qemu"]
    )
    hypervisor_name: ObjectName | None = Field(
        default=None, description="Only this Hypervisor.", examples=["host-a-qemu"]
    )
    hypervisor_selector: HypervisorSelector | None = Field(
        default=None,
        description="Only Hypervisors that carry these labels.",
        examples=[{"matchLabels": {"zone": "a"}}],
    )


class VirtualMachineSpec(StructuralModel):
    """The machine as its owner wants it. No controller ever writes here."""

    cel_rules = (
        CelRule(
            rule=unchanged("disks"),
            message="disks cannot be changed yet: make another machine with them",
            field_path=".disks",
        ),
        CelRule(
            rule=(
                "!has(self.disks) || self.disks.all(one, !has(one.volumeName) || "
                "self.disks.exists_one(other, has(other.volumeName) && other.volumeName == one.volumeName))"
            ),
            message="a Volume can be named by one disk only",
            field_path=".disks",
        ),
        CelRule(
            rule=(
                "!has(self.interfaces) || self.interfaces.all(one, !has(one.macAddress) || "
                "self.interfaces.exists_one(other, has(other.macAddress) && other.macAddress == one.macAddress))"
            ),
            message="two interfaces ask for one macAddress",
            field_path=".interfaces",
        ),
    )

    power_state: DesiredPowerState = Field(
        description=(
            "Running: the machine runs. Paused: its processors are held, its memory stays in place. Suspended: its "
            "memory is written to its pool and its process ended; it goes on from there, after a reboot of the host "
            "too. Stopped: the guest is asked to shut down and is powered off after terminationGracePeriodSeconds. A "
            "machine that is as asked is Ready, stopped or not."
        ),
        examples=["Running"],
    )
    restart_policy: RestartPolicy | None = Field(
        default=None,
        description=(
            "Whether the machine is started again after the guest itself stopped or died. Always, the default. "
            "OnFailure: not when the guest shut itself down. Never: it stays off until restartedAt or powerState "
            "asks for it. One that keeps ending waits, 5 s doubling up to 300 s."
        ),
        examples=["Always"],
    )
    restarted_at: Time | None = Field(
        default=None,
        description=(
            "A time newer than status.restartedAt asks for one restart: the guest is shut down as for Stopped, and "
            "started with the spec of now. A machine that is off by itself is started."
        ),
        examples=["2026-11-24T10:00:00Z"],
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=0, le=86400)] | None = Field(
        default=None,
        description="How long the guest has to shut down before it is powered off. Without it: 60. 0: no waiting.",
        examples=[60],
    )
    cpu: Cpu = Field(description="The guest's processors.", examples=[{"cores": 2}])
    memory: Memory = Field(description="The guest's memory.", examples=[{"size": "2Gi"}])
    disks: Annotated[list[Disk], ListMap("name"), Field(max_length=24)] | None = Field(
        default=None,
        description="The guest's disks. Each name once.",
        examples=[[{"name": "root", "volume": {"size": "20Gi"}}]],
    )
    interfaces: Annotated[list[Interface], ListMap("name"), Field(max_length=MAX_INTERFACES)] | None = Field(
        default=None,
        description=(
            "The guest's network adapters. Each name once. Without it the machine is on no network. Changes reach a "
            "running guest at once where its Hypervisor has the capability HotplugInterfaces; what does not is in "
            "status.pendingChanges."
        ),
        examples=[[{"name": "lan", "networkName": "shop-lan"}]],
    )
    firewall: Firewall | None = Field(
        default=None,
        description="Of all its interfaces, in front of that of each network. A change takes effect at once.",
        examples=[{"defaults": {"ingress": "Deny"}}],
    )
    display: Display | None = Field(
        default=None,
        description=(
            "A screen, of which a VirtualMachineAction takes screenshots. Without it the machine has none, but a "
            "serial console. A change takes effect at the next start."
        ),
        examples=[{"type": "VGA"}],
    )
    scheduling: Scheduling | None = Field(
        default=None,
        description="Where the machine may run. Without it: on any healthy Hypervisor with room.",
        examples=[{"driver": "qemu"}],
    )


class PlacedDisk(StructuralModel):
    """The Volume behind one disk."""

    name: DnsLabel = Field(description="Name of the disk in spec.disks.", examples=["root"])
    volume_name: ObjectName = Field(description="Name of its Volume.", examples=["web-root-x7k2p"])
    volume_uid: Uid = Field(
        alias="volumeUID",
        description="metadata.uid of its Volume.",
        examples=["0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"],
    )


class Placement(StructuralModel):
    """Who runs the machine; written by the operator alone."""

    cel_rules = (TOKEN_GROWS,)

    hypervisor: ObjectName | None = Field(
        default=None, description="The Hypervisor that runs the machine.", examples=["host-a-qemu"]
    )
    agent_name: ObjectName | None = Field(
        default=None, description="The agent that acts for that Hypervisor.", examples=["host-a"]
    )
    token: Token = Field(description="Grows with each change of the placement.", examples=[7])
    disks: Annotated[list[PlacedDisk], ListMap("name"), Field(max_length=24)] | None = Field(
        default=None,
        description="The Volume of each disk.",
        examples=[
            [{"name": "root", "volumeName": "web-root-x7k2p", "volumeUID": "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"}]
        ],
    )
    interfaces: Annotated[list[PlacedInterface], ListMap("name"), Field(max_length=MAX_INTERFACES)] | None = Field(
        default=None,
        description="What is claimed for each interface; kept also while the machine has no place.",
        examples=[
            [
                {
                    "name": "lan",
                    "networkName": "shop-lan",
                    "networkUID": "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11",
                    "macAddress": "52:54:00:12:34:56",
                    "ipAddresses": ["10.20.0.9"],
                }
            ]
        ],
    )


class EffectiveCpu(StructuralModel):
    """The processors that the guest got."""

    cores: Annotated[int, Field(ge=1, le=512)] = Field(description="Number of virtual CPUs.", examples=[2])
    model: Annotated[str, Field(max_length=64)] = Field(description="The model in use.", examples=["max"])


class EffectiveMemory(StructuralModel):
    """The memory that the guest got."""

    size: Quantity = Field(description="Size of the guest's memory.", examples=["2Gi"])


class Effective(StructuralModel):
    """What runs, where the spec leaves a choice. Stable over restarts."""

    machine_type: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="The hypervisor's machine type, pinned at the first start.", examples=["pc-q35-7.2"]
    )
    accelerator: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="What executes the guest: kvm for the hardware, tcg for emulation.", examples=["kvm"]
    )
    cpu: EffectiveCpu | None = Field(
        default=None, description="The guest's processors.", examples=[{"cores": 2, "model": "max"}]
    )
    memory: EffectiveMemory | None = Field(default=None, description="The guest's memory.", examples=[{"size": "2Gi"}])
    display: Display | None = Field(default=None, description="The guest's screen.", examples=[{"type": "VGA"}])


class LastExit(StructuralModel):
    """The last time that the machine stopped running."""

    reason: ExitReason = Field(description="Why it stopped.", examples=["GuestShutdown"])
    time: datetime = Field(description="When that was seen.", examples=["2026-11-24T10:00:00Z"])
    message: Message | None = Field(
        default=None, description="What is known beyond the reason.", examples=["qemu ended by signal 9"]
    )


class PendingChange(StructuralModel):
    """A field of the spec that is not in effect yet."""

    field: Annotated[str, Field(max_length=256)] = Field(description="Path of the field.", examples=["spec.cpu.cores"])
    applies: Annotated[str, Field(max_length=32, pattern=r"^OnRestart$")] = Field(
        description="When it takes effect. OnRestart: at the next start.", examples=["OnRestart"]
    )


class VirtualMachineStatus(StructuralModel):
    """The machine as it was last seen."""

    cel_rules = (PLACEMENT_KEPT,)

    observed_generation: Generation | None = Field(
        default=None, description="The metadata.generation that this status speaks of.", examples=[4]
    )
    placement: Placement | None = Field(
        default=None,
        description="Who runs the machine. The operator's.",
        examples=[{"hypervisor": "host-a-qemu", "agentName": "host-a", "token": 7}],
    )
    host: HostStatus | None = Field(
        default=None,
        description="What the agent did with the placement. The agent's.",
        examples=[{"hypervisor": "host-a-qemu", "token": 7, "state": "Present"}],
    )
    power_state: PowerState | None = Field(
        default=None,
        description="What the machine was last seen doing. Unknown: it was not seen lately. The agent's.",
        examples=["Running"],
    )
    restarted_at: Time | None = Field(
        default=None,
        description="The spec.restartedAt that the present or last run answers. The agent's.",
        examples=["2026-11-24T10:00:00Z"],
    )
    restarts: Annotated[int, Field(ge=0, le=1 << 31)] | None = Field(
        default=None,
        description="How often the machine was started again after it had ended by itself.",
        examples=[2],
    )
    start_time: datetime | None = Field(
        default=None, description="When the running guest was started.", examples=["2026-11-24T10:00:00Z"]
    )
    effective: Effective | None = Field(
        default=None,
        description="What runs, where the spec leaves a choice.",
        examples=[{"machineType": "pc-q35-7.2", "accelerator": "kvm"}],
    )
    pending_changes: Annotated[list[PendingChange], ListMap("field"), Field(max_length=32)] | None = Field(
        default=None,
        description="Changes of the spec that wait for a restart.",
        examples=[[{"field": "spec.cpu.cores", "applies": "OnRestart"}]],
    )
    last_exit: LastExit | None = Field(
        default=None,
        description="Why and when the machine last stopped running.",
        examples=[{"reason": "GuestShutdown", "time": "2026-11-24T10:00:00Z"}],
    )
    interfaces: Annotated[list[InterfaceStatus], ListAtomic(), Field(max_length=2 * MAX_INTERFACES)] | None = Field(
        default=None,
        description="The machine's interfaces, and those that its guest still has to let go of. The agent's.",
        examples=[[{"name": "lan", "macAddress": "52:54:00:12:34:56", "ipAddresses": ["10.20.0.9"]}]],
    )
    conditions: Conditions | None = Field(
        default=None,
        description="Observations: Placed (the operator's), Ready, Reconciling and Stalled.",
        examples=[[]],
    )


NAME_IS_A_LABEL = CelRule(
    rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
    message="the name of a VirtualMachine must be a DNS label of at most 63 characters, as it names guest and disks",
)

VIRTUAL_MACHINE = CustomResource(
    group=GROUP,
    version=VERSION,
    kind="VirtualMachine",
    plural="virtualmachines",
    singular="virtualmachine",
    short_names=("vpvm",),
    categories=(CATEGORY,),
    scope="Namespaced",
    description="A virtual machine: its processors, memory and disks, and whether it is to run.",
    spec=VirtualMachineSpec,
    status=VirtualMachineStatus,
    status_default={"observedGeneration": -1},
    cel_rules=(NAME_IS_A_LABEL, STATUS_PLACEMENT_KEPT),
    selectable_fields=(".status.placement.agentName",),
    printer_columns=(
        PrinterColumn("Desired", "string", ".spec.powerState", "The power state that was asked for."),
        PrinterColumn("Power", "string", ".status.powerState", "The power state that was last seen."),
        PrinterColumn("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Observed equals desired."),
        PrinterColumn("Hypervisor", "string", ".status.placement.hypervisor", "The Hypervisor that runs it."),
        PrinterColumn(
            "IP",
            "string",
            ".status.interfaces[0]['ipAddresses','seenAddresses'][0]",
            "The first address: claimed, else seen.",
        ),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
        PrinterColumn("CPU", "integer", ".spec.cpu.cores", "Number of virtual CPUs.", priority=1),
        PrinterColumn("Memory", "string", ".spec.memory.size", "Size of the memory.", priority=1),
        PrinterColumn("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", "Why.", priority=1),
        PrinterColumn("Restarts", "integer", ".status.restarts", "Starts after an end by itself.", priority=1),
    ),
)
