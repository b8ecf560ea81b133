"""What must hold of the table of steps, whichever rows it gets. The rows themselves: docs/machine-steps.md."""

from typing import Any

import pytest

from virtplane_agent.machines.steps import NEXT, Goal, Seen, Step, seen
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Observed

ROWS = [pytest.param(looks, goal, id=f"{looks}, wanted {goal}") for looks, goal in NEXT]
IS_OFF = {Seen.STOPPED, Seen.ENDED, Seen.SUSPENDED}
NO_PROCESS = {Seen.ABSENT, *IS_OFF}
"""Of all others a process of the machine may be there."""


@pytest.mark.parametrize(("looks", "goal"), ROWS)
def test_a_machine_that_may_run_is_never_started_a_second_time(looks: Seen, goal: Goal) -> None:
    starts = {Step.START, Step.RESTART, Step.WAKE}
    assert NEXT[looks, goal] not in starts or looks in NO_PROCESS


@pytest.mark.parametrize(("looks", "goal"), ROWS)
def test_a_machine_is_destroyed_exactly_when_it_is_to_go_and_is_off(looks: Seen, goal: Goal) -> None:
    assert (NEXT[looks, goal] is Step.DESTROY) == (goal is Goal.ABSENT and looks in IS_OFF)


@pytest.mark.parametrize(("looks", "goal"), ROWS)
def test_what_is_as_wanted_is_left_alone(looks: Seen, goal: Goal) -> None:
    if looks.value == goal.value or (looks is Seen.ABSENT and goal in (Goal.STOPPED, Goal.ABSENT)):
        assert NEXT[looks, goal] is Step.NONE


@pytest.mark.parametrize(("looks", "goal"), ROWS)
def test_what_is_not_known_is_never_taken_for_what_is_wanted(looks: Seen, goal: Goal) -> None:
    if looks is Seen.UNKNOWN:
        assert NEXT[looks, goal] in (Step.LOOK_AGAIN, Step.SHUT_DOWN)


def test_only_what_has_no_memory_to_keep_cannot_be_suspended() -> None:
    """Every other wish leads on from every state that is known."""
    dead_ends = {
        (looks, goal)
        for (looks, goal), step in NEXT.items()
        if step in (Step.NONE, Step.LOOK_AGAIN) and looks.value != goal.value and looks is not Seen.UNKNOWN
    }
    assert dead_ends == {
        (Seen.ABSENT, Goal.STOPPED),
        (Seen.ABSENT, Goal.ABSENT),
        (Seen.ABSENT, Goal.SUSPENDED),
        (Seen.STOPPED, Goal.SUSPENDED),
        (Seen.ENDED, Goal.SUSPENDED),
    }


@pytest.mark.parametrize(
    ("power", "more", "looks"),
    [
        (None, {}, Seen.ABSENT),
        (PowerState.STOPPED, {}, Seen.STOPPED),
        (PowerState.STOPPED, {"ended_by_itself": True}, Seen.ENDED),
        (PowerState.RUNNING, {}, Seen.RUNNING),
        (PowerState.PAUSED, {"has_io_error": True}, Seen.PAUSED),
        (PowerState.SUSPENDED, {}, Seen.SUSPENDED),
        (PowerState.UNKNOWN, {}, Seen.UNKNOWN),
    ],
)
def test_every_observation_has_its_row(power: PowerState | None, more: dict[str, Any], looks: Seen) -> None:
    assert seen(Observed(power, **more)) is looks
