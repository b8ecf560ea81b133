"""Hypervisor: one endpoint that runs machines, with what it can do and how much room it has."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import (
    AllowBoolean,
    CelRule,
    CustomResource,
    ListAtomic,
    ListMap,
    ListSet,
    PrinterColumn,
    Quantity,
    StructuralModel,
)
from virtplane_api.host_networks import MAX_GIVEN, MAX_NETWORKS
from virtplane_api.models.common import (
    Conditions,
    DnsLabel,
    Generation,
    IpCidr,
    ObjectName,
    Token,
    Uid,
)
from virtplane_api.models.overlay import Underlay
from virtplane_api.models.virtual_network import HostBridgeName
from virtplane_api.names import CATEGORY, GROUP, VERSION
from virtplane_api.vocabulary import NetworkMode

DEFAULT_CPU_ALLOCATION_RATIO = 10
"""Virtual CPUs per CPU of the host where spec.cpuAllocationRatio is absent (KubeVirt's default)."""


class HypervisorSpec(StructuralModel):
    """The endpoint. An agent makes its own Hypervisors once and never changes their spec."""

    cel_rules = (
        CelRule(rule="self.driver == oldSelf.driver", message="driver is immutable", field_path=".driver"),
        CelRule(rule="self.agentName == oldSelf.agentName", message="agentName is immutable", field_path=".agentName"),
    )

    driver: DnsLabel = Field(description="The driver that speaks to it.", examples=["qemu"])
    agent_name: ObjectName = Field(description="The agent that acts for it.", examples=["host-a"])
    unschedulable: Annotated[bool, AllowBoolean()] | None = Field(
        default=None,
        description="true: no new machine is placed here, those that run stay. As a Node's spec.unschedulable.",
        examples=[True],
    )
    cpu_allocation_ratio: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="Virtual CPUs placed per CPU of the host. Without it: 10. Memory is never overcommitted.",
        examples=[10],
    )


class HypervisorCapacity(StructuralModel):
    """What the host has, and how much of it guests may get. Static: what is in use is not counted here."""

    cpu_cores: Annotated[int, Field(ge=0, le=65536)] = Field(description="CPUs of the host.", examples=[16])
    memory: Quantity = Field(description="Memory of the host.", examples=["64Gi"])
    allocatable_memory: Quantity = Field(
        description="Memory that guests may get: what the host has less what it keeps for itself.", examples=["60Gi"]
    )


class PoolState(StrEnum):
    """Whether a pool can be used from a host."""

    READY = "Ready"
    FAILED = "Failed"


class PoolReport(StructuralModel):
    """One StoragePool as this endpoint sees it."""

    name: ObjectName = Field(description="Name of the StoragePool.", examples=["fast"])
    uid: Uid = Field(description="metadata.uid of the StoragePool.", examples=["0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"])
    state: PoolState = Field(description="Whether volumes can be made and used.", examples=["Ready"])
    message: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="Why it is Failed.", examples=["/srv/images: Permission denied"]
    )
    capacity: Quantity | None = Field(
        default=None, description="Size of the file system that holds the pool.", examples=["500Gi"]
    )


class NetworkState(StrEnum):
    """Whether a network works on a host."""

    READY = "Ready"
    FAILED = "Failed"


class NetworkReport(StructuralModel):
    """One VirtualNetwork as this endpoint has it: machines that are placed here are on it."""

    uid: Uid = Field(
        description="metadata.uid of the VirtualNetwork.", examples=["0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"]
    )
    state: NetworkState = Field(description="Whether its machines are served.", examples=["Ready"])
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")] | None = Field(
        default=None, description="Why it is Failed, as one word for programs.", examples=["ForwardingBlocked"]
    )
    message: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="Why it is Failed.", examples=["chain FORWARD of table ip filter drops its packets"]
    )


class MissingCapability(StructuralModel):
    """Something the driver can do and this host cannot."""

    name: Annotated[str, Field(max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")] = Field(
        description="The capability.", examples=["HardwareAcceleration"]
    )
    message: Annotated[str, Field(max_length=1024)] = Field(
        description="Why, and what would bring it.", examples=["/dev/kvm: Permission denied"]
    )


class Orphan(StructuralModel):
    """A guest that runs here and that no resource describes. It is left running; a person decides."""

    uid: Uid = Field(
        description="metadata.uid of the VirtualMachine that it was.", examples=["6b0cf3b5-6d5e-4b0f-9b5e-0a3c1d2e4f55"]
    )
    namespace: Annotated[str, Field(max_length=63)] = Field(description="Its namespace.", examples=["shop"])
    name: Annotated[str, Field(max_length=253)] = Field(description="Its name.", examples=["web"])
    token: Token = Field(description="The token of the placement that it was started under.", examples=[7])


VlanNumber = Annotated[int, Field(ge=1, le=4094)]


class GivenVlans(StructuralModel):
    """VLANs (IEEE 802.1Q) from `first` to `last`, both included."""

    first: VlanNumber = Field(description="The first VLAN.", examples=[100])
    last: VlanNumber = Field(description="The last VLAN.", examples=[199])


class GivenNetwork(StructuralModel):
    """A network of the host that VirtualNetworks of mode Bridge may be joined to."""

    name: HostBridgeName = Field(description="As in spec.bridge.name of the VirtualNetwork.", examples=["br-lan"])
    vlans: GivenVlans | None = Field(
        default=None,
        description="In these VLANs alone. Without it: untagged, and in no VLAN.",
        examples=[{"first": 100, "last": 199}],
    )
    missing: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None,
        description="Why it cannot be joined now, and what would bring it: no new machine of it is placed here.",
        examples=["bridge br-lan does not exist on the host: make it"],
    )


