"""How long what happens over and over waits: when it happened in, seconds out."""

from collections.abc import Sequence

import pytest

from virtplane_api.reconcile.backoff import Recurrences, backoff_s

KEY = "vm-1"


def waits_s(recurrences: Recurrences[str], at_s: Sequence[float]) -> list[float]:
    """How long it waits just after each time."""
    waits = []
    for at in at_s:
        recurrences.add(KEY, at)
        waits.append(recurrences.wait_s(KEY, at))
    return waits


@pytest.mark.parametrize(
    ("unpunished", "at_s", "expected_s"),
    [
        pytest.param(1, [0], [0], id="the first time: at once"),
        pytest.param(0, [0], [5], id="or not"),
        pytest.param(1, [0, 10], [0, 5], id="again within ten minutes"),
        pytest.param(1, [0, 10, 20, 40], [0, 5, 10, 20], id="doubling"),
        pytest.param(1, [0, 599], [0, 5], id="just within ten minutes"),
        pytest.param(1, [0, 600], [0, 0], id="ten minutes later it is a first time again"),
        pytest.param(0, [0, 600], [5, 5], id="which may wait too"),
        pytest.param(1, [0, 10, 20, 700, 710], [0, 5, 10, 0, 5], id="from the start again after it was stable"),
        pytest.param(1, [0, -3600], [0, 5], id="the clock was put back in between"),
        pytest.param(1, range(12), [0, 5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300], id="five minutes at most"),
        pytest.param(1, range(1100), [0, 5, 10, 20, 40, 80, 160, *[300] * 1093], id="for days"),
    ],
)
def test_the_wait_grows_with_times_that_follow_each_other(
    unpunished: int, at_s: Sequence[float], expected_s: list[float]
) -> None:
    assert waits_s(Recurrences(unpunished=unpunished), at_s) == expected_s


@pytest.mark.parametrize(
    ("now_s", "expected_s"),
    [
        pytest.param([12, 15, 60], [3, 0, 0], id="it passes"),
        pytest.param([9], [5], id="a clock that was put back a second"),
        pytest.param([-18000, -17998, -17995], [5, 3, 0], id="hours: no longer than without"),
        pytest.param([18000], [0], id="a clock that was put ahead"),
    ],
)
def test_a_wait_passes_whatever_becomes_of_the_clock(now_s: list[float], expected_s: list[float]) -> None:
    recurrences: Recurrences[str] = Recurrences()
    waits_s(recurrences, [0, 10])
    assert [recurrences.wait_s(KEY, now) for now in now_s] == expected_s


def test_each_waits_for_its_own_times_only_and_not_once_it_is_forgotten() -> None:
    recurrences: Recurrences[str] = Recurrences()
    waits_s(recurrences, [0, 10])
    assert recurrences.wait_s("vm-2", 10) == 0
    recurrences.forget(KEY)
    assert waits_s(recurrences, [20]) == [0]


def test_backoff_doubles_up_to_a_minute_with_a_fifth_of_jitter() -> None:
    for failures, middle_s in ((1, 0.5), (2, 1.0), (3, 2.0), (8, 60.0), (1000, 60.0)):
        assert 0.8 * middle_s <= backoff_s(failures) <= 1.2 * middle_s
