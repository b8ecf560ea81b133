"""A machine's record, and the worker that follows its runs to their ends.

Events are hints: the reader only queues them, and the worker asks QEMU before it acts. Whatever ends the process, its
exit is written once, by `_conclude`. A process that is paused in a state such as `shutdown` has ended for its guest:
its exit is written, then the process is asked to quit.
"""

import abc
import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ENDED_AS_ASKED
from virtplane_drivers.errors import DriverError, Unavailable, Unresponsive
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.cgroup import Groups
from virtplane_drivers.host.process import GuestProcess, ProcessIdentity, find
from virtplane_drivers.hypervisor.qemu.exits import Death, exit_of, is_same_boot
from virtplane_drivers.hypervisor.qemu.launch import MONITOR, LaunchSite, clear_runs, run_folder
from virtplane_drivers.hypervisor.qemu.limits import limits_of
from virtplane_drivers.hypervisor.qemu.monitor import MonitorError
from virtplane_drivers.hypervisor.qemu.output import last_output
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records
from virtplane_drivers.hypervisor.qemu.run import Run
from virtplane_drivers.hypervisor.qemu.run_states import END_CAUSES
from virtplane_drivers.hypervisor.qemu.suspension import MemoryFile

T = TypeVar("T")

_log = logging.getLogger(__name__)

ACT_TIMEOUT_S = 60.0
"""Longer takes only what a disk delays; its caller is told, and the act goes on to its end."""
_LEAVE_TIMEOUT_S = 5.0
"""An act that lasts longer is left as it is: the next driver goes on with it, as after a kill."""

BETWEEN = frozenset({Intent.SUSPENDING, Intent.SUSPENDED, Intent.WAKING})
"""While a process of such a machine lives, its states are steps of ours on the way, and not shown."""


