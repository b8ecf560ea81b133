"""The faults of fake storage do what they say, and only that."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import made, settled, volume
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.storage.contract import NO_VOLUME, Blank, Failure, Pool, VolumeState
from virtplane_drivers.storage.fake import FakeStorage, Faults

POOL = Pool(uid="pool-1", name="fast", type="fake")
FAILURE = Failure("NoSpace", "the array is full", 60.0)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def storage(faults: Faults) -> FakeStorage:
    return FakeStorage(faults=faults)


VERBS: dict[str, Callable[[FakeStorage], Awaitable[object]]] = {
    "probe": lambda storage: storage.probe(POOL),
    "observe": lambda storage: storage.observe(POOL, "uid"),
    "create": lambda storage: storage.create(POOL, volume(Blank(), uid="uid")),
    "delete": lambda storage: storage.delete(POOL, "uid"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_an_unreachable_pool_refuses_each_verb_with_its_reason_until_it_is_back(
    storage: FakeStorage, faults: Faults, verb: str
) -> None:
    faults.unreachable = "the cable is out"
    with pytest.raises(Unavailable, match="the cable is out") as unavailable:
        await VERBS[verb](storage)
    assert unavailable.value.reason == "PoolUnreachable"
    faults.unreachable = None
    assert await storage.observe(POOL, "uid") == NO_VOLUME
    await VERBS[verb](storage)


@pytest.mark.parametrize("verb", VERBS)
async def test_each_verb_takes_the_time_that_calls_take_before_it_does_anything(
    storage: FakeStorage, faults: Faults, verb: str
) -> None:
    await made(storage, POOL, volume(Blank(), uid="uid" if verb == "delete" else "another"))
    before = await storage.observe(POOL, "uid")
    faults.call_s = 0.05
    loop = asyncio.get_running_loop()
    began_at_s = loop.time()
    calling = asyncio.ensure_future(VERBS[verb](storage))
    await asyncio.sleep(0)
    faults.call_s = 0.0
    assert await storage.observe(POOL, "uid") == before
    await calling
    assert loop.time() - began_at_s >= 0.05


async def test_a_call_that_hangs_can_be_given_up_and_has_done_nothing(storage: FakeStorage, faults: Faults) -> None:
    faults.call_s = 3600.0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await storage.create(POOL, volume(Blank(), uid="uid"))
    faults.call_s = 0.0
    assert await storage.observe(POOL, "uid") == NO_VOLUME


async def test_lost_hints_do_not_come_and_later_ones_do(storage: FakeStorage, faults: Faults) -> None:
    faults.lose_hints = True
    await made(storage, POOL, volume(Blank(), uid="unheard"))
    faults.lose_hints = False
    await made(storage, POOL, volume(Blank(), uid="heard"))
    async with asyncio.timeout(5):
        assert await anext(storage.events()) == "heard"


@pytest.mark.parametrize(("verb", "state"), [("create", VolumeState.READY), ("delete", None)])
async def test_a_call_whose_reply_is_lost_has_done_its_work(
    storage: FakeStorage, faults: Faults, verb: str, state: VolumeState | None
) -> None:
    if verb == "delete":
        await made(storage, POOL, volume(Blank(), uid="uid"))
    faults.lost_replies = 2
    for _ in range(2):
        with pytest.raises(Unavailable) as unavailable:
            await VERBS[verb](storage)
        assert unavailable.value.reason == "ReplyLost"
    assert (await settled(storage, POOL, "uid")).state is state
    await VERBS[verb](storage)
    assert faults.lost_replies == 0


async def test_looking_loses_no_reply(storage: FakeStorage, faults: Faults) -> None:
    faults.lost_replies = 1
    await storage.probe(POOL)
    await storage.observe(POOL, "uid")
    assert faults.lost_replies == 1


async def test_a_planned_failure_meets_its_volume_as_often_as_planned(storage: FakeStorage, faults: Faults) -> None:
    faults.fail_create("uid", FAILURE, times=2)
    assert (await made(storage, POOL, volume(Blank(), uid="another"))).state is VolumeState.READY
    for _ in range(2):
        seen = await made(storage, POOL, volume(Blank(), uid="uid"))
        assert (seen.state, seen.failure) == (VolumeState.FAILED, FAILURE)
    assert (await made(storage, POOL, volume(Blank(), uid="uid"))).state is VolumeState.READY


async def test_a_failure_planned_for_nobody_meets_whoever_comes_first(storage: FakeStorage, faults: Faults) -> None:
    faults.fail_create(None, FAILURE)
    assert (await made(storage, POOL, volume(Blank(), uid="first"))).failure == FAILURE
    assert (await made(storage, POOL, volume(Blank(), uid="second"))).state is VolumeState.READY


async def test_what_was_half_made_when_the_driver_ended_is_interrupted_for_the_next(tmp_path: Path) -> None:
    state_file = tmp_path / "volumes.json"
    async with FakeStorage(create_s=3600.0, state_file=state_file) as storage:
        await storage.create(POOL, volume(Blank(), uid="uid"))
    async with FakeStorage(state_file=state_file) as storage:
        seen = await storage.observe(POOL, "uid")
        assert seen.failure is not None
        assert (seen.failure.reason, seen.failure.retry_after_s) == ("Interrupted", 0.0)
        assert (await made(storage, POOL, volume(Blank(), uid="uid"))).state is VolumeState.READY


async def test_progress_grows_with_time() -> None:
    async with FakeStorage(create_s=20.0) as storage:
        await storage.create(POOL, volume(Blank(), uid="uid"))
        first = await storage.observe(POOL, "uid")
        assert first.progress_percent is not None
        async with asyncio.timeout(10):
            while (await storage.observe(POOL, "uid")).progress_percent == first.progress_percent:
                await asyncio.sleep(0.01)
        later = await storage.observe(POOL, "uid")
        assert later.progress_percent is not None
        assert first.progress_percent < later.progress_percent < 100
