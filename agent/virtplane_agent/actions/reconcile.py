"""One pass over one action: begin it, once; report how it went.

`status.startTime` is written before the act, and refused when the object changed since it was read. So of two agents,
of an agent and an operator that gives it up, and of an agent and its successor, one at most acts. Who finds it begun
and does not do it itself reports that nobody knows.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from virtplane_agent.actions.perform import Failure, lacks, perform
from virtplane_agent.endpoints import Endpoint, Endpoints
from virtplane_agent.placed import Placed
from virtplane_api.actions import finished_status, is_finished, starting_deadline
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import timestamp
from virtplane_api.kube.errors import Invalid, NotFound
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import ACTIONS, VIRTUAL_MACHINES, Object, is_being_deleted, uid_of
from virtplane_api.names import AGENT_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Outcome
from virtplane_drivers.errors import DriverError

_log = logging.getLogger(__name__)

CLOCK_SLACK = timedelta(seconds=60)
"""Of this host's clock to the API server's: the deadline is the operator's to judge, this is for when it is away."""

Result = tuple[dict[str, Any], Failure | None]


class ActionReconciler:
    """Passes over actions by UID. The acts run beside them, as long as this object lives."""

    def __init__(
        self,
        client: KubeClient,
        endpoints: Endpoints,
        actions: Placed,
        machines: Placed,
        events: EventRecorder,
        enqueue: Callable[[str], None],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._endpoints = endpoints
        self._actions = actions
        self._machines = machines
        self._events = events
        self._enqueue = enqueue
        self._clock = clock
        self._acts: dict[str, asyncio.Task[Result]] = {}

    async def reconcile(self, uid: str) -> Outcome:
        """Look how far it is, and take one step."""
        action, act = self._actions.get(uid), self._acts.get(uid)
        if action is None or is_finished(action):
            if act is not None:
                act.cancel()  # it was deleted: nobody waits for its result
                del self._acts[uid]
            return Done()
        if act is not None:
            if act.done():
                await self._report(action, *act.result())
            return Done()
        if action["status"].get("startTime"):
            message = "its agent ended, or lost the API server, over it: it may have happened, and is not tried again"
            await self._report(action, {}, (Reason.INTERRUPTED, message))
            return Done()
        return await self._begin(action)

    async def stop(self) -> None:
        """End what is under way; the next agent reports it as interrupted."""
        for act in self._acts.values():
            act.cancel()
        await asyncio.gather(*self._acts.values(), return_exceptions=True)

    async def _begin(self, action: Object) -> Outcome:
        placement, now = action["status"]["placement"], self._clock()
        if now > starting_deadline(action) + CLOCK_SLACK:
            return Done()  # the operator says so
        if is_being_deleted(action):
            return Done()
        endpoint = self._endpoints.hypervisors.get(placement["hypervisor"])
        if not await self._is_here(action):
            message = f"VirtualMachine {action['spec']['vmName']} is not on {placement['hypervisor']} any more"
            await self._report(action, {}, (Reason.MACHINE_MOVED, message))
        elif endpoint is None:
            message = f"this agent does not drive {placement['hypervisor']}; start it with that driver (--drivers)"
            await self._report(action, {}, (Reason.NO_SUCH_HYPERVISOR, message))
        elif (failure := lacks(action, endpoint)) is not None:
            await self._report(action, {}, failure)
        else:
            written = await self._apply(action, {"startTime": timestamp(now)})
            # No await between the answer and the task: from here on a second pass finds the act.
            act = asyncio.create_task(self._act(written, endpoint), name=f"action {uid_of(action)}")
            self._acts[uid_of(action)] = act
            act.add_done_callback(lambda _act: self._enqueue(uid_of(action)))
        return Done()

    async def _is_here(self, action: Object) -> bool:
        """Whether the machine is placed there still. A watch may be behind: absence is asked for by name."""
        placement = action["status"]["placement"]
        machine = self._machines.get(placement["vmUID"])
        if machine is None:
            try:
                name, namespace = action["spec"]["vmName"], action["metadata"]["namespace"]
                machine = await self._client.get(VIRTUAL_MACHINES, name, namespace)
            except NotFound:
                return False
        placed = machine.get("status", {}).get("placement") or {}
        return bool(uid_of(machine) == placement["vmUID"] and placed.get("hypervisor") == placement["hypervisor"])

    async def _act(self, action: Object, endpoint: Endpoint) -> Result:
        try:
            return await perform(action, endpoint, action["status"]["placement"]["vmUID"])
        except DriverError as error:
            return {}, (error.reason, str(error))
        except Exception as error:  # noqa: BLE001  # one act's fault stays with that act
            _log.exception("action %s: a fault in this program", uid_of(action))
            return {}, (Reason.FAULT, repr(error))

    async def _report(self, action: Object, result: dict[str, Any], failure: Failure | None) -> None:
        status = finished_status(action, failure, now=self._clock()) | result
        if start_time := action["status"].get("startTime"):
            status["startTime"] = start_time
        try:
            await self._apply(action, status)
        except Invalid as error:
            # A guest or a driver said what the API does not take: this is the end of it all the same.
            failure = (Reason.FAULT, f"its result cannot be written: {error}")
            begun = {"startTime": status["startTime"]} if "startTime" in status else {}
            await self._apply(action, finished_status(action, failure, now=self._clock()) | begun)
        self._acts.pop(uid_of(action), None)
        reason, message = failure or (Reason.COMPLETED, "")
        spec, name = action["spec"], action["metadata"]["name"]
        machine = self._machines.get(action["status"]["placement"]["vmUID"])
        for about in (action, machine):
            if about is not None:
                self._events.record(
                    about,
                    reason=reason,
                    action=spec["type"],
                    note=f"{spec['type']}, asked for by VirtualMachineAction {name}"
                    + (f": {message}" if message else ""),
                    type_="Warning" if failure else "Normal",
                )

    async def _apply(self, action: Object, status: dict[str, Any]) -> Object:
        written = await self._client.apply_status(ACTIONS, action, status, field_manager=AGENT_FIELD_MANAGER)
        self._actions.put_written(written)
        return written