class FollowedMachine(abc.ABC):
    """One machine, with its run while there is one."""

    def __init__(
        self,
        record: Record,
        records: Records,
        site: LaunchSite,
        groups: Groups,
        on_change: Callable[[str], None],
    ) -> None:
        self.record = record
        self._records = records
        self._site = site
        self._groups = groups
        self._on_change = on_change
        self._run: Run | None = None
        self._acting = asyncio.Lock()
        """Held by a verb, and by the worker while it concludes: one writer of the record at a time."""
        self._acts: set[asyncio.Task[Any]] = set()
        self._found: ProcessIdentity | None = None
        self._is_adopted = True
        """Not of one from before whose end, or whose leftovers, could not be looked at yet."""
        self._overdue: asyncio.Task[Any] | None = None
        """The act that its caller gave up waiting for."""
        self._worker: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._news = False

    @property
    def folder(self) -> Path:
        """Its record and its logs."""
        return self._records.machine_folder(self.record.uid)

    async def adopt(self, found: ProcessIdentity | None) -> None:
        """Know again what runs from before; what has ended meanwhile gets its exit. No verb is served before.

        `found` is the process that says to be this record's run, for a record that was not finished.

        Raises:
            Unavailable: a file cannot be used, or not in time; the next verb, or look, tries again.
        """
        self._found = found
        self._is_adopted = False
        await self._act(_nothing())

    async def _adopt_once(self) -> None:
        if not self._is_adopted:
            await self._adopt(self._found)
            self._is_adopted = True

    async def _adopt(self, found: ProcessIdentity | None) -> None:
        record = self.record
        if self._run is not None:  # of an attempt that failed later
            await self._finish_adoption()
            return
        identity = record.process or found
        process = find(identity) if identity is not None else None
        if process is not None:
            self._follow(process)
            await self._finish_adoption()
        elif record.intent not in (Intent.STOPPED, Intent.SUSPENDED):
            await self._conclude()
        else:  # whoever wrote that it is over may have ended before its process did, or right after
            await self._clear_away()

    async def _finish_adoption(self) -> None:
        """Of a process that is followed."""
        assert self._run is not None  # noqa: S101  # who calls looked
        record, identity = self.record, self._run.process.identity
        if record.intent is Intent.RUNNING:
            await self._discard_memory()
        if record.process is None:
            intent = record.intent if record.intent in BETWEEN else Intent.RUNNING
            await self._write(intent=intent, process=identity, started_at=datetime.now(UTC))
        if record.running is not None:
            await self._groups.put(record.uid, identity.pid, limits_of(record.running))
        self._wake.set()

    def _adopt_again(self) -> None:
        """Beside a look, when nothing else is on its way there."""
        if not self._acts:
            again = asyncio.create_task(self._act(_nothing()), name=f"adopt machine {self.record.uid}")
            again.add_done_callback(log_failure)

    async def leave(self) -> None:
        """Stop watching; what runs, runs on, and what is being done is finished first."""
        if self._acts:
            # What waits for a file system that hangs is left to the end of the program: its guest does not notice.
            await asyncio.wait(self._acts, timeout=_LEAVE_TIMEOUT_S)
        await self._stop_following()

    async def _act(self, act: Coroutine[Any, Any, T]) -> T:
        """Do it to its end, also when the caller is cancelled: a process half started would be one nobody knows of."""

        begun = False

        async def locked() -> T:
            nonlocal begun
            async with self._acting:
                begun = True
                try:
                    await self._adopt_once()
                    return await act
                except OSError as error:
                    message = f"the host's files cannot be used: {error}"
                    raise Unavailable(message, reason=Reason.STORAGE_ERROR, retry_after_s=10.0) from error
                except MonitorError as error:
                    raise Unresponsive(str(error)) from error
                finally:
                    act.close()  # where the adoption before it failed, it never began

        if self._overdue is not None and not self._overdue.done():
            act.close()
            raise self._still_at_it()
        task = asyncio.create_task(locked(), name=f"verb of machine {self.record.uid}")
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)
        try:
            async with asyncio.timeout(ACT_TIMEOUT_S):
                return await asyncio.shield(task)
        except TimeoutError as error:
            if task.done():
                raise
            if not begun:
                task.cancel()
                message = "something else is being done with it, and takes long: nothing was done"
                raise Unavailable(message, retry_after_s=10.0) from error
            self._overdue = task
            task.add_done_callback(self._late)
            raise self._still_at_it() from error
        except asyncio.CancelledError:
            if not begun:
                task.cancel()  # an old wish must not come true some time later
            raise
        finally:
            if not begun:
                act.close()

    def _late(self, act: "asyncio.Task[Any]") -> None:
        if not act.cancelled() and (error := act.exception()) is not None:
            _log.warning("machine %s: what took so long failed: %s", self.record.uid, error)
        self._on_change(self.record.uid)

    def _still_at_it(self) -> Unavailable:
        message = f"what was last asked of it is not done after {ACT_TIMEOUT_S:g} s: its storage is slow, or hangs"
        return Unavailable(message, retry_after_s=10.0)

    @abc.abstractmethod
    async def _go_on_suspending(self, run: Run) -> None:
        """Look how far a suspension is, and finish it; called by the worker, under the lock."""

    @abc.abstractmethod
    async def _settle_nics(self, run: Run) -> None:
        """Look what became of adapters that were about to come or go; called by the worker, under the lock."""

    async def _stop_following(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        self._unfollow()

    def _follow(self, process: GuestProcess) -> None:
        socket_path = run_folder(self._site.runtime_folder, self.record.uid, self.record.incarnation) / MONITOR
        self._run = Run(process, socket_path, self._heard)
        self._wake.set()  # a worker that waits without a run would not notice this one's death
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name=f"machine {self.record.uid}")

    def _heard(self) -> None:
        """QEMU or the kernel said something."""
        self._news = True
        self._wake.set()

    def _unfollow(self) -> None:
        if self._run is not None:
            self._run.let_go()
            self._run = None

    async def _work(self) -> None:
        """Follow one run after the other until cancelled."""
        while True:
            waits = [asyncio.create_task(self._wake.wait())]
            if self._run is not None:
                waits.append(asyncio.create_task(self._run.process.dead.wait()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            self._wake.clear()
            before = self.record
            try:
                async with self._acting:
                    await self._conclude_if_dead()
                    if self._run is not None:
                        await self._let_quit_if_ended(self._run)
                    if self._run is not None:
                        await self._go_on_suspending(self._run)
                    if self._run is not None:
                        await self._settle_nics(self._run)
            except DriverError as error:
                _log.warning("machine %s: %s", self.record.uid, error)
                await asyncio.sleep(1.0)
            except Exception:  # noqa: BLE001  # this machine is looked at again; the others never notice
                _log.exception("machine %s: following its run failed", self.record.uid)
                await asyncio.sleep(1.0)
            if self._news or self.record is not before:
                # Only then: a hint brings a pass, which looks, which wakes this worker.
                self._news = False
                self._on_change(self.record.uid)

    async def _let_quit_if_ended(self, run: Run) -> None:
        """A QEMU that is paused as its guest is over: the exit is written, then it may go too."""
        if self.record.intent is Intent.RUNNING:
            try:
                state = await run.state()
            except MonitorError:
                return
            if state not in END_CAUSES:
                return
            # One that leaves on a signal passes through the same state, but has said so before.
            await self._write_exit(Death(datetime.now(UTC), run.cause or END_CAUSES[state]))
        # Also when the one who wrote the exit, or that it powers off, was killed then: a verb would hold the lock.
        if self.record.intent in (Intent.STOPPED, Intent.POWERING_OFF):
            await run.end()
            await self._conclude_if_dead()

    async def _conclude_if_dead(self) -> None:
        if self._run is not None and not self._run.is_alive:
            await self._run.drain()
            await self._conclude()

    async def _conclude(self) -> None:
        """Write why the run is over, once; then forget the process."""
        run, record = self._run, self.record
        intent = record.intent
        if intent is Intent.SUSPENDING and await in_thread(Path(record.memory).exists):
            intent = Intent.SUSPENDED
        match intent:
            case Intent.STOPPED:
                pass
            case Intent.STARTING if run is None:
                # Killed between the intent and the act: the start never happened.
                await self._write(intent=Intent.STOPPED)
            case Intent.WAKING | Intent.SUSPENDED:
                await self._write(intent=Intent.SUSPENDED, process=None, started_at=None)
            case _:
                death = Death(
                    datetime.now(UTC),
                    run.cause if run is not None else "",
                    exit_status=run.process.exit_status if run is not None else None,
                    last_output=last_output(self.folder),
                    same_boot=is_same_boot(record),
                )
                await self._write_exit(death)
        self._unfollow()
        await self._clear_away()

    async def _clear_away(self) -> None:
        """What a run leaves on the host; the machine has no process."""
        await asyncio.to_thread(clear_runs, self._site.runtime_folder, self.record.uid)
        await self._groups.remove(self.record.uid)

    async def _write_exit(self, death: Death) -> None:
        record = self.record
        last_exit = exit_of(record, death)
        await self._write(
            intent=Intent.STOPPED,
            process=None if self._run is None or not self._run.is_alive else record.process,
            started_at=None,
            last_exit=last_exit,
            ended_by_itself=last_exit.reason not in ENDED_AS_ASKED,
        )
        await self._discard_memory()

    async def _discard_memory(self) -> None:
        """The file first: a record without it would leave the guest's memory in the pool for ever."""
        if self.record.memory:
            await in_thread(MemoryFile(Path(self.record.memory)).discard)
            await self._write(memory="")

    async def _write(self, **changes: Any) -> None:
        record = replace(self.record, **changes)
        await self._records.run(self._records.write, record)
        self.record = record


async def _nothing() -> None:
    """What an adoption comes before."""


def log_failure(adoption: "asyncio.Task[None]") -> None:
    """Of one that failed or was late: its machine is Unknown, and each look and each verb tries again."""
    if not adoption.cancelled() and (error := adoption.exception()) is not None:
        _log.warning("%s: %s", adoption.get_name(), error)
