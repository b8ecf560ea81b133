"""Events: none is lost between a command and its wait, none holds up a reply, and a flood is bounded."""

import asyncio
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.drivers.qemu.monitor.linked import linked, until
from tests.drivers.qemu.monitor.scripted_qmp import event
from virtplane_drivers.hypervisor.qemu.monitor import EventQueue, EventsLost, HungUp, MonitorClosed
from virtplane_drivers.hypervisor.qemu.monitor.events import NOISY


async def test_h3_an_event_that_comes_before_the_reply_to_its_command_wakes_who_waits_for_it(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        with link.monitor.events("JOB_STATUS_CHANGE") as changes:
            dismissing = link.ask("job-dismiss")
            request = await link.server.request()
            await link.server.send(event("STOP"), event("JOB_STATUS_CHANGE", status="null"))
            await link.server.answer(request)
            await dismissing
            async with asyncio.timeout(1):
                assert (await changes.get())["data"] == {"status": "null"}
        assert link.event_names == ["STOP", "JOB_STATUS_CHANGE"]


async def test_h3_one_that_comes_after_the_reply_wakes_too(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        with link.monitor.events("DEVICE_DELETED") as deleted:
            deleting = link.ask("device_del")
            await link.server.answer(await link.server.request())
            await deleting
            waiting = asyncio.create_task(deleted.get())
            await asyncio.sleep(0)
            assert not waiting.done()
            await link.server.send(event("DEVICE_DELETED", device="disk0"))
            assert (await waiting)["data"] == {"device": "disk0"}


async def test_h4_a_queue_that_nobody_reads_holds_up_no_reply(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        with link.monitor.events() as unread:
            waiting = link.ask("query-status")
            request = await link.server.request()
            await link.server.send(*(event("STOP", n=n) for n in range(50_000)))
            await link.server.answer(request)
            assert await waiting == {}
            assert len(unread) == 4096
            assert unread.lost == 50_000 - 4096
        assert len(link.events) == 50_000


async def test_h11_a_command_from_an_event_s_handler_is_answered_and_the_order_is_kept(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        handled: list[tuple[int, object]] = []

        async def handle() -> None:
            with link.monitor.events("STOP") as stops:
                ready.set()
                while len(handled) < 20:
                    stop = await stops.get()
                    handled.append((stop["data"]["number"], await link.monitor.execute("query-status")))

        ready = asyncio.Event()
        handling = asyncio.create_task(handle())
        await ready.wait()
        await link.server.send(*(event("STOP", number=number) for number in range(20)))
        for number in range(20):
            await link.server.answer(await link.server.request(), f"answer {number}")
        await handling
        assert handled == [(number, f"answer {number}") for number in range(20)]


async def test_h11_a_handler_that_fails_costs_nobody_else_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(tmp_path) as link:

        def failing(_event: dict[str, Any]) -> None:
            raise RuntimeError("handler")

        link.monitor._on_event = failing
        with link.monitor.events() as queue:
            waiting = link.ask("query-status")
            request = await link.server.request()
            await link.server.send(event("STOP"), {"return": 1, "id": request["id"]}, event("RESUME"))
            assert await waiting == 1
            assert [(await queue.get())["event"] for _ in range(2)] == ["STOP", "RESUME"]
        assert "the handler of STOP failed" in caplog.text


async def test_h20_a_handler_that_closes_the_monitor_hears_no_more(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        heard: list[str] = []

        def closing(message: dict[str, Any]) -> None:
            heard.append(message["event"])
            link.monitor.close()

        link.monitor._on_event = closing
        waiting = link.ask("query-status")
        request = await link.server.request()
        await link.server.send(event("STOP"), event("RESUME"), {"return": 1, "id": request["id"]})
        with pytest.raises(MonitorClosed, match="closed by this side"):
            await waiting
        assert heard == ["STOP"]


async def test_a_queue_gives_what_came_before_the_end_and_then_says_why_it_ended(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        with link.monitor.events() as queue:
            await link.server.send(event("STOP"), event("SHUTDOWN"))
            link.server.hang_up()
            await link.end()
            assert [(await queue.get())["event"] for _ in range(2)] == ["STOP", "SHUTDOWN"]
            for _ in range(2):
                with pytest.raises(HungUp, match="QEMU closed the connection"):
                    await queue.get()


async def test_a_queue_opened_after_the_end_ends_at_once(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        link.monitor.close()
        with link.monitor.events() as queue, pytest.raises(MonitorClosed):
            await queue.get()


async def test_a_queue_hears_only_what_it_asked_for_and_only_while_it_is_open(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        with link.monitor.events("RESUME", "WAKEUP") as queue:
            await link.server.send(event("STOP"), event("WAKEUP"), event("RESUME"))
            await until(lambda: len(link.events) == 3)
        await link.server.send(event("RESUME"))
        await until(lambda: len(link.events) == 4)
        assert [(await queue.get())["event"] for _ in range(len(queue))] == ["WAKEUP", "RESUME"]


# --- floods -----------------------------------------------------------------------------------------------------------


async def drained(queue: EventQueue) -> list[dict[str, Any]]:
    return [await queue.get() for _ in range(len(queue))]


async def test_h30_of_noisy_events_the_newest_of_each_device_waits_and_no_other_event_is_dropped() -> None:
    queue = EventQueue()
    for number in range(1000):
        queue.put(event("NIC_RX_FILTER_CHANGED", path="/nic0", number=number))
        queue.put(event("NIC_RX_FILTER_CHANGED", path="/nic1", number=number))
        if number % 100 == 0:
            queue.put(event("RESET", number=number))
    events = await drained(queue)
    assert [e["data"]["number"] for e in events if e["event"] == "RESET"] == list(range(0, 1000, 100))
    assert [e["data"] for e in events[-2:]] == [{"path": f"/nic{n}", "number": 999} for n in (0, 1)]
    assert len(events) == 12
    assert queue.replaced == 1998


@given(st.lists(st.tuples(st.sampled_from(["STOP", "RESUME", *NOISY]), st.integers(0, 3)), max_size=60))
def test_h30_the_queue_is_a_list_from_which_older_noise_of_the_same_device_is_struck(
    sequence: list[tuple[str, int]],
) -> None:
    queue = EventQueue()
    expected: OrderedDict[object, dict[str, Any]] = OrderedDict()
    for number, (name, device) in enumerate(sequence):
        message = event(name, number=number, **{NOISY.get(name) or "unused": f"device{device}"})
        queue.put(message)
        # Names with no member for a device have one place for all.
        key = (name, device if NOISY[name] else None) if name in NOISY else number
        expected.pop(key, None)
        expected[key] = message
    assert asyncio.run(drained(queue)) == list(expected.values())


async def test_h30_a_full_queue_says_once_where_events_are_missing_and_goes_on() -> None:
    queue = EventQueue(max_events=3)
    for number in range(5):
        queue.put(event("STOP", number=number))
    queue.put(event("RTC_CHANGE"))
    assert [e["data"]["number"] for e in await drained(queue)] == [0, 1, 2]
    assert queue.lost == 3
    queue.put(event("RESUME"))  # still in the gap: the reader does not know of it yet
    with pytest.raises(EventsLost):
        await queue.get()
    queue.put(event("SHUTDOWN"))
    assert [e["event"] for e in await drained(queue)] == ["SHUTDOWN"]


@pytest.mark.parametrize("name", ["MIGRATION", "BLOCK_IO_ERROR"])
@pytest.mark.parametrize(
    "junk",
    ["x" * 30_000, [[]] * 10_000, [{}] * 10_000],
    ids=["text", "lists", "maps"],
)
async def test_h30_what_waits_is_bounded_in_memory_and_what_is_lost_is_told(name: str, junk: object) -> None:
    queue = EventQueue(max_bytes=1 << 20)
    line = orjson.dumps(event(name, junk=junk))
    tracemalloc.start()
    try:
        for number in range(50):
            message = orjson.loads(line)
            message["data"]["device"] = f"disk{number}"
            queue.put(message)
        del message
        used_bytes, _most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (1 << 18) < used_bytes < (1 << 20) + (1 << 17)
    assert len(queue) + queue.lost == 50
    await drained(queue)
    with pytest.raises(EventsLost):
        await queue.get()
    queue.put(event("STOP"))
    assert (await queue.get())["event"] == "STOP"


async def test_h30_noise_that_grows_takes_no_more_room_than_there_is() -> None:
    queue = EventQueue(max_bytes=100_000)
    for size in (10, 40_000, 90_000, 10, 98_000):
        queue.put(event("RTC_CHANGE", junk="x" * size))
    assert (len(queue), queue.lost) == (1, 0)
    queue.put(event("RTC_CHANGE", junk="x" * 100_000))
    assert queue.lost == 1
    # The older one is out of date, and the newer one does not fit: neither waits, and that is told.
    with pytest.raises(EventsLost):
        await queue.get()


async def test_h30_a_reader_that_waits_is_told_at_once_of_an_event_that_does_not_fit() -> None:
    queue = EventQueue(max_bytes=1000)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put(event("STOP", junk="x" * 1000))
    with pytest.raises(EventsLost):
        async with asyncio.timeout(5):
            await waiting


async def test_h30_replies_in_a_flood_of_a_hundred_thousand_events_come_behind_the_events_before_them(
    tmp_path: Path,
) -> None:
    burst = 1000
    async with linked(tmp_path) as link:
        for first in range(0, 100_000, burst):
            waiting = link.ask("query-status")
            request = await link.server.request()
            flood = (event("RTC_CHANGE", number=first + n) for n in range(burst))
            await link.server.send(*flood, {"return": {}, "id": request["id"]})
            await waiting
            assert len(link.events) == first + burst
        assert [e["data"]["number"] for e in link.events] == list(range(100_000))
