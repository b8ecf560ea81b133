"""One pass over one machine of this host: observe, take one step, observe, report.

The step is chosen by a table (`steps`); what it needs (disks) is looked up only when it is taken. The report is
computed last, from what was observed after the step, and written only if it differs.
"""

import logging
from datetime import UTC, datetime, timedelta

from virtplane_agent.endpoints import Endpoint, Endpoints
from virtplane_agent.machines.desired import desired_machine, goal_of, grace_period, owner_of
from virtplane_agent.machines.disks import Disks
from virtplane_agent.machines.restarts import Restarts
from virtplane_agent.machines.status import Hindrance, machine_status
from virtplane_agent.machines.steps import NEXT, Goal, Step
from virtplane_agent.machines.strays import Strays
from virtplane_agent.placed import Placed
from virtplane_agent.reporting import Reporter
from virtplane_api.kube.errors import Conflict
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.reconcile import Done, Failed, Outcome, Wait
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import DriverError, Refused, Unavailable
from virtplane_drivers.hypervisor.contract import CanShutDown, Observed

_log = logging.getLogger(__name__)

LOOK_AGAIN_S = 10.0
"""A driver's events are hints: what runs is looked at this often without any."""
ASK_AGAIN = timedelta(seconds=10)
"""A guest that was still booting has not heard the first request to shut down."""


