"""The driver of a fake host."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from virtplane_api.keys import KeyName
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.attachment import FakeAttachment, FakeNicAttachment, FileAttachment
from virtplane_drivers.errors import Refused, Unresponsive
from virtplane_drivers.hints import Hints
from virtplane_drivers.hypervisor.contract import (
    ABSENT,
    CAPABILITIES,
    Desired,
    Facts,
    GuestCommand,
    GuestCommandResult,
    HypervisorDriver,
    Observed,
)
from virtplane_drivers.hypervisor.fake.faults import Faults
from virtplane_drivers.hypervisor.fake.world import Machine, World

_NAME = "fake"
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080000000"
    "03a7e9b550000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)
"""A PNG file."""


class FakeHypervisor(HypervisorDriver):
    """A hypervisor without guests. Give it a `world` to keep, or a `state_file` that keeps one over processes."""

    name = _NAME

    def __init__(
        self,
        world: World | None = None,
        *,
        state_file: Path | None = None,
        faults: Faults | None = None,
        cpu_cores: int = 64,
        memory_mib: int = 256 * 1024,
    ) -> None:
        self.world = world if world is not None else World(state_file)
        self.faults = faults if faults is not None else Faults()
        self._cpu_cores = cpu_cores
        self._memory_mib = memory_mib
        self._hints = Hints()
        self._shut_downs: dict[str, asyncio.TimerHandle] = {}

    async def __aenter__(self) -> Self:
        self.world.on_change = self._hint
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.world.on_change = lambda _uid: None
        for timer in self._shut_downs.values():
            timer.cancel()

    async def probe(self) -> Facts:
        """As large as it was made."""
        return Facts(
            version="1.0",
            cpu_cores=self._cpu_cores,
            memory_mib=self._memory_mib,
            allocatable_memory_mib=self._memory_mib,
            attachments=frozenset({FakeAttachment, FileAttachment}),
            nic_attachments=frozenset({FakeNicAttachment}),
            capabilities=frozenset(CAPABILITIES),
            missing={"HardwareAcceleration": "a fake hypervisor runs nothing"},
        )

    async def inventory(self) -> tuple[str, ...]:
        """UIDs of all machines."""
        return tuple(self.world.machines)

    async def observe(self, uid: str) -> Observed:
        """The machine as it is now."""
        machine = self.world.machines.get(uid)
        if machine is None:
            return ABSENT
        return Observed(
            power=PowerState.UNKNOWN if machine.hangs else machine.power,
            owner=machine.owner,
            namespace=machine.namespace,
            name=machine.name,
            effective=machine.running or machine.defined,
            started_at=machine.started_at,
            shut_down_asked_at=machine.shut_down_asked_at,
            restarted_at=machine.restarted_at,
            restarts=machine.restarts,
            ended_by_itself=machine.ended_by_itself,
            has_io_error=machine.has_io_error,
            nics=machine.running_nics,
            defined_nics=machine.defined_nics,
            last_exit=machine.last_exit,
            message=machine.message,
        )

    async def define(self, desired: Desired) -> None:
        """Make `desired` what the next start uses."""
        self.faults.meet("define", desired.uid)
        self.world.define(desired)

    async def start(self, uid: str) -> None:
        """Run the machine, after `faults.start_s`."""
        self.faults.meet("start", uid)
        self._known(uid)
        if self.faults.start_s:
            await asyncio.sleep(self.faults.start_s)
        if self._known(uid).power in (PowerState.STOPPED, PowerState.SUSPENDED):
            self.world.run(uid)

    async def power_off(self, uid: str) -> None:
        """End the run at once."""
        self.faults.meet("power_off", uid)
        self._forget_shut_down(uid)
        machine = self.world.machines.get(uid)
        asked = machine is not None and machine.shut_down_asked_at is not None
        self.world.end(uid, ExitReason.POWERED_OFF, "its grace period was over" if asked else "")
        if machine is not None and machine.ended_by_itself:
            machine.ended_by_itself = False
            self.world.save()

    async def pause(self, uid: str) -> None:
        """Hold the guest."""
        self.faults.meet("pause", uid)
        if self._known(uid).running is not None:
            self.world.pause(uid)

    async def resume(self, uid: str) -> None:
        """Let the guest go on, unless its disk is still full."""
        self.faults.meet("resume", uid)
        machine = self._known(uid)
        if machine.paused and not machine.has_io_error:
            self.world.resume(uid)

    async def suspend(self, uid: str) -> None:
        """Put the guest's memory away, at once."""
        self.faults.meet("suspend", uid)
        if self._known(uid).running is not None:
            self.world.suspend(uid)

    async def change_nics(self, uid: str) -> None:
        """At once, unless `faults.keeps_nics`."""
        self.faults.meet("change_nics", uid)
        machine = self._known(uid)
        if machine.hangs:
            raise Unresponsive("the fake machine was told to hang")
        if machine.running is not None and not machine.suspended:
            self.world.change_nics(uid, keeps=self.faults.keeps_nics)

    async def shut_down(self, uid: str) -> None:
        """Ask the guest; it ends after `faults.shut_down_s`."""
        self.faults.meet("shut_down", uid)
        machine = self._known(uid)
        if machine.hangs:
            raise Unresponsive("the fake machine was told to hang")
        if machine.running is None:
            return
        if machine.paused and not machine.has_io_error:
            self.world.resume(uid)
        if machine.shut_down_asked_at is None:
            machine.shut_down_asked_at = datetime.now(UTC)
        delay_s = self.faults.shut_down_s
        if delay_s is not None and uid not in self._shut_downs:
            loop = asyncio.get_running_loop()
            self._shut_downs[uid] = loop.call_later(delay_s, self._shuts_down, uid)

    async def withdraw_shut_down(self, uid: str) -> None:
        """Forget that the guest was asked."""
        self._forget_shut_down(uid)
        self._known(uid).shut_down_asked_at = None

    async def reset(self, uid: str) -> None:
        """The fake guest prints that it boots anew."""
        self._running("reset", uid).serial += b"fake guest: reset\n"

    async def inject_nmi(self, uid: str) -> None:
        """The fake guest prints that it was interrupted."""
        self._running("inject_nmi", uid).serial += b"fake guest: NMI\n"

    async def send_keys(self, uid: str, keys: Sequence[KeyName]) -> None:
        """The fake guest prints which."""
        self._running("send_keys", uid).serial += f"fake guest: keys {' '.join(keys)}\n".encode()

    async def screenshot(self, uid: str, max_bytes: int) -> bytes:
        """One grey pixel."""
        running = self._running("screenshot", uid).running
        if running is None or running.display is None:
            raise Refused("it has no display: set spec.display and restart it", reason=Reason.NO_DISPLAY)
        if len(_PIXEL) > max_bytes:
            raise Refused(f"the screen takes more than {max_bytes} bytes", reason=Reason.TOO_LARGE)
        return _PIXEL

    async def run_guest_command(self, uid: str, command: GuestCommand) -> GuestCommandResult:
        """The fake guest's one program prints its arguments and what it reads, unless `faults` say what comes of it."""
        self._running("run_guest_command", uid)
        output = " ".join(command.argv).encode() + b"\n" + command.stdin
        result = self.faults.guest_command or GuestCommandResult(exit_code=0, signal=None, stdout=output)
        stdout, stderr = (text[: command.max_output_bytes] for text in (result.stdout, result.stderr))
        is_cut = result.is_truncated or (stdout, stderr) != (result.stdout, result.stderr)
        return replace(result, stdout=stdout, stderr=stderr, is_truncated=is_cut)

    async def destroy(self, uid: str) -> None:
        """Forget the machine."""
        self.faults.meet("destroy", uid)
        self._forget_shut_down(uid)
        if self.world.machines.pop(uid, None) is not None:
            self.world.save()

    def events(self) -> AsyncIterator[str]:
        """UIDs of machines that changed by themselves."""
        return aiter(self._hints)

    async def serial_log(self, uid: str, max_bytes: int) -> bytes:
        """What the guest would have printed."""
        machine = self.world.machines.get(uid)
        return machine.serial[-max_bytes:] if machine is not None else b""

    def _known(self, uid: str) -> Machine:
        machine = self.world.machines.get(uid)
        if machine is None:
            raise Refused(f"machine {uid} is not defined", reason=Reason.NOT_DEFINED)
        return machine

    def _running(self, act: str, uid: str) -> Machine:
        self.faults.meet(act, uid)
        machine = self._known(uid)
        if machine.hangs:
            raise Unresponsive("the fake machine was told to hang")
        if machine.running is None or machine.suspended:
            raise Refused("the machine does not run", reason=Reason.NOT_RUNNING)
        return machine

    def _shuts_down(self, uid: str) -> None:
        self._shut_downs.pop(uid, None)
        self.world.end(uid, ExitReason.STOPPED)

    def _forget_shut_down(self, uid: str) -> None:
        timer = self._shut_downs.pop(uid, None)
        if timer is not None:
            timer.cancel()

    def _hint(self, uid: str) -> None:
        if not self.faults.lose_hints:
            self._hints.add(uid)
