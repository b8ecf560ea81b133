"""How a pass reports: written if it differs, not before a passing state has lasted, told on transitions only."""

from typing import Any

import pytest

from tests.agent.doubles import Clock, EventsDouble, InMemoryClient
from tests.agent.objects import vm
from virtplane_agent.reporting import Reporter
from virtplane_api.kube.errors import Conflict
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object

THEN = "2026-11-24T10:00:00Z"


class Reporting:
    """A reporter, the object as it was read last, and what came of it."""

    def __init__(self, client: InMemoryClient, events: EventsDouble, clock: Clock) -> None:
        self.client, self.events, self.clock = client, events, clock
        self.read = client.put(VIRTUAL_MACHINES, vm())
        self.reporter = Reporter(
            client,
            VIRTUAL_MACHINES,
            events,
            self._take,
            owned=("powerState", "lastExit"),
            owned_conditions=("Ready", "Reconciling", "Stalled"),
            clock=clock.monotonic,
        )

    def _take(self, written: Object) -> None:
        self.read = written

    async def report(self, status: dict[str, Any]) -> float | None:
        return await self.reporter.report(self.read, status)

    @property
    def writes(self) -> int:
        return len(self.client.applied)


@pytest.fixture
def reporting(client: InMemoryClient, events: EventsDouble, clock: Clock) -> Reporting:
    return Reporting(client, events, clock)


