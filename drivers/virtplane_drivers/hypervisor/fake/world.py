"""The machines of a fake host, and what happens to them without their driver."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ENDED_AS_ASKED, DisplayType, ExitReason, InterfaceModel, PowerState
from virtplane_drivers.attachment import FakeNicAttachment
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Effective, Exit, Nic, Owner
from virtplane_drivers.hypervisor.nics import nic_changes

MACHINE_TYPE = "fake-1"
ACCELERATOR = "none"
_MAX_SERIAL_BYTES = 64 * 1024


@dataclass(slots=True)
class Machine:
    """One machine: its definition, and its run while there is one."""

    namespace: str
    name: str
    owner: Owner
    defined: Effective
    defined_restarted_at: str = ""
    defined_nics: tuple[Nic, ...] = ()
    running: Effective | None = None
    running_nics: tuple[Nic, ...] = ()
    """Empty while nothing runs."""
    suspended: bool = False
    restarted_at: str | None = None
    restarts: int = 0
    ended_by_itself: bool = False
    started_at: datetime | None = None
    shut_down_asked_at: datetime | None = None
    last_exit: Exit | None = None
    hangs: bool = False
    paused: bool = False
    has_io_error: bool = False
    serial: bytes = b""

    @property
    def power(self) -> PowerState:
        """As a driver that gets answers sees it."""
        if self.suspended:
            return PowerState.SUSPENDED
        if self.running is None:
            return PowerState.STOPPED
        return PowerState.PAUSED if self.paused else PowerState.RUNNING

    @property
    def message(self) -> str:
        """Of a state that needs one."""
        if self.hangs:
            return "the fake machine was told to hang"
        return "no space is left for disk root" if self.has_io_error else ""


class World:
    """A host. With a `state_file` it outlives the process, as a real host's guests do."""

    def __init__(self, state_file: Path | None = None) -> None:
        self.machines: dict[str, Machine] = {}
        self.on_change: Callable[[str], None] = lambda _uid: None
        self._state_file = state_file
        if state_file is not None and state_file.exists():
            self.machines = {uid: _read(row) for uid, row in json.loads(state_file.read_text()).items()}

    def changed(self, uid: str) -> None:
        """Make the change durable, and tell the driver that is open."""
        self.save()
        self.on_change(uid)

    def save(self) -> None:
        """Write the state file, whole."""
        if self._state_file is None:
            return
        rows = {uid: _row(machine) for uid, machine in self.machines.items()}
        fresh = self._state_file.with_suffix(".new")
        fresh.write_text(json.dumps(rows))
        fresh.replace(self._state_file)

    def define(self, desired: Desired) -> None:
        """Make `desired` what the next start uses.

        Raises:
            Refused: a NIC of it cannot be joined here.
        """
        for nic in desired.nics:
            if not isinstance(nic.attachment, FakeNicAttachment):
                message = f"interface {nic.name}: a fake hypervisor joins fake networks only"
                raise Refused(message, reason=Reason.NIC_NOT_ATTACHABLE)
        pinned, old = desired.pinned, self.machines.get(desired.uid)
        model = pinned.cpu_model or "fake" if desired.cpu.model == "Host" else desired.cpu.model
        machine_type = old.defined.machine_type if old is not None else pinned.machine_type
        defined = Effective(
            cpu=Cpu(desired.cpu.cores, model),
            memory_mib=desired.memory_mib,
            machine_type=machine_type or MACHINE_TYPE,
            accelerator=ACCELERATOR,
            display=desired.display,
        )
        if old is None:
            old = self.machines[desired.uid] = Machine(desired.namespace, desired.name, desired.owner, defined)
        old.owner, old.defined, old.defined_restarted_at = desired.owner, defined, desired.restarted_at
        old.defined_nics = desired.nics
        self.save()

    def run(self, uid: str) -> None:
        """Start the defined machine, or let a suspended one go on."""
        machine = self.machines[uid]
        if machine.suspended:
            machine.suspended = False
            self.save()
            return
        machine.running, machine.started_at = machine.defined, datetime.now(UTC)
        machine.running_nics = machine.defined_nics
        machine.restarted_at = machine.defined_restarted_at
        machine.restarts += machine.ended_by_itself
        machine.ended_by_itself = False
        machine.shut_down_asked_at = None
        machine.serial = (machine.serial + b"fake guest: up\n")[-_MAX_SERIAL_BYTES:]
        self.save()

    def change_nics(self, uid: str, *, keeps: bool) -> None:
        """The run gets the adapters of the definition; a guest that keeps those that are to go gets no other there."""
        machine = self.machines[uid]
        has = {nic.name: nic for nic in machine.running_nics}
        changes = nic_changes(machine.running_nics, machine.defined_nics)
        for name in () if keeps else changes.unplug:
            del has[name]
        for nic in changes.plug:
            has.setdefault(nic.name, replace(nic, boot_order=None))
        for nic in changes.links:
            has[nic.name] = replace(has[nic.name], link_up=nic.link_up)
        if tuple(has.values()) != machine.running_nics:
            machine.running_nics = tuple(has.values())
            self.save()

    def cut_off(self, uid: str, name: str) -> None:
        """What the adapter was joined to ends."""
        machine = self.machines[uid]
        machine.running_nics = tuple(
            replace(nic, is_cut_off=nic.is_cut_off or nic.name == name) for nic in machine.running_nics
        )
        self.save()
        self.on_change(uid)

    def end(self, uid: str, reason: ExitReason, message: str = "") -> None:
        """The run ends, for whatever reason."""
        machine = self.machines.get(uid)
        if machine is None or machine.running is None:
            return
        machine.running = machine.started_at = machine.shut_down_asked_at = None
        machine.running_nics = ()
        machine.paused = machine.hangs = machine.suspended = machine.has_io_error = False
        machine.ended_by_itself = reason not in ENDED_AS_ASKED
        machine.last_exit = Exit(reason, datetime.now(UTC), message)
        self.changed(uid)

    # --- acts of guests and of fate -----------------------------------------------------------------------------------

    def guest_shuts_down(self, uid: str) -> None:
        """The guest powers itself off."""
        self.end(uid, ExitReason.GUEST_SHUTDOWN, "the guest shut itself down")

    def crash(self, uid: str) -> None:
        """The machine dies."""
        self.end(uid, ExitReason.CRASHED, "ended by signal 9")

    def hang(self, uid: str) -> None:
        """The machine does not answer, until `recover`."""
        self.machines[uid].hangs = True
        self.changed(uid)

    def recover(self, uid: str) -> None:
        """The machine answers again."""
        self.machines[uid].hangs = False
        self.changed(uid)

    def pause(self, uid: str) -> None:
        """Somebody pauses the machine."""
        self.machines[uid].paused = True
        self.changed(uid)

    def resume(self, uid: str) -> None:
        """Somebody lets the machine go on."""
        self.machines[uid].paused = False
        self.changed(uid)

    def suspend(self, uid: str) -> None:
        """The machine's memory is put away, and nothing runs any more."""
        self.machines[uid].suspended = True
        self.changed(uid)

    def fill_disk(self, uid: str) -> None:
        """A write fails for lack of space, and the hypervisor holds the guest."""
        self.machines[uid].has_io_error = True
        self.pause(uid)

    def free_disk(self, uid: str) -> None:
        """There is room again; nobody is told."""
        self.machines[uid].has_io_error = False
        self.save()


