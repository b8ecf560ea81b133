"""The QEMU driver: many machines, each with a record, a process and a monitor of its own."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from virtplane_api.keys import KeyName
from virtplane_api.reasons import Reason
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import Refused
from virtplane_drivers.hints import Hints
from virtplane_drivers.host.cgroup import Groups, Hierarchies, find_hierarchies
from virtplane_drivers.host.process import ProcessIdentity
from virtplane_drivers.host.users import Users, find_users, groups_for
from virtplane_drivers.hypervisor.contract import (
    ABSENT,
    Desired,
    Facts,
    GuestCommand,
    GuestCommandResult,
    HypervisorDriver,
    Observed,
)
from virtplane_drivers.hypervisor.qemu import host
from virtplane_drivers.hypervisor.qemu.definition import definition_of
from virtplane_drivers.hypervisor.qemu.following import log_failure
from virtplane_drivers.hypervisor.qemu.launch import LaunchSite
from virtplane_drivers.hypervisor.qemu.machine import Machine
from virtplane_drivers.hypervisor.qemu.output import cap_serial, read_serial
from virtplane_drivers.hypervisor.qemu.record import Record, Records
from virtplane_drivers.hypervisor.qemu.recovery import recover

SERIAL_LOG_MAX_BYTES = 1 << 20
_CAP_LOGS_EVERY_S = 5.0
_ADOPT_TIMEOUT_S = 15.0
_CAPABILITIES = (
    "GuestCommand",
    "HotplugInterfaces",
    "InjectNMI",
    "Pause",
    "Reset",
    "SendKeys",
    "SerialConsole",
    "ShutDown",
    "Suspend",
)


class QemuDriver(HypervisorDriver):
    """QEMU on this host. Guests are no children of ours in any sense that matters: they outlive this object."""

    name = "qemu"

    def __init__(
        self,
        state_folder: Path,
        runtime_folder: Path,
        *,
        accelerator: str = "auto",
        hypervisor: str = "this host",
        serial_log_max_bytes: int = SERIAL_LOG_MAX_BYTES,
    ) -> None:
        """`accelerator` is `kvm`, `tcg`, or `auto`: kvm where it runs a guest, else tcg.

        `hypervisor` is the name by which others know this endpoint: it stands in the locks of shared disks.
        """
        self._records = Records(state_folder)
        self._runtime_folder = runtime_folder
        self._hypervisor = hypervisor
        self._accelerator = accelerator
        self._serial_log_max_bytes = serial_log_max_bytes
        self._machines: dict[str, Machine] = {}
        self._hints = Hints()
        self._hierarchies = Hierarchies(())
        self._groups = Groups(self._hierarchies)
        self._users = Users(are_own=False)
        self._site = LaunchSite(runtime_folder, self._records.state_id, hypervisor)
        self._host: host.Host | None = None
        self._caretaker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._records.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._runtime_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._host = await host.look(self._accelerator)
        self._hierarchies = await asyncio.to_thread(find_hierarchies)
        self._groups = Groups(self._hierarchies)
        self._users = await asyncio.to_thread(find_users)
        if self._users.are_own:
            self._site = replace(self._site, groups=groups_for(self._host.accelerator))
        found = await asyncio.to_thread(recover, self._records, self._users)
        for uid, (record, _identity) in found.items():
            self._machines[uid] = self._machine(record)
        await self._adopt({uid: identity for uid, (_record, identity) in found.items()})
        self._caretaker = asyncio.create_task(self._cap_logs(), name="serial logs")
        return self

    async def _adopt(self, found: Mapping[str, ProcessIdentity | None]) -> None:
        """All at once, and no longer than is reasonable: a pool that hangs holds up its own machines only."""
        adoptions = [
            asyncio.create_task(self._machines[uid].adopt(identity), name=f"adoption of machine {uid}")
            for uid, identity in found.items()
        ]
        if adoptions:
            for adoption in adoptions:
                adoption.add_done_callback(log_failure)
            await asyncio.wait(adoptions, timeout=_ADOPT_TIMEOUT_S)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._caretaker is not None:
            self._caretaker.cancel()
            await asyncio.gather(self._caretaker, return_exceptions=True)
        await asyncio.gather(*(machine.leave() for machine in self._machines.values()))

    async def probe(self) -> Facts:
        """See the contract; looked up when the driver was entered."""
        looked, total_mib = self._looked, host.memory_mib()
        capabilities, missing = set(_CAPABILITIES), {}
        for name, why_not in (
            ("HardwareAcceleration", looked.no_acceleration_because),
            ("OwnCgroup", self._hierarchies.missing),
            ("OwnUser", self._users.missing),
            ("ResourceLimits", self._hierarchies.missing_limits),
            ("Screenshot", looked.no_screenshots_because),
        ):
            if why_not:
                missing[name] = why_not
            else:
                capabilities.add(name)
        return Facts(
            version=looked.version,
            cpu_cores=os.cpu_count() or 1,
            memory_mib=total_mib,
            allocatable_memory_mib=total_mib - host.kept_for_host_mib(total_mib),
            attachments=frozenset({FileAttachment}),
            nic_attachments=looked.nic_attachments,
            capabilities=frozenset(capabilities),
            missing=missing,
        )

    async def inventory(self) -> tuple[str, ...]:
        """UIDs of all machines that have a record."""
        return tuple(self._machines)

    async def observe(self, uid: str) -> Observed:
        """The machine as QEMU describes it now."""
        machine = self._machines.get(uid)
        return ABSENT if machine is None else await machine.observe()

    async def define(self, desired: Desired) -> None:
        """Write the record; the next start uses it."""
        machine = self._machines.get(desired.uid)
        definition = definition_of(
            desired,
            previous=machine.record.definition if machine is not None else None,
            running=machine.record.running if machine is not None else None,
            newest_machine_type=self._looked.newest_machine_type,
            accelerator=self._looked.accelerator,
            joinable=self._looked.nic_attachments,
        )
        if machine is None:
            fresh = Record(desired.uid, desired.namespace, desired.name, desired.owner, definition=definition)
            machine = self._machine(fresh)
        await machine.define(owner=desired.owner, definition=definition)
        machine.claims_are_confirmed = all(disk.claim_is_confirmed for disk in desired.disks)
        self._machines[desired.uid] = machine

    async def start(self, uid: str) -> None:
        """Run the machine; returns at QEMU's greeting."""
        await self._known(uid).start()

    async def power_off(self, uid: str) -> None:
        """End the machine's process."""
        machine = self._machines.get(uid)
        if machine is not None:
            await machine.power_off()

    async def shut_down(self, uid: str) -> None:
        """Press the ACPI power button (QMP `system_powerdown`)."""
        await self._known(uid).shut_down()

    async def withdraw_shut_down(self, uid: str) -> None:
        """Forget that the guest was asked."""
        await self._known(uid).withdraw_shut_down()

    async def pause(self, uid: str) -> None:
        """Hold the guest's processors (QMP `stop`)."""
        await self._known(uid).pause()

    async def resume(self, uid: str) -> None:
        """Let a paused guest go on (QMP `cont`)."""
        await self._known(uid).resume()

    async def change_nics(self, uid: str) -> None:
        """QMP `device_del`, `netdev_add`, `device_add`, `set_link`: the running machine gets what is defined."""
        await self._known(uid).change_nics()

    async def suspend(self, uid: str) -> None:
        """Write the guest's memory beside its first disk (QMP `migrate` to a descriptor), then end the process."""
        await self._known(uid).suspend()

    async def reset(self, uid: str) -> None:
        """Press the reset button (QMP `system_reset`)."""
        await self._known(uid).reset()

    async def inject_nmi(self, uid: str) -> None:
        """QMP `inject-nmi`."""
        await self._known(uid).inject_nmi()

    async def send_keys(self, uid: str, keys: Sequence[KeyName]) -> None:
        """QMP `send-key`."""
        await self._known(uid).send_keys(keys)

    async def screenshot(self, uid: str, max_bytes: int) -> bytes:
        """QMP `screendump`."""
        return await self._known(uid).screenshot(max_bytes)

    async def run_guest_command(self, uid: str, command: GuestCommand) -> GuestCommandResult:
        """The guest agent's `guest-exec`."""
        return await self._known(uid).run_guest_command(command)

    async def destroy(self, uid: str) -> None:
        """Leave nothing of the machine but its disks."""
        machine = self._machines.get(uid)
        if machine is not None:
            await machine.destroy()
            del self._machines[uid]

    def events(self) -> AsyncIterator[str]:
        """UIDs of machines of which QEMU, or the kernel, said something."""
        return aiter(self._hints)

    async def serial_log(self, uid: str, max_bytes: int) -> bytes:
        """The end of the machine's console."""
        machine = self._machines.get(uid)
        return b"" if machine is None else await asyncio.to_thread(read_serial, machine.folder, max_bytes)

    @property
    def _looked(self) -> host.Host:
        if self._host is None:
            raise RuntimeError("the driver was not entered")
        return self._host

    def _known(self, uid: str) -> Machine:
        machine = self._machines.get(uid)
        if machine is None:
            raise Refused(f"machine {uid} is not defined", reason=Reason.NOT_DEFINED)
        return machine

    def _machine(self, record: Record) -> Machine:
        return Machine(record, self._records, self._site, self._groups, self._choose_user, on_change=self._hints.add)

    def _choose_user(self, uid: str) -> int | None:
        others = (machine.record.user for machine in self._machines.values())
        return self._users.choose(uid, {user for user in others if user is not None})

    async def _cap_logs(self) -> None:
        while True:
            await asyncio.sleep(_CAP_LOGS_EVERY_S)
            for machine in list(self._machines.values()):
                await asyncio.to_thread(cap_serial, machine.folder, self._serial_log_max_bytes)