def said(reason: str, ready: str = "False", *, beside: str = "", message: str = "", **fields: Any) -> dict[str, Any]:
    """A status with Ready, and with Reconciling or Stalled for the same reason."""
    conditions = [
        {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": THEN}
        for type_, status in (("Ready", ready), *([(beside, "True")] if beside else []))
    ]
    return {"powerState": "Stopped", "conditions": conditions} | fields


RUNNING = said("Running", "True", powerState="Running")
STARTING = said("Starting", beside="Reconciling")
PAUSING = said("Pausing", beside="Reconciling", powerState="Running")
BACK_OFF = said("CrashLoopBackOff", beside="Reconciling", message="it ended again")
REFUSED = said("LaunchFailed", beside="Stalled", message="no such model")
HUNG = said("Unresponsive", "Unknown", beside="Reconciling", message="no answer", powerState="Unknown")


async def test_what_differs_is_written_at_once(reporting: Reporting) -> None:
    assert await reporting.report(RUNNING) is None
    assert reporting.client.applied == [("web", RUNNING)]


async def test_what_does_not_differ_is_not_written(reporting: Reporting) -> None:
    for _ in range(3):
        assert await reporting.report(RUNNING) is None
    assert reporting.writes == 1


async def test_a_field_that_is_said_no_longer_is_a_difference(reporting: Reporting) -> None:
    await reporting.report(RUNNING | {"lastExit": {"reason": "Crashed", "time": THEN}})
    await reporting.report(RUNNING)
    assert reporting.writes == 2
    assert "lastExit" not in reporting.read["status"]


# --- states that pass -------------------------------------------------------------------------------------------------


async def test_a_passing_state_is_written_when_it_has_lasted_a_second(reporting: Reporting) -> None:
    assert await reporting.report(STARTING) == 1.0
    reporting.clock.advance(0.75)
    assert await reporting.report(STARTING) == 0.25
    assert reporting.writes == 0
    reporting.clock.advance(0.25)
    assert await reporting.report(STARTING) is None
    assert reporting.writes == 1


async def test_a_state_that_passed_within_the_second_is_never_written(reporting: Reporting) -> None:
    await reporting.report(STARTING)
    reporting.clock.advance(0.3)
    await reporting.report(RUNNING)
    assert [status for _, status in reporting.client.applied] == [RUNNING]


async def test_the_second_begins_anew_after_the_state_was_left(reporting: Reporting) -> None:
    await reporting.report(RUNNING)
    await reporting.report(PAUSING)
    reporting.clock.advance(0.9)
    await reporting.report(RUNNING)
    reporting.clock.advance(10)
    assert await reporting.report(PAUSING) == 1.0
    assert reporting.writes == 1


async def test_a_passing_state_that_turns_into_another_is_written_a_second_after_the_first(
    reporting: Reporting,
) -> None:
    await reporting.report(STARTING)
    reporting.clock.advance(1)
    assert await reporting.report(said("VolumeNotReady", beside="Reconciling")) is None
    assert reporting.writes == 1


@pytest.mark.parametrize("status", [BACK_OFF, REFUSED, HUNG], ids=["waits for long", "stalled", "does not answer"])
async def test_what_will_not_pass_by_itself_is_written_at_once(reporting: Reporting, status: dict[str, Any]) -> None:
    assert await reporting.report(status) is None
    assert reporting.writes == 1


async def test_objects_pass_each_in_its_own_time(reporting: Reporting) -> None:
    other = reporting.client.put(VIRTUAL_MACHINES, vm("db", uid="vm-2"))
    await reporting.report(STARTING)
    reporting.clock.advance(0.5)
    assert await reporting.reporter.report(other, STARTING) == 1.0


async def test_of_an_object_that_is_gone_nothing_is_remembered(reporting: Reporting) -> None:
    await reporting.report(STARTING)
    reporting.clock.advance(5)
    reporting.reporter.forget("vm-1")
    assert await reporting.report(STARTING) == 1.0


# --- Events -----------------------------------------------------------------------------------------------------------


async def test_a_transition_is_told_once(reporting: Reporting) -> None:
    await reporting.report(BACK_OFF)
    await reporting.report(BACK_OFF | {"powerState": "Paused"})
    await reporting.report(RUNNING)
    assert reporting.writes == 3
    assert reporting.events.said == [
        ("Normal", "CrashLoopBackOff", "it ended again"),
        ("Normal", "Running", "VirtualMachine is Running"),
    ]


async def test_another_reason_is_a_transition_and_other_words_for_it_are_none(reporting: Reporting) -> None:
    await reporting.report(BACK_OFF)
    await reporting.report(said("CrashLoopBackOff", beside="Reconciling", message="and again"))
    await reporting.report(REFUSED)
    assert reporting.writes == 3
    assert [reason for _, reason, _ in reporting.events.said] == ["CrashLoopBackOff", "LaunchFailed"]


@pytest.mark.parametrize("status", [REFUSED, HUNG], ids=["stalled", "unknown"])
async def test_what_somebody_should_look_at_is_a_warning(reporting: Reporting, status: dict[str, Any]) -> None:
    await reporting.report(status)
    assert [type_ for type_, _, _ in reporting.events.said] == ["Warning"]


@pytest.mark.parametrize(
    ("reason", "type_"),
    [
        ("Stopped", "Normal"),
        ("PoweredOff", "Normal"),
        ("GuestShutdown", "Warning"),
        ("Crashed", "Warning"),
        ("HostRebooted", "Warning"),
    ],
)
async def test_an_exit_is_told_once_as_a_warning_unless_it_was_asked_for(
    reporting: Reporting, reason: str, type_: str
) -> None:
    await reporting.report(RUNNING)
    ended = RUNNING | {"lastExit": {"reason": reason, "time": THEN, "message": "so it went"}}
    await reporting.report(ended)
    await reporting.report(ended | {"powerState": "Paused"})
    assert reporting.events.said[1:] == [(type_, reason, "so it went")]


async def test_two_exits_of_the_same_kind_are_two_events(reporting: Reporting) -> None:
    for minute in (1, 2):
        time = f"2026-11-24T10:0{minute}:00Z"
        await reporting.report(RUNNING | {"lastExit": {"reason": "Crashed", "time": time}})
    assert [reason for _, reason, _ in reporting.events.said] == ["Running", "Crashed", "Crashed"]


async def test_what_was_not_written_is_not_told_and_tried_again(reporting: Reporting) -> None:
    reporting.client.errors.append(Conflict("modified", status=409))
    before = reporting.read
    with pytest.raises(Conflict):
        await reporting.report(RUNNING)
    assert (reporting.events.said, reporting.read) == ([], before)
    await reporting.report(RUNNING)
    assert (reporting.writes, len(reporting.events.said)) == (1, 1)