def _row(machine: Machine) -> dict[str, Any]:
    return {
        "namespace": machine.namespace,
        "name": machine.name,
        "cluster_id": machine.owner.cluster_id,
        "token": machine.owner.token,
        "defined": _effective_row(machine.defined),
        "defined_nics": [_nic_row(nic) for nic in machine.defined_nics],
        "running": _effective_row(machine.running) if machine.running is not None else None,
        "running_nics": [_nic_row(nic) for nic in machine.running_nics],
        "suspended": machine.suspended,
        "paused": machine.paused,
        "restarted_at": machine.restarted_at,
        "restarts": machine.restarts,
        "ended_by_itself": machine.ended_by_itself,
        "started_at": machine.started_at.isoformat() if machine.started_at else None,
        "last_exit": [machine.last_exit.reason, machine.last_exit.time.isoformat(), machine.last_exit.message]
        if machine.last_exit
        else None,
    }


def _read(row: dict[str, Any]) -> Machine:
    last = row["last_exit"]
    return Machine(
        namespace=row["namespace"],
        name=row["name"],
        owner=Owner(row["cluster_id"], row["token"]),
        defined=_effective(row["defined"]),
        defined_nics=tuple(_nic(nic) for nic in row.get("defined_nics", ())),
        running=_effective(row["running"]) if row["running"] else None,
        running_nics=tuple(_nic(nic) for nic in row.get("running_nics", ())),
        suspended=row["suspended"],
        paused=row["paused"],
        restarted_at=row["restarted_at"],
        restarts=row["restarts"],
        ended_by_itself=row["ended_by_itself"],
        started_at=datetime.fromisoformat(row["started_at"]) if row["started_at"] else None,
        last_exit=Exit(ExitReason(last[0]), datetime.fromisoformat(last[1]), last[2]) if last else None,
    )


def _effective_row(effective: Effective) -> list[Any]:
    cpu = effective.cpu
    return [cpu.cores, cpu.model, effective.memory_mib, effective.machine_type, effective.display]


def _effective(row: list[Any]) -> Effective:
    cores, model, memory_mib, machine_type, display = row
    display = DisplayType(display) if display else None
    return Effective(Cpu(cores, model), memory_mib, machine_type, ACCELERATOR, display)


def _nic_row(nic: Nic) -> list[Any]:
    joined = nic.attachment
    assert isinstance(joined, FakeNicAttachment)  # noqa: S101  # `define` refused others
    where = [joined.network_uid, *joined.port]
    return [nic.name, nic.mac, where, nic.mtu, nic.model, nic.queues, nic.boot_order, nic.link_up, nic.is_cut_off]


def _nic(row: list[Any]) -> Nic:
    name, mac, (network_uid, machine_uid, interface), mtu, model, queues, boot_order, *more = row
    attachment = FakeNicAttachment(network_uid, (machine_uid, interface))
    link_up, is_cut_off = more[:1] != [False], more[1:2] == [True]  # absent in a world from before
    return Nic(name, mac, attachment, mtu, InterfaceModel(model), queues, boot_order, link_up, is_cut_off)
