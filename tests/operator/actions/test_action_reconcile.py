"""To whom an action is given, when it is too late for it, and when it goes."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.agent.doubles import EventsDouble, InMemoryClient
from tests.operator.objects import CREATED_AT, action, condition, conditions, placed, store_of, vm
from virtplane_api.kube.errors import Conflict
from virtplane_api.kube.resources import ACTIONS, VIRTUAL_MACHINES, Key, Object
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_operator.actions.reconcile import ActionReconciler
from virtplane_operator.world import AgentHealth

KEY = Key("shop", "reset-1")
CREATED = datetime.fromisoformat(CREATED_AT)
GIVEN = {"placement": {"hypervisor": "host-a-qemu", "agentName": "host-a", "vmUID": "vm-1"}}
BEGUN = GIVEN | {"startTime": CREATED_AT}
COMPLETE = {"conditions": [condition("Complete", "True", "Completed")], "completionTime": CREATED_AT}


def running(**more: Any) -> Object:
    """The machine, seen to run."""
    return vm(**{"placement": placed(), "status": {"powerState": "Running"}} | more)


class HealthDouble(AgentHealth):
    """Says of one agent that it is silent."""

    def __init__(self, silent: str = "") -> None:
        self._silent_one = silent

    def is_silent(self, agent: str) -> bool:
        return agent == self._silent_one


class DeletingClient(InMemoryClient):
    """Knows deletions too."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: list[str] = []

    async def delete(self, resource: Any, read: Object) -> None:
        self.deleted.append(read["metadata"]["name"])
        self.remove(resource, read)


class Pass:
    """One pass at a time after the action's creation."""

    def __init__(self, *objects: Object, silent: str = "") -> None:
        self.client = DeletingClient()
        stored = [self.client.put(ACTIONS, one) if one["kind"] == ACTIONS.kind else one for one in objects]
        self.store = store_of(*stored)
        self.events = EventsDouble()
        self._health = HealthDouble(silent)

    async def after(self, seconds: float) -> Outcome:
        now = CREATED + timedelta(seconds=seconds)
        reconciler = ActionReconciler(self.client, self.store, self._health, self.events, clock=lambda: now)
        return await reconciler.reconcile(KEY)

    @property
    def status(self) -> dict[str, Any]:
        found = self.store.get(ACTIONS, KEY)
        assert found is not None
        status: dict[str, Any] = found["status"]
        return status

    @property
    def failure(self) -> str:
        [failed] = [one for one in self.status.get("conditions", []) if one["type"] == "Failed"]
        return str(failed["message"])


async def test_an_action_is_given_to_the_agent_of_its_machine_by_the_machine_s_uid() -> None:
    one = Pass(action(), running())
    assert await one.after(1) == Wait(59.0, "the agent begins")
    assert one.status["placement"] == GIVEN["placement"]
    assert len(one.client.applied) == 1
    await one.after(2)
    assert len(one.client.applied) == 1


async def test_a_machine_may_come_a_moment_later() -> None:
    one = Pass(action())
    assert isinstance(await one.after(1), Wait)
    assert one.client.applied == []
    one.store.put(*_stored(running()))
    await one.after(3)
    assert one.status["placement"]["vmUID"] == "vm-1"


async def test_a_name_that_no_machine_has_is_told_soon_and_the_act_never_happens() -> None:
    one = Pass(action())
    assert await one.after(5) == Done()
    assert conditions(one.status) == {"Failed": ("True", "MachineNotFound")}
    assert one.failure == "there is no VirtualMachine web in namespace shop (spec.vmName)"
    assert one.events.said == [("Warning", "MachineNotFound", one.failure)]
    one.store.put(*_stored(running()))
    await one.after(6)
    assert "placement" not in one.status


@pytest.mark.parametrize(
    ("status", "machine", "silent", "why"),
    [
        ({}, vm(), "", "VirtualMachine web has no place"),
        ({}, vm(placement=placed()), "", "VirtualMachine web does not run"),
        ({}, running(status={"powerState": "Stopped"}), "", "VirtualMachine web does not run"),
        (GIVEN, running(), "host-a", "agent host-a is silent"),
        (GIVEN, running(), "", "agent host-a did not take it"),
    ],
    ids=["no place", "starts", "has ended", "silent agent", "busy agent"],
)
async def test_what_did_not_begin_in_time_fails_and_says_why(
    status: dict[str, Any], machine: Object, silent: str, why: str
) -> None:
    one = Pass(action(status=status, startingDeadlineSeconds=30), machine, silent=silent)
    assert isinstance(await one.after(29), Wait)
    assert await one.after(30) == Done()
    assert conditions(one.status) == {"Failed": ("True", "DeadlineExceeded")}
    assert one.failure == f"it did not begin within 30 s (startingDeadlineSeconds), and never will: {why}"


async def test_what_has_begun_is_its_agent_s_however_long_it_takes() -> None:
    one = Pass(action(status=BEGUN), running(), silent="host-a")
    assert isinstance(await one.after(10_000), Wait)
    gone = Pass(action(status=BEGUN))
    assert isinstance(await gone.after(10_000), Wait)
    assert one.client.applied == gone.client.applied == []


@pytest.mark.parametrize(
    "machine",
    [vm(uid="another", placement=placed()), vm(placement=placed("host-b-qemu", token=2))],
    ids=["replaced", "moved"],
)
async def test_what_began_on_a_host_that_never_came_back_is_interrupted_once_its_machine_is_not_there(
    machine: Object,
) -> None:
    one = Pass(action(status=BEGUN), machine, silent="host-a")
    await one.after(10_000)
    assert conditions(one.status) == {"Failed": ("True", "Interrupted")}


async def test_an_agent_that_begins_at_the_deadline_wins_or_loses_but_never_both() -> None:
    """The operator's word carries the resourceVersion that it read."""
    one = Pass(action(status=GIVEN), running())
    one.client.put(ACTIONS, action(status=BEGUN))
    with pytest.raises(Conflict):
        await one.after(61)
    assert one.events.said == []


@pytest.mark.parametrize(("ttl", "kept_s"), [({}, 3600), ({"ttlSecondsAfterFinished": 0}, 0)])
async def test_a_finished_action_is_kept_for_its_time(ttl: dict[str, Any], kept_s: int) -> None:
    one = Pass(action(status=BEGUN | COMPLETE, **ttl))
    if kept_s:
        assert await one.after(kept_s - 1) == Wait(1.0, "it is kept for a while")
        assert one.client.deleted == []
    await one.after(kept_s)
    assert one.client.deleted == ["reset-1"]


def _stored(obj: Object) -> tuple[Any, Object]:
    return VIRTUAL_MACHINES, obj


async def test_an_act_on_a_machine_that_is_off_as_it_is_to_be_is_refused_by_its_agent_and_not_waited_for() -> None:
    one = Pass(action(), running(powerState="Stopped", status={"powerState": "Stopped"}))
    await one.after(1)
    assert one.status["placement"]["agentName"] == "host-a"
