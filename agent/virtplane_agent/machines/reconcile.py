"""One pass over one machine of this host: observe, take one step, observe, report.

The step is chosen by a table (`steps`) and taken by `acts`. The report is computed last, from what was observed after
the step, and written only if it differs.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from virtplane_agent.endpoints import Endpoint, Endpoints
from virtplane_agent.machines.acts import LOOK_AGAIN_S, Acts, Subject
from virtplane_agent.machines.desired import next_goal, wanted
from virtplane_agent.machines.disks import Disks
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.machines.interfaces import Interfaces
from virtplane_agent.machines.plugging import is_outdated, is_unlike_its_definition
from virtplane_agent.machines.status import machine_status
from virtplane_agent.machines.steps import NEXT, Goal, Step, seen
from virtplane_agent.machines.strays import Strays
from virtplane_agent.placed import Placed
from virtplane_agent.reporting import Reporter
from virtplane_api.kube.errors import Conflict
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Failed, Outcome, Wait
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import DriverError, Refused, StaleToken, Unavailable
from virtplane_drivers.hypervisor.contract import Observed

_log = logging.getLogger(__name__)

_WITHOUT_EFFECT = frozenset({Step.NONE, Step.LOOK_AGAIN})
"""What was seen before such a step still holds; a machine that hangs would cost a second waiting."""


class MachineReconciler:
    """Passes over machines by UID."""

    def __init__(
        self,
        cluster_id: str,
        endpoints: Endpoints,
        machines: Placed,
        disks: Disks,
        interfaces: Interfaces,
        strays: Strays,
        reporter: Reporter,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster_id = cluster_id
        self._endpoints = endpoints
        self._machines = machines
        self._acts = Acts(cluster_id, disks, interfaces, reporter.tell, clock=clock)
        self._interfaces = interfaces
        self._strays = strays
        self._reporter = reporter
        self._endpoint_of: dict[str, Endpoint] = {}

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
            self._acts.forget(uid)
            known = self._endpoint_of.get(uid)
            return Done() if known is None else await self._look_at_stray(uid, known)
        self._strays.forget(uid)
        name = machine["status"]["placement"]["hypervisor"]
        endpoint = self._endpoints.hypervisors.get(name)
        if endpoint is None:
            return await self._report_unknown_hypervisor(machine, name)
        return await self._pass(machine, endpoint)

    async def _look_at_stray(self, uid: str, endpoint: Endpoint) -> Outcome:
        try:
            return await self._strays.reconcile(uid, endpoint)
        except DriverError as error:
            return Failed(error.reason, str(error))

    async def _pass(self, machine: Object, endpoint: Endpoint) -> Outcome:
        uid = uid_of(machine)

        def known() -> None:
            self._endpoint_of[uid] = endpoint

        left = self._endpoint_of.get(uid)
        if left is not None and left is not endpoint and (outcome := await self._end_elsewhere(machine, left)):
            return outcome
        observed = await endpoint.driver.observe(uid)
        hindrance = self._stale_token(machine, observed)
        outcome = Done()
        if hindrance is None:
            goal = next_goal(machine, observed)
            step = NEXT[seen(observed), goal]
            outcome, hindrance = await self._take(step, Subject(machine, endpoint, observed, goal, on_define=known))
            is_changing = is_outdated(machine, self._cluster_id, observed) or is_unlike_its_definition(observed)
            if step not in _WITHOUT_EFFECT or is_changing:
                observed = await endpoint.driver.observe(uid)
        if not observed.exists and wanted(machine) is Goal.ABSENT:
            self._endpoint_of.pop(uid, None)
        return await self._report(machine, observed, hindrance, outcome)

    async def _end_elsewhere(self, machine: Object, left: Endpoint) -> Outcome | None:
        """Of two hypervisors of one agent the other had the machine: its copy ends first. None: it has."""
        uid = uid_of(machine)
        observed = await left.driver.observe(uid)
        hindrance, outcome = self._stale_token(machine, observed), Done()
        if hindrance is None:
            try:
                await left.driver.destroy(uid)
            except DriverError as error:
                failed = Failed(error.reason, str(error))
                return await self._report(machine, observed, Hindrance(error.reason, str(error)), failed)
            del self._endpoint_of[uid]
            return None
        return await self._report(machine, observed, hindrance, outcome)

    async def _take(self, step: Step, subject: Subject) -> tuple[Outcome, Hindrance | None]:
        """The step; what the driver says against it becomes a hindrance."""
        try:
            return await self._acts.take(step, subject)
        except StaleToken as stale:
            hindrance = Hindrance(stale.reason, _stale_message(str(stale)), Progress.BLOCKED, stale.seen)
            return Failed(stale.reason, str(stale)), hindrance
        except Refused as refused:
            hindrance = Hindrance(refused.reason, str(refused), Progress.STALLED)
            return Failed(refused.reason, str(refused)), hindrance
        except Unavailable as unavailable:
            outcome = Failed(unavailable.reason, str(unavailable), unavailable.retry_after_s)
            return outcome, Hindrance(unavailable.reason, str(unavailable))
        except DriverError as error:
            return Failed(error.reason, str(error)), Hindrance(error.reason, str(error))

    async def _report(
        self, machine: Object, observed: Observed, hindrance: Hindrance | None, outcome: Outcome
    ) -> Outcome:
        seen, not_anew = self._interfaces.seen(machine), self._interfaces.not_anew(machine)
        status = machine_status(machine, observed, hindrance, seen, not_anew)
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
        message = _stale_message(f"the host has seen token {observed.owner.token}, the placement has {token}")
        return Hindrance(Reason.STALE_TOKEN, message, Progress.BLOCKED, observed.owner.token)

    async def _report_unknown_hypervisor(self, machine: Object, name: str) -> Outcome:
        message = f"this agent does not drive {name}; start it with that driver (--drivers)"
        hindrance = Hindrance(Reason.NO_SUCH_HYPERVISOR, message, Progress.BLOCKED)
        observed = Observed(power=PowerState.UNKNOWN, message=message)
        return await self._report(machine, observed, hindrance, Done())


def _stale_message(what: str) -> str:
    return f"{what}: the cluster's database was put back; nothing is done until the operator places it anew"