class MachineReconciler:
    """Passes over machines by UID."""

    def __init__(
        self,
        cluster_id: str,
        endpoints: Endpoints,
        machines: Placed,
        disks: Disks,
        strays: Strays,
        reporter: Reporter,
    ) -> None:
        self._cluster_id = cluster_id
        self._endpoints = endpoints
        self._machines = machines
        self._disks = disks
        self._strays = strays
        self._reporter = reporter
        self._restarts = Restarts()
        self._endpoint_of: dict[str, Endpoint] = {}
        self._asked_at: dict[str, datetime] = {}

    async def find_machines(self) -> list[str]:
        """UIDs of all that the hypervisors of this host know, from before this agent's start."""
        for endpoint in self._endpoints.hypervisors.values():
            for uid in await endpoint.driver.inventory():
                self._endpoint_of[uid] = endpoint
        return list(self._endpoint_of)

    async def reconcile(self, uid: str) -> Outcome:
        """One step of one machine."""
        machine = self._machines.get(uid)
        if machine is None:
            self._reporter.forget(uid)
            self._restarts.forget(uid)
            self._asked_at.pop(uid, None)
            known = self._endpoint_of.get(uid)
            return Done() if known is None else await self._strays.reconcile(uid, known)
        self._strays.forget(uid)
        name = machine["status"]["placement"]["hypervisor"]
        endpoint = self._endpoints.hypervisors.get(name)
        if endpoint is None:
            return await self._report_unknown_hypervisor(machine, name)
        return await self._pass(machine, endpoint)

    async def _pass(self, machine: Object, endpoint: Endpoint) -> Outcome:
        uid, goal = uid_of(machine), goal_of(machine)
        observed = await endpoint.driver.observe(uid)
        stale = self._stale_token(machine, observed)
        hindrance: Hindrance | None = stale
        outcome: Outcome = Done()
        if stale is None:
            try:
                outcome, hindrance = await self._step(machine, endpoint, observed, goal)
            except Refused as refused:
                outcome = Failed(refused.reason, str(refused))
                hindrance = Hindrance(refused.reason, str(refused), stalled=True)
            except Unavailable as unavailable:
                outcome = Failed(unavailable.reason, str(unavailable), unavailable.retry_after_s)
                hindrance = Hindrance(unavailable.reason, str(unavailable))
            except DriverError as error:
                outcome = Failed(error.reason, str(error))
                hindrance = Hindrance(error.reason, str(error))
            observed = await endpoint.driver.observe(uid)
        if not observed.exists and goal is Goal.ABSENT:
            self._endpoint_of.pop(uid, None)
        return await self._report(machine, observed, goal, hindrance, outcome)

    async def _report(
        self, machine: Object, observed: Observed, goal: Goal, hindrance: Hindrance | None, outcome: Outcome
    ) -> Outcome:
        status = machine_status(machine, observed, goal, hindrance)
        try:
            again_s = await self._reporter.report(machine, status)
        except Conflict:
            # The step is taken; only the words are missing.
            again_s = 0.2
        if isinstance(outcome, Failed):
            _log.info("machine %s: %s: %s", uid_of(machine), outcome.reason, outcome.message)
            return outcome
        waits = [wait for wait in (again_s, outcome.after_s if isinstance(outcome, Wait) else None) if wait is not None]
        if observed.power in (PowerState.RUNNING, PowerState.PAUSED, PowerState.UNKNOWN):
            waits.append(LOOK_AGAIN_S)
        return Wait(min(waits), "look again") if waits else Done()

    def _stale_token(self, machine: Object, observed: Observed) -> Hindrance | None:
        """A host that has seen a greater token knows that this placement is of a past that was put back."""
        token = machine["status"]["placement"]["token"]
        if observed.owner is None or observed.owner.token <= token:
            return None
        return Hindrance(
            "StaleToken",
            f"the host has seen token {observed.owner.token}, the placement has {token}: the cluster's database was "
            f"put back; nothing is done until the machine is placed under a greater token",
            stalled=True,
        )

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _step(
        self, machine: Object, endpoint: Endpoint, observed: Observed, goal: Goal
    ) -> tuple[Outcome, Hindrance | None]:
        uid = uid_of(machine)
        match NEXT[observed.power, goal]:
            case Step.NONE:
                if goal is not Goal.RUNNING:
                    self._restarts.forget(uid)
                self._asked_at.pop(uid, None)
                if observed.exists:
                    await self._take_over(machine, endpoint, observed)
                return Done(), None
            case Step.LOOK_AGAIN:
                return Wait(LOOK_AGAIN_S, "look again"), None
            case Step.START:
                return await self._start(machine, endpoint, observed)
            case Step.SHUT_DOWN:
                return await self._shut_down(machine, endpoint, observed)
            case Step.DESTROY:
                await endpoint.driver.destroy(uid)
                return Done(), None

    async def _take_over(self, machine: Object, endpoint: Endpoint, observed: Observed) -> None:
        """Write a newer token into the host's record; the guest does not notice."""
        if observed.owner != owner_of(machine, self._cluster_id):
            attachments = await self._disks.attachments(machine)
            if not isinstance(attachments, Hindrance):
                await endpoint.driver.define(desired_machine(machine, self._cluster_id, attachments))

    async def _start(self, machine: Object, endpoint: Endpoint, observed: Observed) -> tuple[Outcome, Hindrance | None]:
        uid = uid_of(machine)
        wait_s = self._restarts.wait_s(uid, observed)
        if wait_s > 0:
            last = observed.last_exit
            why = f"it ended again soon after its start ({last.reason}): {last.message}" if last else ""
            return Wait(wait_s, "back-off"), Hindrance("BackOff", why)
        attachments = await self._disks.attachments(machine)
        if isinstance(attachments, Hindrance):
            # A volume that gets ready here wakes its machine; one of another host's does not.
            return Wait(2.0, attachments.reason), attachments
        desired = desired_machine(machine, self._cluster_id, attachments)
        unusable = [disk.name for disk in desired.disks if type(disk.attachment) not in endpoint.facts.attachments]
        if unusable:
            message = f"{endpoint.name} cannot attach the volumes of {', '.join(unusable)}"
            return Failed("DiskNotAttachable", message), Hindrance("DiskNotAttachable", message, stalled=True)
        # Known before it is made: should this task end in between, the machine is still found.
        self._endpoint_of[uid] = endpoint
        await endpoint.driver.define(desired)
        await endpoint.driver.start(uid)
        return Done(), None

    async def _shut_down(
        self, machine: Object, endpoint: Endpoint, observed: Observed
    ) -> tuple[Outcome, Hindrance | None]:
        """Ask the guest; when its time is over, power it off."""
        uid, now, grace = uid_of(machine), datetime.now(UTC), grace_period(machine)
        asked_at = observed.shut_down_asked_at or self._asked_at.get(uid)
        driver = endpoint.driver
        if not grace or not isinstance(driver, CanShutDown) or (asked_at is not None and now - asked_at >= grace):
            await driver.power_off(uid)
            return Wait(0.0, "powered off"), None
        last_asked = self._asked_at.get(uid)
        if asked_at is None or last_asked is None or now - last_asked >= ASK_AGAIN:
            self._asked_at[uid] = now
            if asked_at is None:
                asked_at = now
            await driver.shut_down(uid)
        left = asked_at + grace - now
        return Wait(min(left, ASK_AGAIN).total_seconds(), "the guest shuts down"), None

    async def _report_unknown_hypervisor(self, machine: Object, name: str) -> Outcome:
        message = f"this agent does not drive {name}; start it with that driver (--drivers)"
        hindrance = Hindrance("NoSuchHypervisor", message, stalled=True)
        observed = Observed(power=PowerState.UNKNOWN, message=message)
        return await self._report(machine, observed, goal_of(machine), hindrance, Done())