class HypervisorStatus(StructuralModel):
    """The endpoint as its agent last saw it."""

    observed_generation: Generation | None = Field(
        default=None, description="The metadata.generation that this status speaks of.", examples=[1]
    )
    version: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Version of the hypervisor.", examples=["7.2.22"]
    )
    agent_version: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Version of the agent.", examples=["0.1.0"]
    )
    capacity: HypervisorCapacity | None = Field(
        default=None,
        description="What the host has.",
        examples=[{"cpuCores": 16, "memory": "64Gi", "allocatableMemory": "60Gi"}],
    )
    capabilities: Annotated[list[Annotated[str, Field(max_length=64)]], ListSet(), Field(max_length=64)] | None = Field(
        default=None, description="What can be asked of it.", examples=[["SerialConsole", "ShutDown"]]
    )
    missing_capabilities: Annotated[list[MissingCapability], ListMap("name"), Field(max_length=64)] | None = Field(
        default=None,
        description="What the driver could do on another host, and why not on this one.",
        examples=[[{"name": "HardwareAcceleration", "message": "/dev/kvm: No such file or directory"}]],
    )
    pool_types: Annotated[list[Annotated[str, Field(max_length=64)]], ListSet(), Field(max_length=16)] | None = Field(
        default=None, description="The types of StoragePool that it can use.", examples=[["directory"]]
    )
    pools: Annotated[list[PoolReport], ListMap("name"), Field(max_length=256)] | None = Field(
        default=None,
        description="The StoragePools that it reaches.",
        examples=[[{"name": "fast", "uid": "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11", "state": "Ready"}]],
    )
    network_modes: Annotated[list[NetworkMode], ListSet(), Field(max_length=16)] | None = Field(
        default=None, description="The modes of VirtualNetwork that it can have.", examples=[["Isolated", "NAT"]]
    )
    underlay: Underlay | None = Field(
        default=None,
        description="What networks of mode Overlay go over: its end of the tunnels to other hosts.",
        examples=[{"address": "192.0.2.11", "mtu": 1500}],
    )
    host_networks: Annotated[list[GivenNetwork], ListAtomic(), Field(max_length=MAX_GIVEN)] | None = Field(
        default=None,
        description=(
            "What VirtualNetworks of mode Bridge may be joined to. Empty: nothing. Absent: it is not known, and "
            "machines are placed here as if it were given."
        ),
        examples=[[{"name": "br-lan"}, {"name": "br-dmz", "vlans": {"first": 100, "last": 199}}]],
    )
    routed_cidrs: Annotated[list[IpCidr], ListAtomic(), Field(max_length=MAX_GIVEN)] | None = Field(
        default=None,
        alias="routedCIDRs",
        description=(
            "The host routes these addresses to VirtualNetworks of mode Routed. Empty: none. Absent: it is not known, "
            "and machines are placed here as if they were routed."
        ),
        examples=[["10.22.0.0/16", "fd00:22::/48"]],
    )
    networks: Annotated[list[NetworkReport], ListMap("uid"), Field(max_length=MAX_NETWORKS)] | None = Field(
        default=None,
        description="The VirtualNetworks that it has now. It can have no more than fit here.",
        examples=[[{"uid": "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11", "state": "Ready"}]],
    )
    orphans: Annotated[list[Orphan], ListMap("uid"), Field(max_length=1024)] | None = Field(
        default=None, description="Guests that run here and that no resource describes.", examples=[[]]
    )
    conditions: Conditions | None = Field(
        default=None, description="Observations: Ready; Unknown while its agent is silent.", examples=[[]]
    )


HYPERVISOR = CustomResource(
    group=GROUP,
    version=VERSION,
    kind="Hypervisor",
    plural="hypervisors",
    singular="hypervisor",
    short_names=("vphv",),
    categories=(CATEGORY,),
    scope="Cluster",
    description="One endpoint that runs virtual machines. An agent makes one for each hypervisor of its own host.",
    spec=HypervisorSpec,
    status=HypervisorStatus,
    status_default={"observedGeneration": -1},
    selectable_fields=(".spec.agentName",),
    printer_columns=(
        PrinterColumn("Driver", "string", ".spec.driver", "The driver that speaks to it."),
        PrinterColumn("Agent", "string", ".spec.agentName", "The agent that acts for it."),
        PrinterColumn("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether it can run guests."),
        PrinterColumn("Unschedulable", "boolean", ".spec.unschedulable", "Whether new machines are kept away."),
        PrinterColumn("CPU", "integer", ".status.capacity.cpuCores", "CPUs of the host."),
        PrinterColumn("Memory", "string", ".status.capacity.allocatableMemory", "Memory that guests may get."),
        PrinterColumn("Version", "string", ".status.version", "Version of the hypervisor."),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
        PrinterColumn("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", "Why.", priority=1),
    ),
)
