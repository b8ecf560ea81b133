"""H1, H2, H5, H6, H10 to H13, H21, H27 and H29 all at once, in random conversations with an adversary."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.drivers.qemu.monitor.conversation import End, Outcome, converse
from tests.drivers.qemu.monitor.fuzz import play_many


class LoadedDice(Random):
    """Most throws of a tame one are the middle, with which nothing happens: so a failure shrinks to what it takes."""

    def __init__(self, seed: int, wildness_percent: int) -> None:
        super().__init__(seed)
        self._wildness = wildness_percent / 100

    def random(self) -> float:
        return super().random() if super().random() < self._wildness else 0.5


@given(seed=st.integers(0, 1 << 32), wildness_percent=st.integers(0, 100), exchanges=st.integers(1, 400))
@settings(max_examples=300, deadline=None)
def test_no_reply_is_lost_doubled_or_misrouted_whatever_is_split_delayed_cancelled_or_interleaved(
    seed: int, wildness_percent: int, exchanges: int
) -> None:
    account = converse(LoadedDice(seed, wildness_percent), exchanges)
    assert account.faults == []
    assert (account.lost, account.doubled, account.outcomes[Outcome.MISROUTED]) == (0, 0, 0)


def test_twenty_thousand_exchanges_of_which_none_goes_wrong() -> None:
    account, _conversations = play_many(seed=1, exchanges=20_000)
    assert account.faults == []
    # It says something only if all this happens in it.
    assert all(account.outcomes[o] > 100 for o in Outcome if o is not Outcome.MISROUTED), account.outcomes
    assert all(account.ends[end] > 1 for end in End), account.ends
    assert min(account.strays, account.events, account.dropped) > 1000
