"""The acts behind the steps, each on one machine: what a step needs is looked up only when it is taken.

An act returns how the pass goes on, and what hinders the machine, if anything does.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from virtplane_agent.endpoints import Endpoint
from virtplane_agent.machines.desired import (
    desired_machine,
    grace_period,
    is_restart_due,
    restart_policy,
)
from virtplane_agent.machines.disks import Disks
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.machines.interfaces import Interfaces, waiting, with_cables
from virtplane_agent.machines.plugging import TAKES_NICS, Plugging, is_outdated
from virtplane_agent.machines.reconnects import Tell
from virtplane_agent.machines.restarts import Restarts, may_restart
from virtplane_agent.machines.steps import Goal, Step
from virtplane_agent.networks.desired import waiting_interfaces
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Failed, Outcome, Wait
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.errors import Refused, Unresponsive
from virtplane_drivers.hypervisor.contract import CanPause, CanShutDown, CanSuspend, Desired, Nic, Observed

LOOK_AGAIN_S = 10.0
"""A driver's events are hints: what runs is looked at this often without any."""
ASK_AGAIN = timedelta(seconds=10)
"""A guest that was still booting has not heard the first request to shut down."""
IO_RETRY = timedelta(seconds=5)
"""A guest whose disk is full is let go on this often: it pauses again at once when it still is."""
_SETTLED = timedelta(seconds=1)
_SUSPENDING_S = 2.0
_DISKS_AGAIN_S = 2.0
_ONCE_REPORTED_S = 0.1
_DISKS_LATER_S = 10.0

Result = tuple[Outcome, Hindrance | None]
GOES_ON: Result = (Done(), None)


@dataclass(frozen=True, slots=True)
class Subject:
    """One machine in one pass."""

    machine: Object
    endpoint: Endpoint
    observed: Observed
    goal: Goal
    on_define: Callable[[], None]
    """Called before the hypervisor gets to know the machine."""

    @property
    def uid(self) -> str:
        """Of the machine."""
        return uid_of(self.machine)


