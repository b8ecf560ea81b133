"""The half of a machine that acts on its guest without changing its state: whatever was done, it runs as before."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from virtplane_api.keys import KeyName
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DisplayType
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.hypervisor.contract import GuestCommand, GuestCommandResult
from virtplane_drivers.hypervisor.qemu import acts
from virtplane_drivers.hypervisor.qemu.following import BETWEEN
from virtplane_drivers.hypervisor.qemu.guest_commands import run_guest_command
from virtplane_drivers.hypervisor.qemu.launch import GUEST_AGENT, run_folder
from virtplane_drivers.hypervisor.qemu.monitor import CommandFailed
from virtplane_drivers.hypervisor.qemu.run import Run
from virtplane_drivers.hypervisor.qemu.run_states import Meaning, meaning_of
from virtplane_drivers.hypervisor.qemu.suspendable import SuspendableMachine

T = TypeVar("T")


_CHANNEL_TIMEOUT_S = 5.0
"""Of the command before: what was meant for now is not begun an hour later."""


class ReachableMachine(SuspendableMachine):
    """One machine, with the ways to its guest."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._commanding = asyncio.Lock()
        """A guest's agent has one channel."""

    async def reset(self) -> None:
        """Restart the guest at once."""
        await self._act_on_guest(acts.reset)

    async def inject_nmi(self) -> None:
        """Interrupt the guest."""
        await self._act_on_guest(acts.inject_nmi)

    async def send_keys(self, keys: Sequence[KeyName]) -> None:
        """Press keys together."""
        await self._act_on_guest(partial(acts.send_keys, keys=keys))

    async def screenshot(self, max_bytes: int) -> bytes:
        """The screen as PNG."""
        if self.record.running is not None and self.record.running.display is None:
            message = f"it has no display: set spec.display (type {DisplayType.VGA}) and restart it"
            await self._act_on_guest(_nothing)  # that it does not run is said first
            raise Refused(message, reason=Reason.NO_DISPLAY)
        return await self._act_on_guest(partial(acts.screenshot, max_bytes=max_bytes))

    async def run_guest_command(self, command: GuestCommand) -> GuestCommandResult:
        """Without the lock: however long the guest takes, verbs go on."""
        await self._act_on_guest(_nothing)
        if self.record.running is None or not self.record.running.guest_agent:
            message = "it was started without a port for a guest agent: restart it"
            raise Refused(message, reason=Reason.GUEST_AGENT_REFUSED)
        folder = run_folder(self._site.runtime_folder, self.record.uid, self.record.incarnation)
        try:
            async with asyncio.timeout(_CHANNEL_TIMEOUT_S):
                await self._commanding.acquire()
        except TimeoutError as error:
            message = "another command runs in the guest, whose agent has one channel: nothing was run"
            raise Unavailable(message, retry_after_s=_CHANNEL_TIMEOUT_S) from error
        try:
            return await run_guest_command(folder / GUEST_AGENT, command)
        finally:
            self._commanding.release()

    async def _act_on_guest(self, act: Callable[[Run], Awaitable[T]]) -> T:
        # Before it waits for its turn too: what was meant for the guest of now must not meet one that woke later.
        self._check_is_there()
        return await self._act(self._on_guest(act))

    def _check_is_there(self) -> Run:
        run = self._run
        if run is None or not run.is_alive:
            raise _not_running()
        if self.record.intent in BETWEEN:
            raise Unavailable("its memory is being written or read", reason=Reason.SUSPENDING, retry_after_s=1.0)
        return run

    async def _on_guest(self, act: Callable[[Run], Awaitable[T]]) -> T:
        run = self._check_is_there()
        if meaning_of(await run.state()) is Meaning.ENDED:
            raise _not_running()
        try:
            return await act(run)
        except CommandFailed as error:
            raise Refused(str(error), reason=Reason.ACT_REFUSED) from error


async def _nothing(_run: Run) -> None:
    """An act that only needs a guest."""


def _not_running() -> Refused:
    return Refused("the machine does not run", reason=Reason.NOT_RUNNING)
