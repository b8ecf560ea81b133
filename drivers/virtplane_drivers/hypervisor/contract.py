"""What a hypervisor can be asked, as small protocols that QEMU, LXC, Xen, vSphere and the others can all keep.

A machine is known by its UID (metadata.uid of the VirtualMachine); ids of the hypervisor itself never leave a driver.
A driver holds no truth: what it says in `observe` it has just looked up, from the running hypervisor and from a small
durable record per machine, so a driver that was killed at any point and opened again says the same.

The verbs are idempotent: asking again for what is so already changes nothing and is no error. They return promptly;
what takes long (a guest that shuts down) is asked for, and then seen in `observe`. One machine's verbs are never called
at the same time by two tasks; those of different machines are, and a machine that hangs must not delay another.

Acts (`CanReset` to `CanRunGuestCommands`) are not idempotent: each call is one more, at any time beside a verb.

::

                 define                start                     pause
      absent ───────────► STOPPED ───────────────► RUNNING ◄──────────────► PAUSED (also by an I/O error)
        ▲                  │  ▲                     │ │  ▲       resume        │
        └──── destroy ─────┘  └─────────────────────┘ │  │                     │
                 shut_down (asked; the guest ends     │  └─ start ─┐           │
                 itself), power_off, or the guest     └─ suspend ─►SUSPENDED◄──┘
                 ends, crashes, the host reboots

`destroy` is allowed in every state, and ends the machine first, by force.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, Self, runtime_checkable

from virtplane_api.keys import KeyName
from virtplane_api.vocabulary import DiskType, DisplayType, ExitReason, InterfaceModel, PowerState
from virtplane_drivers.attachment import Attachment, NicAttachment


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
    claim_is_confirmed: bool = True
    """The disk was just seen to be given to this machine. Only then may it be taken from another that used it last."""


@dataclass(frozen=True, slots=True)
class Nic:
    """One network adapter of a guest."""

    name: str
    """DNS label, once per machine; the guest's address of the adapter is derived from it."""
    mac: str
    """Lower-case, with colons."""
    attachment: NicAttachment
    mtu: int = 1500
    model: InterfaceModel = InterfaceModel.VIRTIO
    queues: int = 1
    """Pairs of them; more than one of model virtio only."""
    boot_order: int | None = None
    """Among the disks' too, the lowest boots first; None: the guest is never booted from it."""
    link_up: bool = True
    """False: the guest sees an adapter without a carrier."""
    is_cut_off: bool = False
    """Of one that a guest has: what it was joined to has ended, and nothing that is sent by it arrives, until it is
    taken out and plugged anew."""


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
    nics: tuple[Nic, ...] = ()
    display: DisplayType | None = None
    """What the guest shows its screen on; None: it has none."""
    pinned: Pinned = field(default_factory=Pinned)
    """From the resource's status; a driver that has a record of its own prefers the record."""
    restarted_at: str = ""
    """An opaque word that a run keeps from its start, and `observe` gives back: which request for a restart the run
    answers. Without it a restart that was asked for once could happen twice."""


@dataclass(frozen=True, slots=True)
class Effective:
    """What a defined machine is, where `Desired` leaves a choice."""

    cpu: Cpu
    memory_mib: int
    machine_type: str | None = None
    accelerator: str | None = None
    display: DisplayType | None = None


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
    restarted_at: str | None = None
    """`Desired.restarted_at` of the present or the last run; None: not known (it never ran, or the record was lost)."""
    restarts: int = 0
    """How often the machine was started after it had ended by itself."""
    ended_by_itself: bool = False
    """Of a STOPPED machine: nobody asked for the end of its last run, nor for its being off since (`power_off`)."""
    has_io_error: bool = False
    """Of a PAUSED machine: the hypervisor paused it as a disk cannot be written; `message` says which."""
    nics: tuple[Nic, ...] = ()
    """Of one that runs or is SUSPENDED: the adapters that its guest has, one that is about to come or go included."""
    defined_nics: tuple[Nic, ...] = ()
    """What the next start uses."""
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
    nic_attachments: frozenset[type[NicAttachment]] = frozenset()
    """The kinds of network port that it can join."""


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

        A SUSPENDED one goes on where it was, with the definition of then.

        Raises:
            LaunchFailed: the hypervisor refused it; the machine stays STOPPED.
            StaleToken: a disk was used under a greater token; the machine stays STOPPED.
            Unavailable: no room or no answer now, or a disk is in use (DiskInUse).
        """
        ...

    async def power_off(self, uid: str) -> None:
        """End the guest at once, as by pulling the plug. Never asks it, and never loses the definition.

        Of a machine that is off: that is now as asked (`Observed.ended_by_itself` becomes False).
        """
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
        """Ask the guest to shut down, as by the ACPI power button. It may refuse; asking again is allowed.

        A PAUSED guest is resumed for it: it could not hear the question.
        """
        ...

    async def withdraw_shut_down(self, uid: str) -> None:
        """Forget that the guest was asked: an end of it is its own from now on, and the next request is a first one."""
        ...


@runtime_checkable
class CanPause(Protocol):
    """A hypervisor that can hold a guest, its memory in place."""

    async def pause(self, uid: str) -> None:
        """Hold the guest's processors."""
        ...

    async def resume(self, uid: str) -> None:
        """Let a PAUSED guest go on. One that still cannot write its disk pauses again."""
        ...


