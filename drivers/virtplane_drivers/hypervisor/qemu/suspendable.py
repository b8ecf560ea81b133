"""The half of a machine that writes its guest's memory to a disk, and what must not be lost with that memory.

A verb begins it, the worker finishes it: QEMU writes while the agent may come and go.
"""

import contextlib
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import DriverError, Refused, Unavailable
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.hypervisor.qemu import suspension
from virtplane_drivers.hypervisor.qemu.definition import Definition, NicStage
from virtplane_drivers.hypervisor.qemu.following import BETWEEN, FollowedMachine
from virtplane_drivers.hypervisor.qemu.monitor import MonitorError
from virtplane_drivers.hypervisor.qemu.record import Intent
from virtplane_drivers.hypervisor.qemu.run import Run


class SuspendableMachine(FollowedMachine):
    """One machine, with what there is of its guest's memory on a disk."""

    _suspend_failure = ""
    """Why the worker gave the last suspension up; told to the next verb."""

    async def _suspend(self) -> None:
        run, record = self._run, self.record
        if run is None or not run.is_alive or record.intent is Intent.SUSPENDED:
            return
        if self._suspend_failure:
            failure, self._suspend_failure = self._suspend_failure, ""
            raise self._not_suspended(failure)
        if record.running is None:
            raise self._not_suspended("the machine's record was lost; restart it once (spec.restartedAt)")
        if record.intent is not Intent.RUNNING:
            self._wake.set()
            return
        try:
            file = await in_thread(suspension.memory_file, record.running, record.uid, record.incarnation, self.folder)
            # An older one must not be taken for the one being written, should we be killed before that is whole.
            await in_thread(file.discard)
            if lacking := await in_thread(suspension.missing_space, record.running, file.path.parent):
                raise self._not_suspended(lacking)
        except (OSError, suspension.SuspensionError) as error:
            raise self._not_suspended(str(error)) from error
        await self._begin_to_suspend(run, file)
        try:
            await suspension.begin_to_write(await run.monitor(), file)
        except (MonitorError, OSError) as error:
            self._suspend_failure = str(error)
            await self._abandon_suspension()
        self._wake.set()

    async def _begin_to_suspend(self, run: Run, file: suspension.MemoryFile) -> None:
        """What wakes must have the very adapters that the memory speaks of: a held guest lets none go."""
        assert self.record.running is not None  # noqa: S101  # who calls looked
        if all(nic.stage is NicStage.PLUGGED for nic in self.record.running.nics):
            await self._write(intent=Intent.SUSPENDING, memory=str(file.path))
            return
        try:
            await run.command("stop")
            await self._settle_nics(run)
            await self._write(intent=Intent.SUSPENDING, memory=str(file.path))
        except (MonitorError, OSError, DriverError) as error:
            with contextlib.suppress(MonitorError):
                await self._resume()
            raise self._not_suspended(str(error)) from error

    def _not_suspended(self, why: str) -> Unavailable:
        return Unavailable(f"its memory cannot be written: {why}", reason=Reason.SUSPEND_FAILED, retry_after_s=30.0)

    async def _go_on_suspending(self, run: Run) -> None:
        """Whoever began it: look how far QEMU is, and finish."""
        if self.record.intent is Intent.WAKING:
            # A verb that wakes holds the lock: this one's agent was killed. The guest has not run; from the disk anew.
            await run.end()
            await self._conclude_if_dead()
            return
        if self.record.intent is Intent.SUSPENDING:
            file = suspension.MemoryFile(Path(self.record.memory))
            try:
                status, why = await suspension.progress(await run.monitor())
            except MonitorError:
                return
            if status in suspension.UNDER_WAY:
                return
            # Of a process that woke, or wrote its memory before, QEMU says "completed" still.
            if status == "none" or (status == "completed" and not await in_thread(file.is_begun)):
                # Killed before QEMU was told: nothing has failed, and it begins anew when it is asked for again.
                await self._abandon_suspension()
                return
            if status != "completed":
                self._suspend_failure = why or f"QEMU's migration is in state {status}"
                await self._abandon_suspension()
                return
            try:
                await in_thread(file.publish)
            except OSError as error:
                self._suspend_failure = str(error)
                await self._abandon_suspension()
                return
            await self._write(intent=Intent.SUSPENDED, shut_down_asked_at=None)
        if self.record.intent is Intent.SUSPENDED:
            await run.end()
            await self._conclude_if_dead()

    async def _abandon_suspension(self) -> None:
        """The guest runs on."""
        await self._write(intent=Intent.RUNNING)
        await self._resume()

    async def _resume(self) -> None:
        if self._run is not None and self._run.is_alive and self.record.intent not in BETWEEN:
            # First, as it fits no disk any more once the guest runs.
            await self._discard_memory()
            await self._run.command("cont")

    async def _refuse_if_memory_is_left(self, definition: Definition) -> None:
        left = await in_thread(suspension.left_over, definition, self.record.uid, self.folder)
        if left is not None:
            message = (
                f"a suspended memory of this machine, which no record knows, lies at {left}: booting would lose it"
            )
            raise Refused(f"{message}; remove the file to boot from the disk", reason=Reason.MEMORY_LEFT)
