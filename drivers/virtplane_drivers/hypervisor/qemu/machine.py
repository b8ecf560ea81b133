"""One machine: what is seen of it, and its verbs.

::

    STOPPED ── start ──► STARTING ──(greeting)──► RUNNING ──(its guest is over, death)──► exit written ──► STOPPED
                            └──(process ends)──► LaunchFailed, STOPPED
    RUNNING ── suspend ──► SUSPENDING ──(memory is on the disk)──► SUSPENDED
    SUSPENDED ── start ──► WAKING ──(memory is read)──► RUNNING
"""

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.errors import DriverError, LaunchFailed, Refused, Unavailable, Unresponsive
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.cgroup import Groups
from virtplane_drivers.host.process import watch_child
from virtplane_drivers.hypervisor.contract import Exit, Observed
from virtplane_drivers.hypervisor.qemu import suspension
from virtplane_drivers.hypervisor.qemu.following import BETWEEN
from virtplane_drivers.hypervisor.qemu.launch import Launched, LaunchSite, clear_runs, is_held, launch
from virtplane_drivers.hypervisor.qemu.limits import limits_of
from virtplane_drivers.hypervisor.qemu.monitor import MonitorError, MonitorTimeout
from virtplane_drivers.hypervisor.qemu.output import last_output
from virtplane_drivers.hypervisor.qemu.pluggable import PluggableMachine, nics_of
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records
from virtplane_drivers.hypervisor.qemu.run import ANSWER_TIMEOUT_S, Run
from virtplane_drivers.hypervisor.qemu.run_states import Meaning, meaning_of

_log = logging.getLogger(__name__)

GREETING_TIMEOUT_S = 30.0
"""Of a start: a busy host takes its time, and a process that ends is noticed at once."""
_EXIT_TIME_S = 1.0
"""From the end of QEMU's monitor to its process's; usually milliseconds."""


