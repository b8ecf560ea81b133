"""What a hypervisor can be asked, as small protocols that QEMU, LXC, Xen, vSphere and the others can all keep.

A machine is known by its UID (metadata.uid of the VirtualMachine); ids of the hypervisor itself never leave a driver.
A driver holds no truth: what it says in `observe` it has just looked up, from the running hypervisor and from a small
durable record per machine, so a driver that was killed at any point and opened again says the same.

The verbs are idempotent: asking again for what is so already changes nothing and is no error. They return promptly;
what takes long (a guest that shuts down) is asked for, and then seen in `observe`. One machine's verbs are never called
at the same time by two tasks; those of different machines are, and a machine that hangs must not delay another.

::

                 define                start
      absent ───────────► STOPPED ───────────────► RUNNING
        ▲                  │  ▲                        │ shut_down (asked; the guest ends itself), power_off,
        └──── destroy ─────┘  └────────────────────────┘ or the guest ends, crashes, the host reboots

`destroy` is also allowed while RUNNING, and then ends the machine first, by force.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, Self, runtime_checkable

from virtplane_api.vocabulary import DiskType, ExitReason, PowerState
from virtplane_drivers.attachment import Attachment


@dataclass(frozen=True, slots=True)
class Owner:
    """On whose behalf a machine or a disk exists: which cluster, and under which placement."""

    cluster_id: str
    """metadata.uid of the cluster's kube-system namespace."""
    token: int
    """Of the placement; grows with each change of it."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processors that a guest sees."""

    cores: int
    model: str = "Host"
    """`Host`, or a model by the hypervisor's own name."""


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk of a guest."""

    name: str
    """DNS label, once per machine; the guest's address of the disk is derived from it."""
    attachment: Attachment
    type: DiskType = DiskType.DISK
    boot_order: int | None = None
    """The lowest boots first; None: not asked for."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a driver chose at the first start and must choose again, whatever its version then prefers."""

    machine_type: str | None = None
    cpu_model: str | None = None


@dataclass(frozen=True, slots=True)
class Desired:
    """A machine as it is to be defined: everything that its driver needs, and nothing of Kubernetes."""

    uid: str
    namespace: str
    name: str
    owner: Owner
    smbios_uuid: str
    """The identity that the guest sees; stable over re-creation of the name."""
    cpu: Cpu
    memory_mib: int
    disks: tuple[Disk, ...] = ()
    pinned: Pinned = field(default_factory=Pinned)
    """From the resource's status; a driver that has a record of its own prefers the record."""


@dataclass(frozen=True, slots=True)
class Effective:
    """What a defined machine is, where `Desired` leaves a choice."""

    cpu: Cpu
    memory_mib: int
    machine_type: str | None = None
    accelerator: str | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """The last time that a machine stopped running."""

    reason: ExitReason
    time: datetime
    """UTC."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """A machine as it was just seen."""

    power: PowerState | None
    """None: the hypervisor knows no such machine. UNKNOWN: it knows it, and got no answer (`message` says more)."""
    owner: Owner | None = None
    namespace: str = ""
    name: str = ""
    effective: Effective | None = None
    """What runs, or would run at the next start; None when absent."""
    started_at: datetime | None = None
    """UTC; when the running guest was started."""
    shut_down_asked_at: datetime | None = None
    """UTC; when the running guest was first asked to shut down. Survives a restart of the agent."""
    last_exit: Exit | None = None
    message: str = ""

    @property
    def exists(self) -> bool:
        """Whether anything of the machine is on this hypervisor."""
        return self.power is not None


ABSENT = Observed(power=None)


@dataclass(frozen=True, slots=True)
class Facts:
    """What an endpoint is and can do, asked once when the agent starts."""

    version: str
    cpu_cores: int
    memory_mib: int
    """Of the host."""
    allocatable_memory_mib: int
    """What guests may get of it."""
    attachments: frozenset[type[Attachment]]
    """The kinds of disk that it can attach."""
    capabilities: frozenset[str]
    """CamelCase words, published in Hypervisor.status.capabilities."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Capability -> why this host lacks it and what would bring it."""


class HypervisorDriver(AbstractAsyncContextManager["HypervisorDriver"], Protocol):
    """One hypervisor endpoint. Entered once: it then knows again what runs from before. Leaving ends no guest."""

    name: str
    """DNS label; Hypervisor.spec.driver."""

    async def __aenter__(self) -> Self: ...

    async def probe(self) -> Facts:
        """What the endpoint is and can do. Never changes anything.

        Raises:
            Unavailable: it cannot be reached.
        """
        ...

    async def inventory(self) -> tuple[str, ...]:
        """UIDs of all machines of ours that it knows, of whatever cluster, in no order."""
        ...

    async def observe(self, uid: str) -> Observed:
        """The machine as it is now. Never changes anything, never raises for a machine that hangs or is absent."""
        ...

    async def define(self, desired: Desired) -> None:
        """Make the machine known, or make `desired` what its next start uses. Does not touch what runs.

        Raises:
            Refused: the hypervisor cannot run such a machine; `reason` and the message say which part.
        """
        ...

    async def start(self, uid: str) -> None:
        """Run the defined machine; returns when the hypervisor runs it (not when the guest is up).

        Raises:
            LaunchFailed: the hypervisor refused it; the machine stays STOPPED.
            Unavailable: no room or no answer now.
        """
        ...

    async def power_off(self, uid: str) -> None:
        """End the guest at once, as by pulling the plug. Never asks it, and never loses the definition."""
        ...

    async def destroy(self, uid: str) -> None:
        """Leave nothing of the machine, running or not: no process, file, socket or record. Disks are not touched."""
        ...

    def events(self) -> AsyncIterator[str]:
        """UIDs of machines worth observing again, for ever. A hint, never a state; several may be merged into one."""
        ...


@runtime_checkable
class CanShutDown(Protocol):
    """A hypervisor that can ask a guest to shut down."""

    async def shut_down(self, uid: str) -> None:
        """Ask the guest to shut down, as by the ACPI power button. It may refuse; asking again is allowed."""
        ...


@runtime_checkable
class HasSerialLog(Protocol):
    """A hypervisor that keeps what the guest prints on its serial console."""

    async def serial_log(self, uid: str, max_bytes: int) -> bytes:
        """The last `max_bytes` of the console, over restarts; empty when there is none. The log itself is capped."""
        ...


CAPABILITIES: Mapping[str, type] = {"ShutDown": CanShutDown, "SerialConsole": HasSerialLog}
"""The name in Hypervisor.status.capabilities of each protocol that a driver may keep beyond `HypervisorDriver`."""