@runtime_checkable
class CanSuspend(Protocol):
    """A hypervisor that can put a guest's memory on a disk, and end its process."""

    async def suspend(self, uid: str) -> None:
        """Begin to suspend, or go on with it; SUSPENDED is seen in `observe` later. Until then it is RUNNING.

        Raises:
            Unavailable: it failed, for example as no space is left; the guest runs on.
        """
        ...


@runtime_checkable
class CanPlugNics(Protocol):
    """A hypervisor that gives adapters to a guest that runs, and takes them away."""

    async def change_nics(self, uid: str) -> None:
        """Make the adapters of a RUNNING or PAUSED machine those of its definition, as far as its guest lets them go.

        One that is cut off is taken out and plugged anew.

        Returns after some seconds at the most; what is left to be done is seen in `observe` (`nics`), and may be asked
        for again. A guest that lets an adapter go later is heard: `nics` is without it then. Of a machine that does not
        run: nothing is done.

        Raises:
            Unavailable: a port cannot be joined now, or the machine's memory is being written or read.
        """
        ...


@runtime_checkable
class HasSerialLog(Protocol):
    """A hypervisor that keeps what the guest prints on its serial console."""

    async def serial_log(self, uid: str, max_bytes: int) -> bytes:
        """The last `max_bytes` of the console, over restarts; empty when there is none. The log itself is capped."""
        ...


@runtime_checkable
class CanReset(Protocol):
    """A hypervisor that has a reset button."""

    async def reset(self, uid: str) -> None:
        """Restart the guest at once, as by the reset button: what it has not written is lost. The run is the same one.

        Raises:
            Refused: the machine does not run (NotRunning).
            Unavailable: it does not answer, or its memory is being written or read.
        """
        ...


@runtime_checkable
class CanInjectNmi(Protocol):
    """A hypervisor that can interrupt a guest that listens to nothing else."""

    async def inject_nmi(self, uid: str) -> None:
        """Give the guest's processors a non-maskable interrupt: its kernel writes a dump, or panics, as it is set up.

        Raises:
            Refused, Unavailable: as `CanReset.reset`.
        """
        ...


@runtime_checkable
class CanSendKeys(Protocol):
    """A hypervisor with a keyboard."""

    async def send_keys(self, uid: str, keys: Sequence[KeyName]) -> None:
        """Press the keys in their order, hold them together for a moment, and let go of them.

        Raises:
            Refused, Unavailable: as `CanReset.reset`.
        """
        ...


@runtime_checkable
class CanTakeScreenshots(Protocol):
    """A hypervisor that draws what a guest shows."""

    async def screenshot(self, uid: str, max_bytes: int) -> bytes:
        """The guest's screen as a PNG file.

        Raises:
            Refused: the machine does not run (NotRunning), has no display (NoDisplay), or it is larger (TooLarge).
            Unavailable: as `CanReset.reset`.
        """
        ...


@dataclass(frozen=True, slots=True)
class GuestCommand:
    """A program to run inside a guest. No shell is between, unless it is the program."""

    argv: tuple[str, ...]
    timeout_s: float
    max_output_bytes: int
    """Of each of stdout and stderr; what is more is cut off at the end."""
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class GuestCommandResult:
    """How a program in a guest ended, as the guest tells it."""

    exit_code: int | None
    signal: int | None
    """The signal or exception that ended it, instead of an exit code."""
    stdout: bytes = b""
    stderr: bytes = b""
    is_truncated: bool = False
    """Output is missing at the end of either."""


@runtime_checkable
class CanRunGuestCommands(Protocol):
    """A hypervisor that reaches an agent inside the guest (QEMU's guest agent, VMware Tools)."""

    async def run_guest_command(self, uid: str, command: GuestCommand) -> GuestCommandResult:
        """Run the program to its end. Verbs of the machine are not held up by it; a cancelled one runs on in the guest.

        Raises:
            Refused: the machine does not run (NotRunning), or the guest's agent refuses (GuestAgentRefused).
            Unavailable: no agent answers in the guest (GuestAgentSilent), nothing was run.
            GuestCommandLost: it may have run, and how it ended is not known.
        """
        ...


CAPABILITIES: Mapping[str, type] = {
    "GuestCommand": CanRunGuestCommands,
    "HotplugInterfaces": CanPlugNics,
    "InjectNMI": CanInjectNmi,
    "Pause": CanPause,
    "Reset": CanReset,
    "Screenshot": CanTakeScreenshots,
    "SendKeys": CanSendKeys,
    "SerialConsole": HasSerialLog,
    "ShutDown": CanShutDown,
    "Suspend": CanSuspend,
}
"""The name in Hypervisor.status.capabilities of each protocol that a driver may keep beyond `HypervisorDriver`."""
