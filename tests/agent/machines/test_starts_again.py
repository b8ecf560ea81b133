"""Machines that are started again: after an end by themselves, as their policy says, and when that is asked for."""

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import conditions, vm
from virtplane_api.reconcile import Done, Wait
from virtplane_api.vocabulary import ExitReason

GRACE_S = 60
OLD, NEW = "2026-11-24T09:00:00Z", "2026-11-24T09:30:00Z"


async def test_a_machine_that_crashes_again_waits_says_why_and_is_started_when_its_time_has_come(
    agent: AgentInMemory,
) -> None:
    uid = agent.given(vm())
    await agent.look(uid)
    agent.clock.advance(1)
    agent.world.crash(uid)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"] * 2  # after the first crash: at once

    agent.clock.advance(1)
    agent.world.crash(uid)
    assert await agent.look(uid) == Wait(5.0, "look again")
    status = await agent.status()
    assert conditions(status) == {"Ready": ("False", "CrashLoopBackOff"), "Reconciling": ("True", "CrashLoopBackOff")}
    assert "(Crashed): ended by signal 9" in status["conditions"][0]["message"]

    agent.clock.advance(4.9)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    agent.clock.advance(0.1)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]


async def test_stopping_and_starting_a_machine_ends_its_back_off(agent: AgentInMemory) -> None:
    uid = agent.given(vm())
    for _ in range(2):
        await agent.look(uid)
        agent.clock.advance(1)
        agent.world.crash(uid)
    assert await agent.look(uid) == Wait(5.0, "look again")
    agent.given(vm(power_state="Stopped"))
    await agent.look(uid)
    agent.given(vm())
    agent.hypervisor.verbs_since()
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]


@pytest.mark.parametrize(
    ("policy", "ends", "started"),
    [
        ("Always", "guest_shuts_down", True),
        ("Always", "crash", True),
        ("OnFailure", "guest_shuts_down", False),
        ("OnFailure", "crash", True),
        ("Never", "guest_shuts_down", False),
        ("Never", "crash", False),
    ],
)
async def test_a_machine_that_ended_by_itself_is_started_again_as_its_policy_says(
    agent: AgentInMemory,
    policy: str,
    ends: str,
    started: bool,  # noqa: FBT001
) -> None:
    uid = agent.given(vm(restartPolicy=policy))
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    getattr(agent.world, ends)(uid)
    outcome = await agent.look(uid)
    assert agent.hypervisor.verbs_since() == (["define", "start"] if started else [])
    status = await agent.status()
    if started:
        assert (status["powerState"], status["restarts"]) == ("Running", 1)
    else:
        assert outcome == Done()
        reason = agent.world.machines[uid].last_exit
        assert reason is not None
        # Nothing will come of itself, and nothing is broken: it is as its own spec says.
        assert conditions(status) == {"Ready": ("False", reason.reason)}
        assert "a newer restartedAt starts it" in status["conditions"][0]["message"]


async def test_what_is_held_by_its_policy_is_started_by_a_newer_restart_request_and_once(agent: AgentInMemory) -> None:
    uid = agent.given(vm(restartPolicy="Never", restartedAt=OLD))
    await agent.look(uid)
    agent.world.guest_shuts_down(uid)
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    agent.given(vm(restartPolicy="Never", restartedAt=NEW))
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]
    assert (await agent.status())["restartedAt"] == NEW
    agent.world.guest_shuts_down(uid)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []


async def test_a_machine_that_was_stopped_after_it_ended_by_itself_is_as_asked(agent: AgentInMemory) -> None:
    uid = agent.given(vm(restartPolicy="Never"))
    await agent.look(uid)
    agent.world.crash(uid)
    agent.given(vm(restartPolicy="Never", power_state="Stopped"))
    await agent.look(uid)
    assert conditions(await agent.status()) == {"Ready": ("True", "Stopped")}
    agent.given(vm(restartPolicy="Never"))
    agent.hypervisor.verbs_since()
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]


# --- restarts that are asked for --------------------------------------------------------------------------------------


async def test_a_restart_shuts_the_guest_down_and_starts_it_with_the_spec_of_now(agent: AgentInMemory) -> None:
    uid = agent.given(vm())
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    agent.given(vm(restartedAt=NEW, cpu={"cores": 4}))
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["shut_down"]
    await agent.is_off(uid)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]
    status = await agent.status()
    assert (status["effective"]["cpu"]["cores"], status["restartedAt"]) == (4, NEW)
    assert conditions(status) == {"Ready": ("True", "Running")}
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []


async def test_a_restart_that_was_asked_for_once_happens_once_over_a_restart_of_the_agent(agent: AgentInMemory) -> None:
    uid = agent.given(vm(restartedAt=NEW))
    await agent.look(uid)
    agent.restart()
    agent.hypervisor.verbs_since()
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []


@pytest.mark.parametrize("dies_meanwhile", [False, True], ids=["as asked", "dies while it shuts down"])
async def test_a_restart_that_is_asked_for_happens_whatever_the_policy_says_of_ends_by_itself(
    agent: AgentInMemory,
    dies_meanwhile: bool,  # noqa: FBT001
) -> None:
    uid = agent.given(vm(restartPolicy="Never"))
    await agent.look(uid)
    agent.hypervisor.faults.shut_down_s = None
    agent.hypervisor.verbs_since()
    agent.given(vm(restartPolicy="Never", restartedAt=NEW))
    await agent.look(uid)
    if dies_meanwhile:
        agent.world.crash(uid)
    else:
        agent.world.end(uid, ExitReason.STOPPED)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["shut_down", "define", "start"]
    assert (await agent.status())["restartedAt"] == NEW
    agent.world.crash(uid)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []  # the next end is held again


async def test_a_restart_that_is_asked_for_does_not_wait_for_a_back_off(agent: AgentInMemory) -> None:
    uid = agent.given(vm())
    for _ in range(2):
        await agent.look(uid)
        agent.clock.advance(1)
        agent.world.crash(uid)
    assert await agent.look(uid) == Wait(5.0, "look again")
    agent.given(vm(restartedAt=NEW))
    agent.hypervisor.verbs_since()
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]


@pytest.mark.parametrize("power_state", ["Running", "Paused"])
async def test_a_hung_machine_is_restarted_by_force_when_its_time_is_over_and_not_before(
    agent: AgentInMemory, power_state: str
) -> None:
    uid = agent.given(vm())
    await agent.look(uid)
    agent.world.hang(uid)
    agent.hypervisor.verbs_since()
    agent.given(vm(power_state=power_state, restartedAt=NEW, terminationGracePeriodSeconds=15))
    await agent.look(uid)
    assert conditions(await agent.status())["Ready"] == ("Unknown", "Unresponsive")
    agent.clock.advance(14)
    await agent.look(uid)
    assert set(agent.hypervisor.verbs_since()) == {"shut_down"}
    agent.clock.advance(1)
    await agent.look(uid)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["power_off", "define", "start"]
    await agent.look(uid)
    status = await agent.status()
    assert (status["restartedAt"], conditions(status)["Ready"]) == (NEW, ("True", power_state))


async def test_a_guest_that_does_not_hear_is_restarted_by_force_when_its_time_is_over(agent: AgentInMemory) -> None:
    agent.hypervisor.faults.shut_down_s = None
    uid = agent.given(vm(restartedAt=OLD))
    await agent.look(uid)
    agent.given(vm(restartedAt=NEW))
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    agent.clock.advance(GRACE_S)
    await agent.look(uid)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["power_off", "define", "start"]
