"""One pass over one VirtualMachineAction: it is given to its machine's agent, or fails; a finished one is removed."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from virtplane_api.actions import (
    age,
    finished_status,
    is_finished,
    removal_time,
    starting_deadline,
    starting_deadline_s,
)
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import NotFound
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import ACTIONS, VIRTUAL_MACHINES, Key, Object, is_being_deleted, uid_of
from virtplane_api.names import OPERATOR_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_api.vocabulary import PowerState
from virtplane_operator.machines.status import placement_of
from virtplane_operator.world import AgentHealth, Store

MACHINE_COMES_WITHIN = timedelta(seconds=5)
"""The machine may come with the same `kubectl apply`; later its name is taken for a mistake."""
_LOOK_AGAIN_S = 1.0
_WATCH_AGAIN_S = 60.0


class ActionReconciler:
    """Passes over actions. The agent has the say from `status.startTime` on."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        health: AgentHealth,
        events: EventRecorder,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._store = store
        self._health = health
        self._events = events
        self._clock = clock

    async def reconcile(self, key: Key) -> Outcome:
        """One write at most."""
        action = self._store.get(ACTIONS, key)
        if action is None or is_being_deleted(action):
            return Done()
        if is_finished(action):
            return await self._remove_when_old(action)
        machine = self._store.get(VIRTUAL_MACHINES, Key(key.namespace, action["spec"]["vmName"]))
        if action.get("status", {}).get("startTime"):
            return await self._watch_over(action, machine)
        left_s = (starting_deadline(action) - self._clock()).total_seconds()
        if left_s <= 0:
            return await self._fail(action, Reason.DEADLINE_EXCEEDED, self._why_not_begun(action, machine))
        if action.get("status", {}).get("placement"):
            return Wait(left_s, "the agent begins")
        if machine is None:
            if age(action, self._clock()) >= MACHINE_COMES_WITHIN:
                return await self._fail(action, Reason.MACHINE_NOT_FOUND, _not_found(action))
            return Wait(_LOOK_AGAIN_S, Reason.MACHINE_NOT_FOUND)
        if why_not := _not_ready(machine):
            return Wait(min(left_s, _LOOK_AGAIN_S), why_not)
        await self._place(action, machine)
        return Wait(left_s, "the agent begins")

    async def _watch_over(self, action: Object, machine: Object | None) -> Outcome:
        """Its end is its agent's to tell; of an agent that will not come back for it, nobody would."""
        placement = action["status"]["placement"]
        if self._health.is_silent(placement["agentName"]) and not _is_there(machine, placement):
            message = f"agent {placement['agentName']} is silent, and the machine is not there any more"
            return await self._fail(action, Reason.INTERRUPTED, message)
        return Wait(_WATCH_AGAIN_S, "its agent ends it")

    async def _place(self, action: Object, machine: Object) -> None:
        placed = placement_of(machine)
        placement = {
            "hypervisor": placed["hypervisor"],
            "agentName": placed["agentName"],
            "vmUID": uid_of(machine),
        }
        await self._apply(action, {"placement": placement})

    async def _fail(self, action: Object, reason: Reason, message: str) -> Outcome:
        """Before the agent wrote that it begins; should it do so just now, one of the two writes is refused."""
        status, before = finished_status(action, (reason, message), now=self._clock()), action.get("status", {})
        await self._apply(action, status | {name: before[name] for name in ("placement",) if name in before})
        self._events.record(action, reason=reason, action=action["spec"]["type"], note=message, type_="Warning")
        return Done()

    async def _remove_when_old(self, action: Object) -> Outcome:
        left_s = (removal_time(action) - self._clock()).total_seconds()
        if left_s > 0:
            return Wait(left_s, "it is kept for a while")
        try:
            await self._client.delete(ACTIONS, action)
        except NotFound:
            self._store.remove(ACTIONS, action)
        return Done()

    def _why_not_begun(self, action: Object, machine: Object | None) -> str:
        message = f"it did not begin within {starting_deadline_s(action)} s (startingDeadlineSeconds), and never will: "
        if machine is None:
            return message + _not_found(action)
        agent = placement_of(machine).get("agentName", "")
        if not action.get("status", {}).get("placement") and (why_not := _not_ready(machine)):
            return message + f"VirtualMachine {action['spec']['vmName']} {why_not}"
        if self._health.is_silent(agent):
            return message + f"agent {agent} is silent"
        return message + f"agent {agent} did not take it"

    async def _apply(self, action: Object, status: dict[str, Any]) -> None:
        written = await self._client.apply_status(ACTIONS, action, status, field_manager=OPERATOR_FIELD_MANAGER)
        self._store.put_written(ACTIONS, written)


def _is_there(machine: Object | None, placement: Mapping[str, str]) -> bool:
    return (
        machine is not None
        and uid_of(machine) == placement["vmUID"]
        and placement_of(machine).get("hypervisor") == placement["hypervisor"]
    )


def _not_ready(machine: Object) -> str:
    """Why an act on it would be too early; empty when it runs, or is off as it is to be."""
    if not placement_of(machine).get("hypervisor"):
        return "has no place"
    power, wanted = machine["status"].get("powerState", ""), machine["spec"]["powerState"]
    on_its_way = power == PowerState.STOPPED and wanted in (PowerState.RUNNING, PowerState.PAUSED)
    return "does not run" if not power or on_its_way else ""


def _not_found(action: Object) -> str:
    namespace = action["metadata"]["namespace"]
    return f"there is no VirtualMachine {action['spec']['vmName']} in namespace {namespace} (spec.vmName)"
