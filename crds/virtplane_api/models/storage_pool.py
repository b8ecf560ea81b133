"""StoragePool: a place where Volumes live, and the hypervisors that reach it."""

from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import CelRule, CustomResource, ListMap, PrinterColumn, Quantity, StructuralModel
from virtplane_api.models.common import Conditions, Generation, ObjectName
from virtplane_api.models.transition_rules import unchanged
from virtplane_api.models.virtual_machine import HypervisorSelector
from virtplane_api.names import CATEGORY, GROUP, VERSION
from virtplane_api.vocabulary import PoolAccess


class DirectoryPool(StructuralModel):
    """A folder of a file system on each host."""

    path: Annotated[str, Field(min_length=2, max_length=1024, pattern=r"^/[^\x00]*[^/\x00]$")] = Field(
        description="Absolute path of the folder. It is made, for its owner alone, where it does not exist.",
        examples=["/var/lib/virtplane/images"],
    )


class FakePool(StructuralModel):
    """Volumes that exist only in an agent's memory, for demonstrations and tests."""


class StoragePoolSpec(StructuralModel):
    """Where volumes live. Exactly one of the pool types."""

    cel_rules = (
        CelRule(
            rule="[has(self.directory), has(self.fake)].filter(x, x).size() == 1",
            message="name exactly one pool type: directory or fake",
        ),
        CelRule(
            rule=unchanged("directory"),
            message="directory is immutable: its volumes would be lost from sight; make another pool",
            field_path=".directory",
        ),
        CelRule(rule="self.access == oldSelf.access", message="access is immutable", field_path=".access"),
    )

    directory: DirectoryPool | None = Field(
        default=None,
        description="Files in a folder, on the host (access Local) or on a file system that hosts share (Shared).",
        examples=[{"path": "/var/lib/virtplane/images"}],
    )
    fake: FakePool | None = Field(
        default=None,
        description="Volumes that exist only in an agent's memory, for demonstrations and tests.",
        examples=[{}],
    )
    access: PoolAccess = Field(
        description="Local: a volume is used on the host that made it. Shared: on every host that reaches the pool.",
        examples=["Local"],
    )
    hypervisor_selector: HypervisorSelector | None = Field(
        default=None,
        description="The Hypervisors that reach the pool, by label. Without it: all.",
        examples=[{"matchLabels": {"zone": "a"}}],
    )


class PoolHypervisor(StructuralModel):
    """The pool as one Hypervisor sees it."""

    name: ObjectName = Field(description="Name of the Hypervisor.", examples=["host-a-qemu"])
    state: Annotated[str, Field(max_length=32, pattern=r"^(Ready|Failed|Unknown)$")] = Field(
        description="Ready, Failed or Unknown (its agent is silent).", examples=["Ready"]
    )
    message: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="Why it is not Ready.", examples=["/srv/images: Permission denied"]
    )


class StoragePoolStatus(StructuralModel):
    """The pool as the hypervisors report it, summed up by the operator."""

    observed_generation: Generation | None = Field(
        default=None, description="The metadata.generation that this status speaks of.", examples=[1]
    )
    hypervisors: Annotated[list[PoolHypervisor], ListMap("name"), Field(max_length=1024)] | None = Field(
        default=None,
        description="The Hypervisors that reach the pool.",
        examples=[[{"name": "host-a-qemu", "state": "Ready"}]],
    )
    capacity: Quantity | None = Field(
        default=None, description="Size of the pool's file systems, all hosts together.", examples=["500Gi"]
    )
    conditions: Conditions | None = Field(
        default=None, description="Observations: Ready when at least one Hypervisor reaches the pool.", examples=[[]]
    )


STORAGE_POOL = CustomResource(
    group=GROUP,
    version=VERSION,
    kind="StoragePool",
    plural="storagepools",
    singular="storagepool",
    short_names=("vppool",),
    categories=(CATEGORY,),
    scope="Cluster",
    description=(
        "A place where Volumes live. The annotation virtplane.dev/is-default-pool=true makes it the one for Volumes "
        "that name none."
    ),
    spec=StoragePoolSpec,
    status=StoragePoolStatus,
    status_default={"observedGeneration": -1},
    printer_columns=(
        PrinterColumn("Access", "string", ".spec.access", "Local or Shared."),
        PrinterColumn("Capacity", "string", ".status.capacity", "Size of its file systems."),
        PrinterColumn("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether it can be used."),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
        PrinterColumn("Path", "string", ".spec.directory.path", "The folder.", priority=1),
        PrinterColumn("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", "Why.", priority=1),
    ),
)