class Acts:
    """Takes steps. What is kept in memory here is only when something was last tried."""

    def __init__(
        self,
        cluster_id: str,
        disks: Disks,
        interfaces: Interfaces,
        tell: Tell,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster_id = cluster_id
        self._disks = disks
        self._interfaces = interfaces
        self._clock = clock
        self._restarts = Restarts()
        self._plugging = Plugging(interfaces, tell, clock)
        self._asked: dict[str, tuple[datetime, datetime]] = {}
        """When a guest was asked to shut down, first and last."""
        self._resumed_at: dict[str, datetime] = {}
        self._acts: Mapping[Step, Callable[[Subject], Awaitable[Result]]] = {
            Step.NONE: self._rest,
            Step.START: self._start,
            Step.RESTART: self._restart,
            Step.SETTLE: self._settle,
            Step.PAUSE: self._pause,
            Step.RESUME: self._resume,
            Step.SUSPEND: self._suspend,
            Step.WAKE: self._wake,
            Step.SHUT_DOWN: self._shut_down,
            Step.DESTROY: self._destroy,
            Step.LOOK_AGAIN: self._look_again,
        }

    async def take(self, step: Step, subject: Subject) -> Result:
        """One step.

        Raises:
            DriverError: as the driver says.
        """
        if step is not Step.SHUT_DOWN:
            self._asked.pop(subject.uid, None)
        if step not in (Step.RESUME, Step.NONE):
            self._resumed_at.pop(subject.uid, None)
        return await self._acts[step](subject)

    def forget(self, uid: str) -> None:
        """Of a machine that is gone from here."""
        self._restarts.forget(uid)
        self._asked.pop(uid, None)
        self._resumed_at.pop(uid, None)
        self._plugging.forget(uid)

    # --- nothing to be done -------------------------------------------------------------------------------------------

    async def _look_again(self, _subject: Subject) -> Result:
        return Wait(LOOK_AGAIN_S, "look again"), None

    async def _rest(self, subject: Subject) -> Result:
        """Write a newer token into the host's record, and change what can be changed while the guest runs."""
        machine, observed = subject.machine, subject.observed
        if subject.goal is Goal.STOPPED:
            self._restarts.forget(subject.uid)
        resumed_at = self._resumed_at.get(subject.uid)
        if resumed_at is not None and observed.power is PowerState.RUNNING:
            # Its write is tried anew, and may fail again: that it runs is said once it has done so for a moment.
            if timedelta(0) <= self._clock() - resumed_at < _SETTLED:
                return Wait(_SETTLED.total_seconds(), "it may be held again"), Hindrance(
                    Reason.RESUMING, "it was let go on, as its disk may be writable again", Progress.SETTLING
                )
            del self._resumed_at[subject.uid]
        if subject.goal is Goal.SUSPENDED and observed.power is not PowerState.SUSPENDED:
            return Done(), _NOTHING_TO_SUSPEND
        if not observed.exists:
            return GOES_ON
        was_outdated = is_outdated(machine, self._cluster_id, observed)
        if was_outdated:
            outdated = await self._redefine(subject)
            observed = await subject.endpoint.driver.observe(subject.uid)
            if outdated is not None:
                await self._plugging.change(machine, subject.endpoint, observed, is_served=False)
                return Wait(_again_s(outdated), outdated.reason), outdated
        hindrance = await self._plugging.change(machine, subject.endpoint, observed, is_served=was_outdated)
        if hindrance is not None:
            return Wait(_DISKS_LATER_S, hindrance.reason), hindrance
        if (waits := waiting(machine)) is not None and observed.power in TAKES_NICS:
            observed = await subject.endpoint.driver.observe(subject.uid)
            kept = {nic.name for nic in observed.nics} & set(waiting_interfaces(machine).values())
            # What has gone is reported by this pass, and its address is free for the next one.
            return (Wait(_DISKS_LATER_S, waits.reason), waits) if kept else (Wait(_ONCE_REPORTED_S, waits.reason), None)
        asked_at, driver = observed.shut_down_asked_at, subject.endpoint.driver
        if asked_at is not None and isinstance(driver, CanShutDown):
            # Asked, and then wanted to run again: an end within the grace period is still the one that was asked for.
            now = self._clock()
            left = asked_at + grace_period(machine) - now
            if left > timedelta(0) and asked_at <= now:  # else the host's clock was put back: nobody knows
                return Wait(left.total_seconds(), "the guest may still shut down"), None
            await driver.withdraw_shut_down(subject.uid)
        return GOES_ON

    async def _redefine(self, subject: Subject) -> Hindrance | None:
        """What keeps the definition from being as it is to be. The cables of other interfaces are told all the same."""
        observed = subject.observed
        running = observed.nics if observed.power in TAKES_NICS else ()
        nics = await self._interfaces.nics(subject.machine, subject.endpoint, observed.defined_nics, running)
        if isinstance(nics, Hindrance):
            await self._redefine_links(subject)
            return replace(nics, progress=Progress.SETTLING)
        desired = await self._desired(subject, nics)
        if isinstance(desired, Hindrance):
            # Of one that is off or suspended it is a matter of its start.
            return replace(desired, progress=Progress.SETTLING) if observed.power in TAKES_NICS else None
        try:
            await subject.endpoint.driver.define(desired)
        except Refused as refused:
            return Hindrance(refused.reason, str(refused), Progress.SETTLING)
        return None

    async def _redefine_links(self, subject: Subject) -> None:
        """Under the token that the definition has: nothing else of the placement is in effect."""
        owner, defined = subject.observed.owner, subject.observed.defined_nics
        nics = with_cables(subject.machine, defined)
        if owner is None or nics == list(defined):
            return
        desired = await self._desired(subject, nics)
        if isinstance(desired, Desired):
            await subject.endpoint.driver.define(replace(desired, owner=owner))

    # --- starts -------------------------------------------------------------------------------------------------------

    async def _start(self, subject: Subject) -> Result:
        endpoint = subject.endpoint
        if subject.goal is Goal.PAUSED and not isinstance(endpoint.driver, CanPause):
            return _not_supported(subject, "Pause")
        desired = await self._desired(subject)
        if isinstance(desired, Hindrance):
            # A volume that gets ready here wakes its machine; one of another host's does not.
            return Wait(_again_s(desired), desired.reason), desired
        if (waits := waiting(subject.machine)) is not None:
            return Wait(_ONCE_REPORTED_S, waits.reason), waits
        unusable = [disk.name for disk in desired.disks if type(disk.attachment) not in endpoint.facts.attachments]
        if unusable:
            message = f"{endpoint.name} cannot attach the volumes of {', '.join(unusable)}"
            return _stalled(Reason.DISK_NOT_ATTACHABLE, message)
        # Known before it is made: should this task end in between, the machine is still found.
        subject.on_define()
        await endpoint.driver.define(desired)
        await endpoint.driver.start(subject.uid)
        self._interfaces.joined(subject.uid)
        return GOES_ON

    async def _desired(self, subject: Subject, nics: Sequence[Nic] | None = None) -> Desired | Hindrance:
        """The machine as it is to be now, with all that it is attached to; or the first thing that it cannot be."""
        disks = await self._disks.attachments(subject.machine)
        if isinstance(disks, Hindrance):
            return disks
        if nics is None:
            found = await self._interfaces.nics(subject.machine, subject.endpoint, subject.observed.defined_nics)
            if isinstance(found, Hindrance):
                return found
            nics = found
        return desired_machine(subject.machine, self._cluster_id, disks, nics)

    async def _restart(self, subject: Subject) -> Result:
        """A machine that ended by itself: as its policy says, and not in a tight circle."""
        observed, policy = subject.observed, restart_policy(subject.machine)
        last = observed.last_exit
        reason = last.reason if last is not None else ExitReason.CRASHED
        if not is_restart_due(subject.machine, observed):
            if not may_restart(policy, reason):
                return Done(), _held(policy, reason)
            wait_s = self._restarts.wait_s(subject.uid, observed, now=self._clock())
            if wait_s > 0:
                message = f"it ended again soon after its start ({reason})"
                if last is not None and last.message:
                    message += f": {last.message}"
                return Wait(wait_s, "back-off"), Hindrance(Reason.CRASH_LOOP_BACK_OFF, message)
        return await self._start(subject)

    async def _wake(self, subject: Subject) -> Result:
        if subject.goal is Goal.PAUSED and not isinstance(subject.endpoint.driver, CanPause):
            return _not_supported(subject, "Pause")
        if subject.goal is Goal.STOPPED and not grace_period(subject.machine):
            await subject.endpoint.driver.power_off(subject.uid)
            return GOES_ON
        desired = await self._desired(subject)
        if isinstance(desired, Hindrance):
            return Wait(_again_s(desired), desired.reason), desired
        # The newer token first: disks may have seen it already.
        await subject.endpoint.driver.define(desired)
        await subject.endpoint.driver.start(subject.uid)
        self._interfaces.joined(subject.uid)
        return Wait(0.0, "awake"), None

    # --- holds --------------------------------------------------------------------------------------------------------

    async def _pause(self, subject: Subject) -> Result:
        driver = subject.endpoint.driver
        if not isinstance(driver, CanPause):
            return _not_supported(subject, "Pause")
        await driver.pause(subject.uid)
        return GOES_ON

    async def _resume(self, subject: Subject) -> Result:
        driver, uid, now = subject.endpoint.driver, subject.uid, self._clock()
        if not isinstance(driver, CanPause):
            return _not_supported(subject, "Pause")
        if subject.observed.has_io_error:
            hindrance = Hindrance(Reason.IO_ERROR, f"paused until its disk can be written: {subject.observed.message}")
            left = self._resumed_at.setdefault(uid, now) + IO_RETRY - now
            if timedelta(0) < left <= IO_RETRY:  # more is left only when the host's clock was put back
                return Wait(left.total_seconds(), "the disk may be writable again"), hindrance
            self._resumed_at[uid] = now
            await driver.resume(uid)
            return Wait(IO_RETRY.total_seconds(), "the disk may be writable again"), hindrance
        await driver.resume(uid)
        return GOES_ON

    async def _suspend(self, subject: Subject) -> Result:
        driver = subject.endpoint.driver
        if not isinstance(driver, CanSuspend):
            return _not_supported(subject, "Suspend")
        await driver.suspend(subject.uid)
        return Wait(_SUSPENDING_S, "its memory is written"), None

    # --- ends ---------------------------------------------------------------------------------------------------------

    async def _settle(self, subject: Subject) -> Result:
        self._restarts.forget(subject.uid)
        await subject.endpoint.driver.power_off(subject.uid)
        return GOES_ON

    async def _shut_down(self, subject: Subject) -> Result:
        """Ask the guest; when its time is over, power it off."""
        uid, now, grace = subject.uid, self._clock(), grace_period(subject.machine)
        driver = subject.endpoint.driver
        known = self._asked.get(uid)
        if known is not None and known[1] > now:
            known = None  # the host's clock was put back: the time begins anew
        asked_at = subject.observed.shut_down_asked_at
        if asked_at is None or asked_at > now:
            asked_at = known[0] if known is not None else None
        if not grace or not isinstance(driver, CanShutDown) or (asked_at is not None and now - asked_at >= grace):
            await driver.power_off(uid)
            return Wait(0.0, "powered off"), None
        asked_at = asked_at or now
        hindrance = None
        if known is None or now - known[1] >= ASK_AGAIN:
            try:
                await driver.shut_down(uid)
            except Unresponsive as hung:
                # Not a failure that backs off: the grace period of a machine that hangs ends like any other.
                hindrance = Hindrance(hung.reason, str(hung))
            self._asked[uid] = (asked_at, now)
        left = asked_at + grace - now
        return Wait(min(left, ASK_AGAIN).total_seconds(), "the guest shuts down"), hindrance

    async def _destroy(self, subject: Subject) -> Result:
        await subject.endpoint.driver.destroy(subject.uid)
        return GOES_ON


_NOTHING_TO_SUSPEND = Hindrance(
    Reason.NOT_RUNNING,
    "a machine that does not run cannot be suspended; set powerState Running first",
    Progress.STALLED,
)


def _held(policy: str, reason: ExitReason) -> Hindrance:
    how = "a newer restartedAt starts it, and so does powerState Stopped and then Running"
    return Hindrance(
        reason.value, f"it ended by itself ({reason}), and restartPolicy is {policy}: {how}", Progress.HELD
    )


def _again_s(hindrance: Hindrance) -> float:
    """A disk that is being made is soon there; one that failed or is lost is a matter of minutes."""
    soon = (Reason.VOLUME_NOT_READY, Reason.ADDRESS_IN_USE)
    return _DISKS_AGAIN_S if hindrance.reason in soon else _DISKS_LATER_S


def _stalled(reason: str, message: str) -> Result:
    return Failed(reason, message), Hindrance(reason, message, Progress.STALLED)


def _not_supported(subject: Subject, capability: str) -> Result:
    message = (
        f"spec.powerState: {subject.endpoint.name} (driver {subject.endpoint.driver.name}) lacks the capability "
        f"{capability}; ask for Running or Stopped"
    )
    return _stalled(Reason.NOT_SUPPORTED, message)
