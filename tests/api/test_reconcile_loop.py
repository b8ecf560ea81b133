"""The keyed loop: one pass per key at a time, nothing missed, one key's trouble its own. Real time is never waited for:
passes are steered by events, and waits are read from the loop's timers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from virtplane_api.reconcile import Done, Failed, Outcome, ReconcileLoop, Wait


@asynccontextmanager
async def running(
    reconcile: Callable[[str], Awaitable[Outcome]], concurrency: int = 4
) -> AsyncIterator[ReconcileLoop[str]]:
    loop = ReconcileLoop("test", reconcile, concurrency=concurrency)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def idle(loop: ReconcileLoop[str]) -> None:
    async with asyncio.timeout(5):
        while loop.depth:
            await asyncio.sleep(0)


async def test_a_key_enqueued_many_times_before_its_pass_is_passed_over_once() -> None:
    passes: Counter[str] = Counter()

    async def reconcile(key: str) -> Outcome:
        passes[key] += 1
        return Done()

    async with running(reconcile) as loop:
        for _ in range(100):
            loop.enqueue("a")
        await idle(loop)
    assert passes == {"a": 1}


async def test_a_change_during_a_pass_brings_exactly_one_more_pass_and_never_two_at_once() -> None:
    inside = 0
    passes = 0
    entered = asyncio.Event()
    go_on = asyncio.Event()

    async def reconcile(_key: str) -> Outcome:
        nonlocal inside, passes
        inside += 1
        passes += 1
        assert inside == 1
        entered.set()
        await go_on.wait()
        inside -= 1
        return Done()

    async with running(reconcile) as loop:
        loop.enqueue("a")
        await entered.wait()
        loop.enqueue("a")
        loop.enqueue("a")
        go_on.set()
        await idle(loop)
    assert passes == 2


async def test_a_key_that_hangs_delays_no_other() -> None:
    done: list[str] = []

    async def reconcile(key: str) -> Outcome:
        if key == "hangs":
            await asyncio.Event().wait()
        done.append(key)
        return Done()

    async with running(reconcile, concurrency=2) as loop:
        loop.enqueue("hangs")
        for number in range(50):
            loop.enqueue(str(number))
        async with asyncio.timeout(5):
            while len(done) < 50:
                await asyncio.sleep(0)


async def test_no_more_passes_run_at_once_than_allowed() -> None:
    inside = 0
    most = 0

    async def reconcile(_key: str) -> Outcome:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        return Done()

    async with running(reconcile, concurrency=3) as loop:
        for number in range(20):
            loop.enqueue(str(number))
        await idle(loop)
    assert most == 3


async def test_a_pass_that_raises_is_repeated_and_harms_no_other_key() -> None:
    passes: Counter[str] = Counter()

    async def reconcile(key: str) -> Outcome:
        passes[key] += 1
        if key == "poison":
            raise ValueError(key)
        return Done()

    async with running(reconcile) as loop:
        loop.enqueue("poison")
        loop.enqueue("good")
        await idle(loop)
        assert passes == {"poison": 1, "good": 1}
        assert "poison" in loop._timers
        assert "good" not in loop._timers


async def test_outcomes_set_the_time_of_the_next_pass() -> None:
    outcomes: dict[str, Outcome] = {
        "done": Done(),
        "waits": Wait(30.0, "Starting"),
        "failed": Failed("Unavailable", "not now", retry_after_s=20.0),
    }

    async def reconcile(key: str) -> Outcome:
        return outcomes[key]

    async with running(reconcile) as loop:
        now = asyncio.get_running_loop().time()
        for key in outcomes:
            loop.enqueue(key)
        await idle(loop)
        waits = {key: timer.when() - now for key, timer in loop._timers.items()}
    assert set(waits) == {"waits", "failed"}
    assert 30 <= waits["waits"] < 35
    assert 20 <= waits["failed"] < 25


async def test_of_two_waits_the_earlier_counts_and_a_change_ends_both() -> None:
    passes = 0

    async def reconcile(_key: str) -> Outcome:
        nonlocal passes
        passes += 1
        return Done()

    async with running(reconcile) as loop:
        now = asyncio.get_running_loop().time()
        loop.enqueue_after("a", 50)
        loop.enqueue_after("a", 10)
        loop.enqueue_after("a", 90)
        assert 9 < loop._timers["a"].when() - now < 12
        loop.enqueue("a")
        await idle(loop)
        assert not loop._timers
    assert passes == 1


async def test_the_tally_says_how_passes_ended_and_how_long_they_took() -> None:
    outcomes: dict[str, Outcome] = {"done": Done(), "wait": Wait(3600, ""), "failed": Failed("NoRoom", "", 3600)}

    now, inside_s = asyncio.get_running_loop().time, 0.0

    async def reconcile(key: str) -> Outcome:
        nonlocal inside_s
        began = now()
        if key == "fault":
            raise ValueError(key)
        await asyncio.sleep(0.01)
        inside_s += now() - began
        return outcomes[key]

    began = now()

    async with running(reconcile) as loop:
        for key in ("done", "wait", "failed"):
            loop.enqueue(key)
        await idle(loop)
        loop.enqueue("done")
        loop.enqueue("fault")
        await idle(loop)
    tally = loop.tally
    assert (tally.done, tally.waits, tally.failures) == (2, 1, {"NoRoom": 1, "Fault": 1})
    assert inside_s <= tally.spent_s <= 5 * (now() - began)  # side by side, each for itself
