"""An action is done once at most, and what became of it is told."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.agent.doubles import Clock, EventsDouble, InMemoryClient
from tests.agent.machines.agent_in_memory import AgentInMemory, in_memory
from tests.agent.objects import AGENT, HYPERVISOR, tell, vm
from virtplane_agent.actions.reconcile import ActionReconciler
from virtplane_agent.endpoints import Endpoints
from virtplane_agent.placed import Placed
from virtplane_api.actions import without_results
from virtplane_api.kube.conditions import timestamp
from virtplane_api.kube.errors import ApiUnavailable, Conflict, Invalid
from virtplane_api.kube.resources import ACTIONS, Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hypervisor.contract import GuestCommandResult

UID = "act-1"


class Acting:
    """The part of an agent that acts; a test decides when it looks."""

    def __init__(self, agent: AgentInMemory) -> None:
        self.agent = agent
        self.client = agent.client
        self.events = EventsDouble()
        self.actions = Placed(agent.client, ACTIONS, AGENT, lambda _uid: None, keep=without_results)
        self.ended = asyncio.Event()
        self.restart()

    def restart(self) -> None:
        """A new agent on the same host: what was remembered is gone."""
        self.reconciler = ActionReconciler(
            self.client,
            self.agent.endpoints,
            self.actions,
            self.agent.machines,
            self.events,
            lambda _uid: self.ended.set(),
            clock=lambda: self.agent.clock.now,
        )

    def given(self, type_: str, *, status: dict[str, Any] | None = None, **spec: Any) -> Object:
        """The API server holds it, and the watch has told of it."""
        placement = {"hypervisor": HYPERVISOR, "agentName": AGENT, "vmUID": uid_of(vm())}
        obj = {
            "apiVersion": ACTIONS.api_version,
            "kind": ACTIONS.kind,
            "metadata": {
                "name": "act",
                "namespace": "shop",
                "uid": UID,
                "generation": 1,
                "creationTimestamp": timestamp(self.agent.clock.now),
            },
            "spec": {"vmName": "web", "type": type_} | spec,
            "status": {"observedGeneration": -1, "placement": placement} | (status or {}),
        }
        return self.tell(obj)

    def tell(self, obj: Object) -> Object:
        stored = self.client.put(ACTIONS, obj)
        tell(self.actions.informer, stored)
        return stored

    async def to_its_end(self) -> dict[str, Any]:
        """Passes until it is reported; its status."""
        await self.reconciler.reconcile(UID)
        if self.reconciler._acts:
            await asyncio.wait_for(self.ended.wait(), 5)
            await self.reconciler.reconcile(UID)
        return await self.status()

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = (await self.client.get(ACTIONS, "act", "shop"))["status"]
        return status

    def serial(self) -> str:
        """What was done to the fake guest."""
        return self.agent.world.machines[uid_of(vm())].serial.decode().removeprefix("fake guest: up\n")


@pytest.fixture
async def acting() -> AsyncIterator[Acting]:
    async with in_memory(InMemoryClient(), Clock()) as agent:
        web = vm(display={"type": "VGA"})
        agent.given(web)
        await agent.running(web)
        one = Acting(agent)
        yield one
        await one.reconciler.stop()


def outcome(status: dict[str, Any]) -> tuple[str, str]:
    [one] = [condition for condition in status["conditions"] if condition["status"] == "True"]
    return one["type"], one["reason"]


async def test_a_reset_is_done_and_reported_in_two_writes(acting: Acting) -> None:
    acting.given("Reset")
    status = await acting.to_its_end()
    assert outcome(status) == ("Complete", "Completed")
    assert status["startTime"] == status["completionTime"] == timestamp(acting.agent.clock.now)
    assert acting.serial().count("reset") == 1
    assert len(acting.client.applied) == 2
    assert [said[:2] for said in acting.events.said] == [("Normal", "Completed")] * 2  # of the action, of the machine


async def test_a_finished_one_is_not_touched_again(acting: Acting) -> None:
    acting.given("Reset")
    await acting.to_its_end()
    for _ in range(3):
        assert await acting.reconciler.reconcile(UID) == Done()
    acting.restart()
    assert await acting.reconciler.reconcile(UID) == Done()
    assert acting.serial().count("reset") == 1
    assert len(acting.client.applied) == 2


@pytest.mark.parametrize(
    ("type_", "spec", "shown"),
    [
        ("NMI", {}, "NMI"),
        ("SendKeys", {"sendKeys": {"keys": ["KEY_LEFTALT", "KEY_F4"]}}, "keys KEY_LEFTALT KEY_F4"),
    ],
)
async def test_other_acts_arrive_as_they_were_asked_for(
    acting: Acting, type_: str, spec: dict[str, Any], shown: str
) -> None:
    acting.given(type_, **spec)
    assert outcome(await acting.to_its_end()) == ("Complete", "Completed")
    assert shown in acting.serial()


async def test_a_screenshot_is_in_the_status_and_not_kept_in_memory(acting: Acting) -> None:
    acting.given("Screenshot")
    status = await acting.to_its_end()
    assert base64.b64decode(status["screenshot"]["png"]).startswith(b"\x89PNG")
    kept = acting.actions.get(UID)
    assert kept is not None
    assert "screenshot" not in kept["status"]


async def test_a_command_s_end_and_its_output_are_in_the_status(acting: Acting) -> None:
    acting.given("GuestCommand", guestCommand={"command": ["cat", "-"], "stdin": "fed\0"})
    status = await acting.to_its_end()
    assert outcome(status) == ("Complete", "Completed")
    assert status["guestCommand"] == {
        "exitCode": 0,
        "stdout": "cat -\nfed\N{REPLACEMENT CHARACTER}",
        "stderr": "",
        "outputTruncated": False,
    }


@pytest.mark.parametrize(
    ("result", "message", "told"),
    [
        (GuestCommandResult(3, None, b"out", b"err"), "the command ended with exit code 3", {"exitCode": 3}),
        (GuestCommandResult(None, 9, b"out", b"err"), "the command ended with signal 9", {"signal": 9}),
    ],
    ids=["an exit code", "a signal"],
)
async def test_a_command_that_fails_is_a_failed_action_with_all_that_it_came_to(
    acting: Acting, result: GuestCommandResult, message: str, told: dict[str, int]
) -> None:
    acting.agent.hypervisor.faults.guest_command = result
    acting.given("GuestCommand", guestCommand={"command": ["false"]})
    status = await acting.to_its_end()
    assert outcome(status) == ("Failed", "CommandFailed")
    assert message in {condition["message"] for condition in status["conditions"]}
    assert status["guestCommand"] == told | {"stdout": "out", "stderr": "err", "outputTruncated": False}


async def test_a_command_s_output_is_cut_to_what_a_status_holds(acting: Acting) -> None:
    acting.agent.hypervisor.faults.guest_command = GuestCommandResult(0, None, b"o" * (1 << 20), b"e" * (1 << 20))
    acting.given("GuestCommand", guestCommand={"command": ["dmesg"]})
    told = (await acting.to_its_end())["guestCommand"]
    assert (len(told["stdout"]), len(told["stderr"]), told["outputTruncated"]) == (64 << 10, 64 << 10, True)


async def test_an_agent_that_dies_in_the_middle_does_not_try_again(acting: Acting) -> None:
    """Nobody knows whether the guest was reset."""
    action = acting.given("Reset", status={"startTime": timestamp(acting.agent.clock.now)})
    assert outcome(await acting.to_its_end()) == ("Failed", "Interrupted")
    assert acting.serial() == ""
    assert (await acting.status())["startTime"] == action["status"]["startTime"]


async def test_nothing_is_done_when_the_beginning_could_not_be_written(acting: Acting) -> None:
    acting.given("Reset")
    acting.client.errors.append(ApiUnavailable("away"))
    with pytest.raises(ApiUnavailable):
        await acting.reconciler.reconcile(UID)
    assert acting.serial() == ""
    assert outcome(await acting.to_its_end()) == ("Complete", "Completed")
    assert acting.serial().count("reset") == 1


async def test_an_action_that_the_operator_gave_up_just_now_is_not_begun(acting: Acting) -> None:
    """Of two writers of one resourceVersion one is refused."""
    stored = acting.given("Reset")
    acting.client.put(ACTIONS, stored | {"status": stored["status"] | {"completionTime": "2026-11-24T10:00:00Z"}})
    with pytest.raises(Conflict):
        await acting.reconciler.reconcile(UID)
    assert acting.serial() == ""


async def test_the_result_is_reported_when_the_api_server_is_back_and_the_act_not_repeated(acting: Acting) -> None:
    acting.given("Reset")
    await acting.reconciler.reconcile(UID)
    await asyncio.wait_for(acting.ended.wait(), 5)
    for _ in range(3):
        acting.client.errors.append(ApiUnavailable("away"))
        with pytest.raises(ApiUnavailable):
            await acting.reconciler.reconcile(UID)
    await acting.reconciler.reconcile(UID)
    assert outcome(await acting.status()) == ("Complete", "Completed")
    assert acting.serial().count("reset") == 1


async def test_one_that_is_hours_old_is_left_to_the_operator(acting: Acting) -> None:
    acting.given("Reset")
    acting.agent.clock.now += timedelta(hours=3)
    assert await acting.reconciler.reconcile(UID) == Done()
    assert acting.serial() == ""
    assert acting.client.applied == []


async def test_what_a_driver_says_against_it_is_the_reason(acting: Acting) -> None:
    acting.given("Reset")
    acting.agent.hypervisor.faults.refuse("reset", Unavailable("it is away", reason=Reason.SUSPENDING))
    status = await acting.to_its_end()
    assert outcome(status) == ("Failed", "Suspending")
    assert status["conditions"][0]["message"] == "it is away"
    assert [said[0] for said in acting.events.said] == ["Warning", "Warning"]


async def test_a_fault_of_ours_stays_with_that_action(acting: Acting) -> None:
    acting.given("SendKeys", sendKeys={"keys": ["KEY_OF_ANOTHER_VERSION"]})
    assert outcome(await acting.to_its_end()) == ("Failed", "Fault")


async def test_a_machine_that_is_not_here_any_more_is_not_acted_on(acting: Acting) -> None:
    action = acting.given("Reset")
    action["status"]["placement"]["vmUID"] = "another"
    acting.tell(action)
    status = await acting.to_its_end()
    assert outcome(status) == ("Failed", "MachineMoved")
    assert "startTime" not in status


async def test_a_machine_that_the_watch_has_not_told_of_yet_is_asked_for_by_name(acting: Acting) -> None:
    """Absence is no order, and no news either."""
    acting.given("Reset")
    acting.agent.machines._by_uid.clear()
    assert outcome(await acting.to_its_end()) == ("Complete", "Completed")
    assert acting.serial().count("reset") == 1


async def test_an_action_that_is_deleted_meanwhile_is_given_up(acting: Acting) -> None:
    acting.given("Reset")
    await acting.reconciler.reconcile(UID)
    [act] = acting.reconciler._acts.values()
    acting.client.remove(ACTIONS, await acting.client.get(ACTIONS, "act", "shop"))
    acting.actions.informer.objects.clear()
    acting.actions._changed(next(iter(acting.actions._uids)))
    await acting.reconciler.reconcile(UID)
    await asyncio.wait({act})
    assert acting.reconciler._acts == {}


async def test_a_result_that_the_api_does_not_take_is_an_end_too(acting: Acting) -> None:
    acting.given("Reset")
    await acting.reconciler.reconcile(UID)
    await asyncio.wait_for(acting.ended.wait(), 5)
    acting.client.errors.append(Invalid("status.guestCommand.signal: too small", status=422))
    await acting.reconciler.reconcile(UID)
    status = await acting.status()
    assert outcome(status) == ("Failed", "Fault")
    assert "startTime" in status


async def test_what_this_host_s_hypervisor_cannot_do_is_not_begun_and_says_why(acting: Acting) -> None:
    acting.given("Screenshot")
    [endpoint] = acting.agent.endpoints.hypervisors.values()
    facts = replace(
        endpoint.facts,
        capabilities=endpoint.facts.capabilities - {"Screenshot"},
        missing={"Screenshot": "it is too old"},
    )
    acting.agent.endpoints = Endpoints({endpoint.name: replace(endpoint, facts=facts)}, {})
    acting.restart()
    status = await acting.to_its_end()
    assert outcome(status) == ("Failed", "NotSupported")
    assert status["conditions"][0]["message"].endswith("lacks the capability Screenshot: it is too old")
    assert "startTime" not in status
