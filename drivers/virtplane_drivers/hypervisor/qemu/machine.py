"""One machine: its record, its process while it runs, its monitor, and the worker that follows its end.

::

    STOPPED ── start ──► STARTING ──(greeting)──► RUNNING ──(SHUTDOWN, death)──► the worker writes the exit ──► STOPPED
                            └──(process ends)──► LaunchFailed, STOPPED

Events are hints: the reader only queues them, and the worker asks QEMU before it acts. Whatever ends the process, its
exit is written once, by `_conclude`. A process that is paused in state `shutdown` has ended for its guest: its exit is
written, then the process is asked to quit.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import LaunchFailed, Refused, Unavailable, Unresponsive
from virtplane_drivers.hypervisor.contract import Observed
from virtplane_drivers.hypervisor.qemu.cgroup import Hierarchies
from virtplane_drivers.hypervisor.qemu.exits import Death, exit_of, is_same_boot
from virtplane_drivers.hypervisor.qemu.launch import MONITOR, clear_runs, launch, run_folder
from virtplane_drivers.hypervisor.qemu.monitor import Monitor, MonitorClosed, MonitorError, connect
from virtplane_drivers.hypervisor.qemu.monitor.wire import Message
from virtplane_drivers.hypervisor.qemu.output import last_output
from virtplane_drivers.hypervisor.qemu.process import GuestProcess, ProcessIdentity, find, watch_child
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records

_log = logging.getLogger(__name__)

GREETING_TIMEOUT_S = 30.0
"""Of a start: a busy host takes its time, and a process that ends is noticed at once."""
ANSWER_TIMEOUT_S = 4.0
"""After this a machine is shown as Unknown; nothing is done to it for that."""
QUIT_TIMEOUT_S = 3.0
DEATH_TIMEOUT_S = 5.0

_RUNNING_STATES = frozenset({"running", "prelaunch", "inmigrate", "postmigrate", "restore-vm", "finish-migrate"})
_ENDED_STATE = "shutdown"


class Machine:
    """Verbs of one machine, called one at a time, and observations, at any time."""

    def __init__(
        self,
        record: Record,
        records: Records,
        runtime_folder: Path,
        hierarchies: Hierarchies,
        on_change: Callable[[str], None],
    ) -> None:
        self.record = record
        self._records = records
        self._runtime_folder = runtime_folder
        self._hierarchies = hierarchies
        self._on_change = on_change
        self._process: GuestProcess | None = None
        self._monitor: Monitor | None = None
        self._connecting = asyncio.Lock()
        self._monitor_closed = asyncio.Event()
        self._acting = asyncio.Lock()
        """Held by a verb, and by the worker while it concludes: one writer of the record at a time."""
        self._acts: set[asyncio.Task[None]] = set()
        self._worker: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._shutdown_cause = ""

    @property
    def folder(self) -> Path:
        """Its record and its logs."""
        return self._records.machine_folder(self.record.uid)

    # --- observe ------------------------------------------------------------------------------------------------------

    async def observe(self) -> Observed:
        """What QEMU says now, or that it says nothing."""
        if self._process is not None and not self._process.is_alive:
            # It died a moment ago: with its exit, or not yet seen at all, but never stopped for the reason of before.
            async with self._acting:
                await self._conclude_if_dead()
        record, process = self.record, self._process
        definition = record.definition if process is None else record.running
        observed = Observed(
            power=PowerState.STOPPED,
            owner=record.owner,
            namespace=record.namespace,
            name=record.name,
            effective=definition.effective if definition is not None else None,
            last_exit=record.last_exit,
        )
        if process is None or not process.is_alive:
            return observed
        observed = replace(observed, started_at=record.started_at, shut_down_asked_at=record.shut_down_asked_at)
        try:
            state = await self._state()
        except (MonitorError, OSError) as error:
            if not process.is_alive:
                return replace(observed, power=PowerState.STOPPED)
            return replace(observed, power=PowerState.UNKNOWN, message=f"QEMU (pid {process.identity.pid}): {error}")
        if state in _RUNNING_STATES:
            return replace(observed, power=PowerState.RUNNING)
        if state == _ENDED_STATE:
            # The worker writes the exit and lets QEMU quit; until then the run is not over.
            self._wake.set()
            return replace(observed, power=PowerState.RUNNING)
        return replace(observed, power=PowerState.PAUSED, message=f"QEMU is in state {state}")

    async def _state(self) -> str:
        monitor = await self._open_monitor(ANSWER_TIMEOUT_S)
        status = await monitor.execute("query-status", timeout_s=ANSWER_TIMEOUT_S)
        return str(status["status"])

    async def _open_monitor(self, timeout_s: float) -> Monitor:
        async with self._connecting:
            if self._monitor is None or not self._monitor.is_open:
                path = run_folder(self._runtime_folder, self.record.uid, self.record.incarnation) / MONITOR
                self._monitor_closed.clear()
                self._monitor = await connect(path, on_event=self._heard, on_close=self._lost, timeout_s=timeout_s)
            return self._monitor

    # --- verbs --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run the machine, unless it runs. See the contract."""
        await self._act(self._start())

    async def shut_down(self) -> None:
        """Ask the guest; when it was first asked is kept over restarts of ours."""
        await self._act(self._shut_down())

    async def power_off(self) -> None:
        """End the process: QEMU is asked first, as it may have writes to finish; then it is killed."""
        await self._act(self._power_off())

    async def destroy(self) -> None:
        """End the process, then remove every file."""
        await self._act(self._destroy())

    async def define(self, change: Callable[[Record], Record]) -> None:
        """Write a changed record; `change` gets the one of that moment."""
        await self._act(self._define(change))

    async def leave(self) -> None:
        """Stop watching; what runs, runs on, and what is being done is finished first."""
        if self._acts:
            await asyncio.wait(self._acts)
        await self._stop_following()

    async def _act(self, act: Coroutine[Any, Any, None]) -> None:
        """Do it to its end, also when the caller is cancelled: a process half started would be one nobody knows of."""

        async def locked() -> None:
            async with self._acting:
                await act

        task = asyncio.create_task(locked(), name=f"verb of machine {self.record.uid}")
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)
        await asyncio.shield(task)

    async def _start(self) -> None:
        if self._process is not None and self._process.is_alive:
            return
        await self._conclude_if_dead()
        record = self.record
        if record.definition is None:
            raise Refused(f"machine {record.uid} is not defined", reason="NotDefined")
        await self._write(
            replace(
                record,
                intent=Intent.STARTING,
                running=record.definition,
                incarnation=uuid.uuid4().hex[:8],
                process=None,
                started_at=None,
                shut_down_asked_at=None,
            )
        )
        try:
            launched = await asyncio.to_thread(launch, self.record, self._runtime_folder, self.folder)
        except OSError as error:
            await self._write(replace(self.record, intent=Intent.STOPPED))
            raise Unavailable(
                f"QEMU cannot be started: {error}", reason="QemuNotStarted", retry_after_s=30.0
            ) from error
        process = watch_child(launched.child)
        self._hierarchies.put(record.uid, process.identity.pid)
        self._follow(process)
        await self._write(
            replace(self.record, intent=Intent.RUNNING, process=process.identity, started_at=datetime.now(UTC))
        )
        await self._greet(process, launched.argv)

    async def _greet(self, process: GuestProcess, argv: tuple[str, ...]) -> None:
        """Wait until QEMU runs the guest, or has said why not."""
        try:
            await self._open_monitor(GREETING_TIMEOUT_S)
        except (MonitorError, OSError) as error:
            if not await process.wait(1.0):
                # It lives: what it does is seen in `observe`.
                raise Unresponsive(f"QEMU started and does not answer: {error}") from error
            output = last_output(self.folder)
            await self._write(replace(self.record, intent=Intent.STOPPED, process=None, started_at=None))
            self._unfollow()
            raise LaunchFailed(
                f"QEMU refused the machine: {output or error}",
                argv=argv,
                exit_status=process.exit_status,
                last_output=output,
            ) from error

    async def _shut_down(self) -> None:
        if self._process is None or not self._process.is_alive:
            return
        if self.record.shut_down_asked_at is None:
            await self._write(replace(self.record, shut_down_asked_at=datetime.now(UTC)))
        try:
            monitor = await self._open_monitor(ANSWER_TIMEOUT_S)
            await monitor.execute("system_powerdown", timeout_s=ANSWER_TIMEOUT_S)
        except (MonitorError, OSError) as error:
            raise Unresponsive(f"the guest cannot be asked to shut down: {error}") from error

    async def _power_off(self) -> None:
        process = self._process
        if process is None:
            return
        if process.is_alive:
            if self.record.intent is not Intent.STOPPED:  # else the guest has ended already, and its exit is written
                await self._write(replace(self.record, intent=Intent.POWERING_OFF))
            await self._quit(process)
        await self._conclude_if_dead()

    async def _quit(self, process: GuestProcess) -> None:
        with contextlib.suppress(MonitorError, OSError):
            monitor = await self._open_monitor(QUIT_TIMEOUT_S)
            await monitor.execute("quit", timeout_s=QUIT_TIMEOUT_S)
        if await process.wait(QUIT_TIMEOUT_S if self._monitor is not None else 0.0):
            return
        process.kill()
        if not await process.wait(DEATH_TIMEOUT_S):
            message = f"QEMU (pid {process.identity.pid}) does not die: it waits for a device of the host"
            raise Unavailable(message, reason="ProcessStuck", retry_after_s=10.0)

    async def _destroy(self) -> None:
        await self._power_off()
        await self._stop_following()
        uid = self.record.uid
        await asyncio.to_thread(clear_runs, self._runtime_folder, uid)
        await asyncio.to_thread(self._records.remove, uid)
        self._hierarchies.remove(uid)

    async def _define(self, change: Callable[[Record], Record]) -> None:
        await self._write(change(self.record))

    # --- a run and its end --------------------------------------------------------------------------------------------

    async def adopt(self, found: ProcessIdentity | None) -> None:
        """Know again what runs from before; what has ended meanwhile gets its exit.

        `found` is the process that says to be this record's run, for a record that was not finished.
        """
        record = self.record
        identity = record.process or found
        process = find(identity) if identity is not None else None
        if process is not None:
            self._follow(process)
            if record.process is None:
                await self._write(
                    replace(record, intent=Intent.RUNNING, process=process.identity, started_at=datetime.now(UTC))
                )
            self._hierarchies.put(record.uid, process.identity.pid)
            self._wake.set()
        elif record.intent is not Intent.STOPPED:
            await self._conclude()

    async def _stop_following(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        self._unfollow()

    def _follow(self, process: GuestProcess) -> None:
        self._process = process
        self._shutdown_cause = ""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name=f"machine {self.record.uid}")

    def _unfollow(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        if self._process is not None:
            self._process.let_go()
            self._process = None

    def _heard(self, message: Message) -> None:
        """In the reader: note, and leave the rest to the worker."""
        if message["event"] == "SHUTDOWN":
            self._shutdown_cause = str(message.get("data", {}).get("reason", ""))
        self._wake.set()

    def _lost(self, _end: MonitorClosed) -> None:
        self._monitor_closed.set()
        self._wake.set()

    async def _work(self) -> None:
        """Follow one run after the other until cancelled."""
        while True:
            process = self._process
            waits = [asyncio.create_task(self._wake.wait())]
            if process is not None:
                waits.append(asyncio.create_task(process.dead.wait()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            self._wake.clear()
            try:
                async with self._acting:
                    await self._conclude_if_dead()
                    await self._let_quit_if_ended()
            except Exception:  # noqa: BLE001  # this machine is looked at again; the others never notice
                _log.exception("machine %s: following its run failed", self.record.uid)
                await asyncio.sleep(1.0)
            self._on_change(self.record.uid)

    async def _let_quit_if_ended(self) -> None:
        """A QEMU that is paused in state `shutdown`: its guest is gone, the exit is written, then it may go too."""
        process = self._process
        if process is None or not process.is_alive or self.record.intent is not Intent.RUNNING:
            return
        try:
            if await self._state() != _ENDED_STATE:
                return
        except (MonitorError, OSError):
            return
        death = Death(datetime.now(UTC), self._shutdown_cause or "guest-shutdown")
        await self._write(
            replace(self.record, intent=Intent.STOPPED, last_exit=exit_of(self.record, death), started_at=None)
        )
        await self._quit(process)
        await self._conclude_if_dead()

    async def _conclude_if_dead(self) -> None:
        if self._process is not None and not self._process.is_alive:
            await self._conclude()

    async def _conclude(self) -> None:
        """Write why the run is over, once; then forget the process."""
        process, record = self._process, self.record
        if process is not None and self._monitor is not None:
            await self._drain()
        if record.intent is Intent.STARTING and process is None:
            # Killed between the intent and the act: the start never happened.
            await self._write(replace(record, intent=Intent.STOPPED))
        elif record.intent is not Intent.STOPPED:
            death = Death(
                datetime.now(UTC),
                self._shutdown_cause,
                exit_status=process.exit_status if process is not None else None,
                last_output=last_output(self.folder),
                same_boot=is_same_boot(record),
            )
            await self._write(
                replace(record, intent=Intent.STOPPED, process=None, started_at=None, last_exit=exit_of(record, death))
            )
        self._unfollow()
        await asyncio.to_thread(clear_runs, self._runtime_folder, record.uid)
        self._hierarchies.remove(record.uid)

    async def _drain(self) -> None:
        """The last events may still be in the socket when the kernel tells of the death: read until its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._monitor_closed.wait()

    async def _write(self, record: Record) -> None:
        await asyncio.to_thread(self._records.write, record)
        self.record = record
