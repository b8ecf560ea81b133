"""Passes over one key are one at a time, and shared by all who asked before they began."""

import asyncio

import pytest

from virtplane_agent.networks.turns import Turns


class Work:
    """Passes that end when a test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.at_work: set[str] = set()
        self.gates: list[asyncio.Event] = []
        self.failure: Exception | None = None

    async def __call__(self, key: str) -> None:
        assert key not in self.at_work, "two passes over one key at once"
        self.at_work.add(key)
        self.begun.append(key)
        gate = asyncio.Event()
        self.gates.append(gate)
        try:
            await gate.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.at_work.discard(key)


@pytest.fixture
def work() -> Work:
    return Work()


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


async def test_fifty_who_ask_at_once_share_two_passes(work: Work) -> None:
    turns = Turns(work)
    asked = [asyncio.create_task(turns.run("lan")) for _ in range(50)]
    await until(lambda: len(work.gates) == 1)
    work.gates[0].set()
    await until(lambda: len(work.gates) == 2)
    # The first one alone may count the pass that was under way when it asked.
    assert [task.done() for task in asked] == [True] + [False] * 49
    work.gates[1].set()
    await asyncio.gather(*asked)
    assert work.begun == ["lan", "lan"]


async def test_who_asks_while_a_pass_is_under_way_waits_for_the_next_one(work: Work) -> None:
    turns = Turns(work)
    first = asyncio.create_task(turns.run("lan"))
    await until(lambda: work.begun == ["lan"])
    second = asyncio.create_task(turns.run("lan"))
    work.gates[0].set()
    await first
    await until(lambda: work.begun == ["lan", "lan"])
    assert not second.done()
    work.gates[1].set()
    await second


async def test_passes_over_different_keys_do_not_wait_for_each_other(work: Work) -> None:
    turns = Turns(work)
    both = [asyncio.create_task(turns.run(key)) for key in ("lan", "dmz")]
    await until(lambda: work.begun == ["lan", "dmz"])
    for gate in work.gates:
        gate.set()
    await asyncio.gather(*both)


async def test_a_failure_reaches_all_who_shared_the_pass_and_the_next_one_is_a_new_try(work: Work) -> None:
    turns = Turns(work)
    work.failure = OSError("no")
    asked = [asyncio.create_task(turns.run("lan")) for _ in range(3)]
    for number in range(2):
        await until(lambda number=number: len(work.gates) > number)
        work.gates[number].set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results] == [OSError] * 3
    work.failure = None
    again = asyncio.create_task(turns.run("lan"))
    await until(lambda: len(work.gates) == 3)
    work.gates[2].set()
    await again


async def test_a_caller_that_is_cancelled_leaves_the_pass_to_the_others(work: Work) -> None:
    turns = Turns(work)
    first, second = (asyncio.create_task(turns.run("lan")) for _ in range(2))
    await until(lambda: work.begun == ["lan"])
    first.cancel()
    work.gates[0].set()
    await until(lambda: work.begun == ["lan", "lan"])
    work.gates[1].set()
    await second
    assert first.cancelled()


async def test_nothing_goes_on_after_a_stop(work: Work) -> None:
    turns = Turns(work)
    asked = [asyncio.create_task(turns.run("lan")) for _ in range(3)]
    await until(lambda: work.begun == ["lan"])
    await turns.stop()
    await asyncio.gather(*asked, return_exceptions=True)
    assert work.begun == ["lan"]
    assert work.at_work == set()