class Machine(PluggableMachine):
    """Verbs of one machine, called one at a time, and observations, at any time."""

    def __init__(
        self,
        record: Record,
        records: Records,
        site: LaunchSite,
        groups: Groups,
        choose_user: Callable[[str], int | None],
        on_change: Callable[[str], None],
    ) -> None:
        super().__init__(record, records, site, groups, on_change)
        self.claims_are_confirmed = False
        """Whether the disks of the next start were just seen to be given to this machine."""
        self._choose_user = choose_user
        self._concluding: asyncio.Task[None] | None = None

    # --- observe ------------------------------------------------------------------------------------------------------

    async def observe(self) -> Observed:
        """What QEMU says now, or that it says nothing."""
        while True:
            run = self._run
            if run is None and not self._is_adopted:
                self._adopt_again()
                return self._not_known("what became of its last run is not known yet: a file cannot be looked at")
            try:
                # It died a moment ago: never shown as off before its exit is known.
                if run is not None and not run.is_alive:
                    if not await self._is_concluded():
                        return self._not_known(
                            "QEMU ended, and how is not written down yet: its storage is slow, or hangs"
                        )
                    run = self._run
                if run is None:
                    return self._unless_overdue(self._at_rest(self.record))
                return await self._as_qemu_says(run, await run.state())
            except (MonitorError, OSError) as error:
                if run is None or not isinstance(error, MonitorError) or not await self._is_on_its_way_off(run, error):
                    where = f"QEMU (pid {run.process.identity.pid})" if run is not None else "its record"
                    return self._not_known(f"{where}: {error}")

    def _unless_overdue(self, seen: Observed) -> Observed:
        """A start that hangs may still start a process: nobody can say that the machine is off."""
        if self._overdue is None or self._overdue.done():
            return seen
        return replace(seen, power=PowerState.UNKNOWN, message=str(self._still_at_it()))

    async def _is_concluded(self) -> bool:
        """Whether a dead run could be concluded in time. It goes on all the same, once however often it is asked."""
        if self._concluding is None or self._concluding.done():
            self._concluding = asyncio.create_task(self._conclude_under_lock(), name=f"end of {self.record.uid}")
            self._acts.add(self._concluding)
            self._concluding.add_done_callback(self._acts.discard)
        done, _late = await asyncio.wait({self._concluding}, timeout=ANSWER_TIMEOUT_S)
        for conclusion in done:
            conclusion.result()
        return bool(done)

    async def _conclude_under_lock(self) -> None:
        async with self._acting:
            await self._conclude_if_dead()

    def _not_known(self, message: str) -> Observed:
        return replace(self._at_rest(self.record), **self._of_run(), power=PowerState.UNKNOWN, message=message)

    async def _is_on_its_way_off(self, run: Run, error: MonitorError) -> bool:
        """A QEMU that exits closes its monitor some time before the kernel calls it dead: no reason to show Unknown."""
        return not run.is_alive or (not isinstance(error, MonitorTimeout) and await run.process.wait(_EXIT_TIME_S))

    def _at_rest(self, record: Record) -> Observed:
        suspended = record.intent is Intent.SUSPENDED
        definition = record.running if suspended else record.definition
        return Observed(
            power=PowerState.SUSPENDED if suspended else PowerState.STOPPED,
            owner=record.owner,
            namespace=record.namespace,
            name=record.name,
            effective=definition.effective if definition is not None else None,
            restarted_at=record.running.restarted_at if record.running is not None else None,
            restarts=record.restarts,
            ended_by_itself=record.ended_by_itself,
            last_exit=record.last_exit,
            nics=nics_of(record.running) if suspended else (),
            defined_nics=nics_of(record.definition),
        )

    def _of_run(self) -> dict[str, Any]:
        record = self.record
        return {
            "effective": record.running.effective if record.running is not None else None,
            "started_at": record.started_at,
            "shut_down_asked_at": record.shut_down_asked_at,
            "nics": nics_of(record.running),
        }

    async def _as_qemu_says(self, run: Run, state: str) -> Observed:
        seen = replace(self._at_rest(self.record), **self._of_run(), power=PowerState.RUNNING)
        if self.record.intent in BETWEEN:
            self._wake.set()
            return replace(seen, message=f"{self.record.intent}")
        self._look_what_became_of_nics()
        seen = replace(seen, nics=await self._nics(run))
        match meaning_of(state):
            case Meaning.RUNS:
                return seen
            case Meaning.PAUSED:
                return replace(seen, power=PowerState.PAUSED, message=f"QEMU is in state {state}")
            case Meaning.HAS_IO_ERROR:
                return replace(seen, power=PowerState.PAUSED, has_io_error=True, message=await run.io_error())
            case Meaning.ENDED:
                # The worker writes the exit and lets QEMU quit; until then the run is not over.
                self._wake.set()
                return seen

    # --- verbs --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run the machine, unless it runs. See the contract."""
        await self._act(self._start())

    async def pause(self) -> None:
        """Hold the guest (QMP `stop`)."""
        await self._act(self._pause())

    async def resume(self) -> None:
        """Let the guest go on (QMP `cont`)."""
        await self._act(self._resume())

    async def suspend(self) -> None:
        """Begin to write the guest's memory, or go on with it."""
        await self._act(self._suspend())

    async def shut_down(self) -> None:
        """Ask the guest; when it was first asked is kept over restarts of ours."""
        await self._act(self._shut_down())

    async def withdraw_shut_down(self) -> None:
        """Forget that the guest was asked."""
        await self._act(self._write(shut_down_asked_at=None))

    async def power_off(self) -> None:
        """End the run, by force if need be."""
        await self._act(self._power_off())

    async def destroy(self) -> None:
        """End the run, then remove every file."""
        await self._act(self._destroy())

    async def define(self, **changes: Any) -> None:
        """Write changed fields of the record; the run is not touched."""
        await self._act(self._write(**changes))

    async def _start(self) -> None:
        if self._run is not None and self._run.is_alive:
            if self.record.intent not in BETWEEN:
                return
            await self._run.end()  # what was on the way to or from the disk begins anew from the disk
        await self._conclude_if_dead()
        record = self.record
        if record.intent is Intent.SUSPENDED:
            assert record.running is not None  # noqa: S101  # whose memory it is
            await self._start_process(Intent.WAKING, running=record.running.joined_as(record.definition))
        elif record.definition is None:
            raise Refused(f"machine {record.uid} is not defined", reason=Reason.NOT_DEFINED)
        else:
            await self._refuse_if_memory_is_left(record.definition)
            # One write: with a part of it only, a request for a restart could be taken for handled before it is.
            await self._start_process(
                Intent.STARTING,
                running=record.definition.begun(),
                shut_down_asked_at=None,
                ended_by_itself=False,
                restarts=record.restarts + record.ended_by_itself,
            )

    async def _start_process(self, intent: Intent, **changes: Any) -> None:
        """A process of a new incarnation: booting, or reading the memory that was written."""
        before = self.record
        chosen = self._choose_user(before.uid)
        user = before.user if before.user is not None and chosen is not None else chosen
        changes |= {"user": user, "intent": intent, "incarnation": uuid.uuid4().hex[:8]}
        await self._write(process=None, started_at=None, **changes)
        assert self.record.running is not None  # noqa: S101  # it is being started
        cgroups = await self._groups.prepare(before.uid, limits_of(self.record.running))
        try:
            launched = await in_thread(
                launch, self.record, self._site, self.folder, cgroups, claims_confirmed=self.claims_are_confirmed
            )
        except DriverError:
            await self._put_back(before)
            raise
        except OSError as error:
            await self._put_back(before)
            message = f"QEMU cannot be started: {error}"
            raise Unavailable(message, reason=Reason.QEMU_NOT_STARTED, retry_after_s=30.0) from error
        process = watch_child(launched.child)
        self._follow(process)
        waking = intent is Intent.WAKING
        await self._write(
            intent=Intent.WAKING if waking else Intent.RUNNING, process=process.identity, started_at=datetime.now(UTC)
        )
        try:
            await self._greet(launched)
            await self._groups.move(before.uid, process.identity.pid, cgroups)
            if self._run is not None:
                await self._until_joined(self._run)
            if waking:
                await self._read_memory(launched)
            elif self.record.definition is not None:
                await self._change_links(self.record.definition.nics)
                if is_held(self.record) and self._run is not None:
                    # Who is killed before this leaves a guest that is held, its cables out; the next one lets it go on.
                    await self._run.command("cont")
        except LaunchFailed:
            await self._put_back(before)
            self._unfollow()
            raise

    async def _put_back(self, before: Record) -> None:
        """As before a start that did not happen: also that the machine had ended by itself, and which run was last."""
        await self._write(
            intent=before.intent,
            running=before.running,
            process=None,
            started_at=None,
            ended_by_itself=before.ended_by_itself,
            restarts=before.restarts,
        )
        await self._clear_away()

    async def _greet(self, launched: Launched) -> None:
        """Wait until QEMU runs the guest, or has said why not."""
        run = self._run
        assert run is not None  # noqa: S101  # it was started just now
        try:
            await run.monitor(GREETING_TIMEOUT_S)
        except MonitorError as error:
            if not await run.process.wait(1.0):
                # It lives: what it does is seen in `observe`.
                raise Unresponsive(f"QEMU started and does not answer: {error}") from error
            raise self._launch_failed(launched, "QEMU refused the machine", str(error)) from error

    async def _read_memory(self, launched: Launched) -> None:
        run = self._run
        assert run is not None  # noqa: S101
        file = suspension.MemoryFile(Path(self.record.memory))
        try:
            await suspension.read(await run.monitor(), file)
        except (MonitorError, OSError, suspension.SuspensionError) as error:
            await run.end()
            hint = "; to give its memory up, set powerState Stopped with terminationGracePeriodSeconds 0"
            raise self._launch_failed(launched, "the suspended machine cannot go on", f"{error}{hint}") from error
        await self._write(intent=Intent.RUNNING)
        await self._resume()

    def _launch_failed(self, launched: Launched, what: str, why: str) -> LaunchFailed:
        output = last_output(self.folder)
        status = self._run.process.exit_status if self._run is not None else None
        message = f"{what}: {output or why}" if not output or output in why else f"{what}: {output}; {why}"
        return LaunchFailed(message, argv=launched.argv, exit_status=status, last_output=output)

    async def _pause(self) -> None:
        if self._run is not None and self._run.is_alive and self.record.intent not in BETWEEN:
            await self._run.command("stop")

    async def _shut_down(self) -> None:
        run = self._run
        if run is None or not run.is_alive:
            return
        if self.record.intent in BETWEEN:
            # The guest is held, and hears nothing; its time to shut down does not begin before it does.
            raise Unavailable("its memory is being written or read", reason=Reason.SUSPENDING, retry_after_s=1.0)
        if self.record.shut_down_asked_at is None:
            await self._write(shut_down_asked_at=datetime.now(UTC))
        await run.command("system_powerdown")
        if meaning_of(await run.state()) in (Meaning.PAUSED, Meaning.HAS_IO_ERROR):
            await self._resume()

    async def _power_off(self) -> None:
        await self._end_run()
        await self._conclude_if_dead()
        if self.record.memory:
            given_up = Exit(ExitReason.POWERED_OFF, datetime.now(UTC), "its suspended memory was given up")
            exit_ = given_up if self.record.intent is Intent.SUSPENDED else self.record.last_exit
            await self._write(intent=Intent.STOPPED, last_exit=exit_)
            await self._discard_memory()
        if self.record.ended_by_itself:
            await self._write(ended_by_itself=False)

    async def _end_run(self) -> None:
        run = self._run
        if run is None or not run.is_alive:
            return
        if self.record.intent is not Intent.STOPPED:  # else the guest is over, and its exit is written
            try:
                await self._write(intent=Intent.POWERING_OFF)
            except OSError as error:  # a full disk must not keep a machine running
                _log.warning("machine %s is powered off without a record of it: %s", self.record.uid, error)
        await run.end()

    async def _destroy(self) -> None:
        await self._end_run()
        await self._stop_following()
        uid = self.record.uid
        await asyncio.to_thread(clear_runs, self._site.runtime_folder, uid)
        if self.record.memory:
            await in_thread(suspension.MemoryFile(Path(self.record.memory)).discard)
        if (definition := self.record.running or self.record.definition) is not None:
            await in_thread(suspension.discard_all, definition, uid, self.folder)
        # The record last: killed before that, the next driver knows the machine and goes on here.
        await self._groups.remove(uid)
        await self._records.run(self._records.remove, uid)
