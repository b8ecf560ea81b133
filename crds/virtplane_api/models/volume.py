"""Volume: a disk that lives in a StoragePool and outlives, or not, the machine that uses it."""

from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import CelRule, CustomResource, PrinterColumn, Quantity, StructuralModel
from virtplane_api.models.common import (
    Conditions,
    DiskSize,
    Generation,
    HostStatus,
    ObjectName,
    Token,
    Uid,
)
from virtplane_api.models.transition_rules import PLACEMENT_KEPT, TOKEN_GROWS, unchanged
from virtplane_api.names import CATEGORY, GROUP, VERSION
from virtplane_api.vocabulary import DeletionPolicy, DiskFormat


class HttpSource(StructuralModel):
    """An image on a web server, copied once into a disk of its own."""

    url: Annotated[str, Field(min_length=8, max_length=2048, pattern=r"^https?://[^\s/?#@]+(/[^\s]*)?$")] = Field(
        description=(
            "Where the image is. Formats raw, qcow2, vmdk, vhd, vhdx and vdi are recognised; an image that names a "
            "backing file or a data file is refused. Loopback, link-local and metadata addresses are refused unless "
            "the agent allows them."
        ),
        examples=["https://images.example/debian-12.qcow2"],
    )
    checksum: Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="SHA-256 of the file as it is served. An image that differs is thrown away and the Volume fails.",
        examples=["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )


class BlankSource(StructuralModel):
    """A disk of zeros."""


class VolumeSource(StructuralModel):
    """Where the first content comes from: exactly one of its fields."""

    cel_rules = (
        CelRule(
            rule="[has(self.http), has(self.blank)].filter(x, x).size() == 1",
            message="source must name exactly one of http and blank",
        ),
    )

    http: HttpSource | None = Field(
        default=None,
        description="Copy an image from a web server.",
        examples=[{"url": "https://images.example/debian-12.qcow2"}],
    )
    blank: BlankSource | None = Field(default=None, description="Start with zeros. The default.", examples=[{}])


class VolumeTemplate(StructuralModel):
    """What a new disk is to be like; the same fields as a Volume's spec."""

    pool_name: ObjectName | None = Field(
        default=None,
        description=(
            "The StoragePool to live in. Without it: the pool that carries the annotation "
            "virtplane.dev/is-default-pool=true."
        ),
        examples=["fast"],
    )
    size: DiskSize = Field(
        description="How large the guest sees the disk. At least the virtual size of the source.", examples=["20Gi"]
    )
    format: DiskFormat | None = Field(
        default=None,
        description="qcow2 takes space as it is written; raw is a plain file. Without it: qcow2.",
        examples=["qcow2"],
    )
    source: VolumeSource | None = Field(
        default=None, description="The first content. Without it: zeros.", examples=[{"blank": {}}]
    )
    deletion_policy: DeletionPolicy | None = Field(
        default=None,
        description=(
            "Delete: the data goes with the Volume. Retain: the data stays in the pool. Without it: Delete for a disk "
            "that a VirtualMachine describes, Retain for a Volume made by hand."
        ),
        examples=["Delete"],
    )


class VolumeSpec(VolumeTemplate):
    """A disk as its owner wants it."""

    cel_rules = (
        CelRule(
            rule=unchanged("poolName"),
            message="poolName is immutable: make a new Volume in the other pool",
            field_path=".poolName",
        ),
        CelRule(
            rule=unchanged("format"),
            message="format is immutable: make a new Volume of the other format",
            field_path=".format",
        ),
        CelRule(
            rule=unchanged("source"),
            message="source is immutable: it was read once, when the Volume was made",
            field_path=".source",
        ),
        CelRule(
            rule="quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) == 0",
            message="size cannot be changed yet: make a new Volume of the other size",
            field_path=".size",
        ),
    )


class VolumePlacement(StructuralModel):
    """Who makes and holds the disk; written by the operator alone."""

    cel_rules = (TOKEN_GROWS,)

    hypervisor: ObjectName | None = Field(
        default=None, description="The Hypervisor beside which the disk is made.", examples=["host-a-qemu"]
    )
    agent_name: ObjectName | None = Field(
        default=None, description="The agent that makes and holds the disk.", examples=["host-a"]
    )
    pool_name: ObjectName | None = Field(default=None, description="The StoragePool in effect.", examples=["fast"])
    pool_uid: Uid | None = Field(
        default=None,
        alias="poolUID",
        description="metadata.uid of that pool.",
        examples=["0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"],
    )
    token: Token = Field(description="Grows with each change of the placement.", examples=[1])


class VolumeClaim(StructuralModel):
    """The one machine that may use the disk; written by the operator alone."""

    vm_name: ObjectName = Field(description="Name of the VirtualMachine.", examples=["web"])
    vm_uid: Uid = Field(
        alias="vmUID",
        description="metadata.uid of the VirtualMachine.",
        examples=["6b0cf3b5-6d5e-4b0f-9b5e-0a3c1d2e4f55"],
    )


class VolumeStatus(StructuralModel):
    """The disk as it was last seen."""

    cel_rules = (PLACEMENT_KEPT,)

    observed_generation: Generation | None = Field(
        default=None, description="The metadata.generation that this status speaks of.", examples=[1]
    )
    placement: VolumePlacement | None = Field(
        default=None,
        description="Where the disk is made. The operator's.",
        examples=[{"hypervisor": "host-a-qemu", "agentName": "host-a", "token": 1}],
    )
    claim: VolumeClaim | None = Field(
        default=None,
        description="The VirtualMachine that may use the disk. The operator's. A claimed Volume is never deleted.",
        examples=[{"vmName": "web", "vmUID": "6b0cf3b5-6d5e-4b0f-9b5e-0a3c1d2e4f55"}],
    )
    host: HostStatus | None = Field(
        default=None,
        description="What the agent did with the placement. The agent's.",
        examples=[{"hypervisor": "host-a-qemu", "token": 1, "state": "Present"}],
    )
    size: Quantity | None = Field(
        default=None, description="The virtual size that was made. The agent's.", examples=["20Gi"]
    )
    format: DiskFormat | None = Field(
        default=None, description="The format that was made. The agent's.", examples=["qcow2"]
    )
    conditions: Conditions | None = Field(
        default=None,
        description="Observations: Placed (the operator's), Ready, Reconciling and Stalled.",
        examples=[[]],
    )


VOLUME = CustomResource(
    group=GROUP,
    version=VERSION,
    kind="Volume",
    plural="volumes",
    singular="volume",
    short_names=("vpvol",),
    categories=(CATEGORY,),
    scope="Namespaced",
    description="A disk in a StoragePool: blank or copied from an image, for one VirtualMachine at a time.",
    spec=VolumeSpec,
    status=VolumeStatus,
    status_default={"observedGeneration": -1},
    selectable_fields=(".status.placement.agentName",),
    printer_columns=(
        PrinterColumn("Size", "string", ".spec.size", "The size that was asked for."),
        PrinterColumn("Format", "string", ".status.format", "The format that was made."),
        PrinterColumn("Pool", "string", ".status.placement.poolName", "The StoragePool that holds it."),
        PrinterColumn("Claim", "string", ".status.claim.vmName", "The VirtualMachine that may use it."),
        PrinterColumn("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether it can be used."),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
        PrinterColumn("Hypervisor", "string", ".status.placement.hypervisor", "Where it was made.", priority=1),
        PrinterColumn("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", "Why.", priority=1),
    ),
)
