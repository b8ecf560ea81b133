"""When a machine that ends by itself is started again: state in, seconds out."""

from datetime import UTC, datetime, timedelta

import pytest

from virtplane_agent.machines.restarts import Restarts, may_restart
from virtplane_api.vocabulary import ENDED_AS_ASKED, ExitReason, PowerState, RestartPolicy
from virtplane_drivers.hypervisor.contract import Exit, Observed

START = datetime(2026, 11, 24, 10, tzinfo=UTC)


def ended(at_s: float) -> Observed:
    return Observed(PowerState.STOPPED, last_exit=Exit(ExitReason.CRASHED, START + timedelta(seconds=at_s)))


def waits_s(restarts: Restarts, *, ends_at_s: list[float]) -> list[float]:
    """How long the machine waits when it is looked at just as it ended."""
    return [restarts.wait_s("vm-1", ended(at_s), now=START + timedelta(seconds=at_s)) for at_s in ends_at_s]


def test_the_wait_grows_with_ends_that_follow_each_other() -> None:
    """The numbers are `Recurrences`'s."""
    assert waits_s(Restarts(), ends_at_s=[0, 10, 20, 700]) == [0, 5, 10, 0]


def test_looking_again_at_the_same_end_counts_it_once_and_the_time_passes() -> None:
    restarts = Restarts()
    waits_s(restarts, ends_at_s=[0, 10])
    left = [restarts.wait_s("vm-1", ended(10), now=START + timedelta(seconds=10 + passed)) for passed in (0, 2, 5, 60)]
    assert left == [5, 3, 0, 0]


@pytest.mark.parametrize(
    ("clock_moves_s", "wait_s"), [(-5 * 3600, 5), (-1, 5), (5 * 3600, 0)], ids=["hours back", "a second back", "ahead"]
)
def test_a_clock_that_was_set_changes_the_wait_within_its_bounds(clock_moves_s: float, wait_s: float) -> None:
    restarts = Restarts()
    waits_s(restarts, ends_at_s=[0, 10])
    assert restarts.wait_s("vm-1", ended(10), now=START + timedelta(seconds=10 + clock_moves_s)) == wait_s


def test_an_end_before_the_one_before_it_follows_it() -> None:
    """The clock was set back between the two."""
    assert waits_s(Restarts(), ends_at_s=[0, -3600]) == [0, 5]


def test_a_machine_that_never_ended_never_waits() -> None:
    assert Restarts().wait_s("vm-1", Observed(PowerState.STOPPED), now=START) == 0


def test_machines_wait_each_for_its_own_ends() -> None:
    restarts = Restarts()
    waits_s(restarts, ends_at_s=[0, 10])
    assert restarts.wait_s("vm-2", ended(20), now=START + timedelta(seconds=20)) == 0


def test_what_was_stopped_as_asked_starts_at_once_again() -> None:
    restarts = Restarts()
    waits_s(restarts, ends_at_s=[0, 10, 20])
    restarts.forget("vm-1")
    assert waits_s(restarts, ends_at_s=[30]) == [0]


# --- whether it is started again at all -------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", sorted(set(ExitReason) - ENDED_AS_ASKED))
def test_always_and_never_mean_what_they_say(reason: ExitReason) -> None:
    assert may_restart(RestartPolicy.ALWAYS, reason)
    assert not may_restart(RestartPolicy.NEVER, reason)


def test_only_a_guest_that_shut_itself_down_has_not_failed() -> None:
    restarted = {reason for reason in set(ExitReason) - ENDED_AS_ASKED if may_restart(RestartPolicy.ON_FAILURE, reason)}
    assert restarted == {
        ExitReason.GUEST_PANICKED,
        ExitReason.WATCHDOG_EXPIRED,
        ExitReason.KILLED,
        ExitReason.CRASHED,
        ExitReason.HOST_REBOOTED,
    }
