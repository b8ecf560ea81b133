"""Commands and their replies, against the hazards of monitors (H-numbers), on a scripted server."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.drivers.qemu.monitor.linked import linked, until
from tests.drivers.qemu.monitor.scripted_qmp import event
from tests.drivers.qemu.monitor.virtual_time import run_in_virtual_time
from virtplane_drivers.hypervisor.qemu.monitor import (
    CommandFailed,
    MonitorClosed,
    MonitorTimeout,
    OutOfBandNotOffered,
    ProtocolViolation,
)
from virtplane_drivers.hypervisor.qemu.monitor.commands import IN_BAND_SLOTS, OUT_OF_BAND_SLOTS


@pytest.mark.parametrize("order", ["reply, event", "event, reply"])
async def test_h1_event_and_reply_in_one_read_are_both_delivered(tmp_path: Path, order: str) -> None:
    async with linked(tmp_path) as link:
        stopping = link.ask("stop")
        request = await link.server.request()
        messages = {"reply": {"return": {}, "id": request["id"]}, "event": event("STOP")}
        await link.server.send(*(messages[name] for name in order.split(", ")))
        assert await stopping == {}
        assert link.event_names == ["STOP"]


async def test_h2_events_between_a_command_and_its_reply_leave_the_reply_with_its_caller(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        (one, two), requests = await link.asked(2)
        for number in range(100):
            await link.server.send(event("STOP", number=number))
            await asyncio.sleep(0)
        await link.server.answer(requests[1], "two")
        await link.server.send(event("RESUME"))
        await link.server.answer(requests[0], "one")
        assert [await one, await two] == ["one", "two"]
        assert len(link.events) == 101


async def test_h5_a_cancelled_command_s_reply_is_dropped_and_the_next_gets_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with linked(tmp_path) as link:
        first = link.ask("first")
        one = await link.server.request()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = link.ask("second")
        two = await link.server.request()
        await link.server.send(
            {"return": "of the first", "id": one["id"]}, {"return": "of the second", "id": two["id"]}
        )
        assert await second == "of the second"
        assert link.monitor.dropped_replies == 1
        assert "the late reply to an abandoned first was dropped" in caplog.text


async def test_h5_a_cancelled_command_holds_its_slot_until_its_reply(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks, requests = await link.asked(IN_BAND_SLOTS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waiting = link.ask("next")
        await asyncio.sleep(0)
        assert link.server.requests_so_far() == []
        await link.server.answer(requests[3])
        assert (await link.server.request())["execute"] == "next"
        waiting.cancel()


async def test_a_command_cancelled_before_it_was_sent_is_never_sent(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        _tasks, requests = await link.asked(IN_BAND_SLOTS)
        unwanted, wanted = link.ask("unwanted"), link.ask("wanted")
        await asyncio.sleep(0)
        unwanted.cancel()
        await asyncio.gather(unwanted, return_exceptions=True)
        await link.server.answer(requests[0])
        assert (await link.server.request())["execute"] == "wanted"
        link.monitor.close()
        assert isinstance((await asyncio.gather(wanted, return_exceptions=True))[0], MonitorClosed)
        await asyncio.gather(*_tasks, return_exceptions=True)


async def test_a_command_cancelled_in_the_very_read_that_brings_it_a_slot_is_not_sent(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks, requests = await link.asked(IN_BAND_SLOTS)
        unwanted, wanted = link.ask("unwanted"), link.ask("wanted")
        await asyncio.sleep(0)

        def cancel(_event: object) -> None:
            unwanted.cancel()

        link.monitor._on_event = cancel
        await link.server.send(event("STOP"), {"return": {}, "id": requests[0]["id"]})
        assert (await link.server.request())["execute"] == "wanted"
        link.monitor.close()
        await asyncio.gather(*tasks, unwanted, wanted, return_exceptions=True)


async def test_h6_h8_a_late_reply_is_dropped_and_the_monitor_stays_good(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        with pytest.raises(MonitorTimeout, match=r"query-status: no answer within 0\.05 s"):
            await link.monitor.execute("query-status", timeout_s=0.05)
        late = await link.server.request()
        again = link.ask("query-status")
        request = await link.server.request()
        await link.server.send({"return": "late", "id": late["id"]}, {"return": "now", "id": request["id"]})
        assert await again == "now"
        assert link.monitor.is_open
        assert link.monitor.dropped_replies == 1


async def test_h8_a_command_that_found_no_slot_in_time_says_that_it_was_not_sent(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks, requests = await link.asked(IN_BAND_SLOTS)
        with pytest.raises(MonitorTimeout, match="next: not sent, as those before it are unanswered, within"):
            await link.monitor.execute("next", timeout_s=0.02)
        for request in requests:
            await link.server.answer(request)
        await asyncio.gather(*tasks)
        assert link.server.requests_so_far() == []


def test_h8_each_of_many_deadlines_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as link:
            loop = asyncio.get_running_loop()

            async def ask(timeout_s: float) -> float:
                began = loop.time()
                with pytest.raises(MonitorTimeout):
                    await link.monitor.execute("query-status", timeout_s=timeout_s)
                return loop.time() - began

            timeouts_s = [30.0, 5.0, 20.0, 10.0, 25.0, 15.0, 40.0, 12.0, 1.0, 22.0]  # some of them find no slot
            assert await asyncio.gather(*map(ask, timeouts_s)) == pytest.approx(timeouts_s)

    run_in_virtual_time(scenario())


async def test_h12_a_thousand_tasks_at_once_each_get_their_own_reply_whatever_the_order(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:

        async def answer() -> None:
            dice = random.Random(1)
            answered = 0
            while answered < 1000:
                held = [await link.server.request(), *link.server.requests_so_far()]
                dice.shuffle(held)
                await link.server.send(*({"return": r["arguments"]["number"], "id": r["id"]} for r in held))
                answered += len(held)

        answering = asyncio.create_task(answer())
        numbers = range(1000)
        replies = await asyncio.gather(*(link.monitor.execute("echo", {"number": n}) for n in numbers))
        await answering
        assert replies == list(numbers)
        assert link.monitor.dropped_replies == 0


async def test_h12_commands_go_out_in_the_order_in_which_they_were_asked_for(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks = [link.ask("echo", number=number) for number in range(50)]
        order = []
        for _ in tasks:
            request = await link.server.request()
            order.append(request["arguments"]["number"])
            await link.server.answer(request)
        await asyncio.gather(*tasks)
        assert order == list(range(50))


async def test_h29_no_more_commands_are_in_flight_than_leave_qemu_reading(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks = [link.ask("wait") for _ in range(20)]
        requests = [await link.server.request() for _ in range(IN_BAND_SLOTS)]
        assert link.server.requests_so_far() == []
        await link.server.answer(requests[0])
        await link.server.request()
        assert link.server.requests_so_far() == []
        link.monitor.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, MonitorClosed) for result in results) == 19


async def test_h29_an_out_of_band_command_needs_no_slot_and_its_reply_may_overtake(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks = [link.ask("wait") for _ in range(20)]
        requests = [await link.server.request() for _ in range(IN_BAND_SLOTS)]
        urgent = asyncio.create_task(link.monitor.execute_out_of_band("yank", {"instances": []}))
        request = await link.server.request()
        assert request == {"exec-oob": "yank", "arguments": {"instances": []}, "id": request["id"]}
        await link.server.answer(request, "yanked")
        assert await urgent == "yanked"
        assert not any(task.done() for task in tasks)
        assert len({r["id"] for r in [*requests, request]}) == IN_BAND_SLOTS + 1
        link.monitor.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_h29_out_of_band_commands_are_bounded_too(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks = [asyncio.create_task(link.monitor.execute_out_of_band("yank")) for _ in range(20)]
        requests = [await link.server.request() for _ in range(OUT_OF_BAND_SLOTS)]
        assert link.server.requests_so_far() == []
        for request in requests:
            await link.server.answer(request)
        for _ in range(20 - OUT_OF_BAND_SLOTS):
            await link.server.answer(await link.server.request())
        await asyncio.gather(*tasks)


async def test_h29_nothing_goes_out_of_band_to_a_qemu_that_does_not_offer_it(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        del link.monitor.greeting["capabilities"]
        assert not link.monitor.runs_out_of_band
        with pytest.raises(OutOfBandNotOffered):
            await link.monitor.execute_out_of_band("yank")
        assert link.server.requests_so_far() == []


KINDS_UNKNOWN: dict[str, bytes] = {
    "an object of no known kind": b'{"foo": 1}\n',
    "an error without an id": b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n',
    "an event whose name is a number": b'{"event": 1}\n',
    "an event whose data is a list": b'{"event": "SHUTDOWN", "data": []}\n',
    "a second greeting": b'{"QMP": {}}\n',
    "no JSON": b"hello\n",
}


@pytest.mark.parametrize("line", KINDS_UNKNOWN.values(), ids=KINDS_UNKNOWN.keys())
async def test_h25_h26_what_is_no_qmp_fails_the_waiting_command_and_delivers_what_came_before(
    tmp_path: Path, line: bytes
) -> None:
    async with linked(tmp_path) as link:
        waiting = link.ask("query-status")
        await link.server.request()
        await link.server.send(event("STOP"), line, event("RESUME"))
        with pytest.raises(ProtocolViolation):
            await waiting
        assert link.event_names == ["STOP"]
        assert isinstance(await link.end(), ProtocolViolation)


async def test_h27_a_second_reply_and_one_never_asked_for_are_counted_and_dropped(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        waiting = link.ask("query-status")
        number = (await link.server.request())["id"]
        assert number == 1  # else True and 1.0 would test nothing
        strays = [{"return": "stray", "id": n} for n in (999_999, "1", True, 1.0, [1], None)]
        await link.server.send(*strays, {"error": {"class": "X", "desc": ""}, "id": 7}, {"return": "stray"})
        await link.server.send({"return": "first", "id": number}, {"return": "second", "id": number}, event("RESUME"))
        assert await waiting == "first"
        await until(lambda: link.event_names == ["RESUME"])
        assert link.monitor.dropped_replies == len(strays) + 3
        assert link.monitor.is_open


async def test_h24_a_reply_of_seven_times_qemu_s_longest_arrives(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        waiting = link.ask("query-qmp-schema")
        request = await link.server.request()
        await link.server.answer(request, "x" * (3 << 19))
        assert len(await waiting) == 3 << 19


async def test_h24_a_reply_longer_than_the_cap_ends_the_connection_with_its_reason(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        waiting = link.ask("query-named-block-nodes")
        await link.server.request()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await link.server.flood(8 << 20)
        with pytest.raises(ProtocolViolation, match="query-named-block-nodes: a message longer than"):
            await waiting


async def test_an_error_of_qemu_is_its_class_and_its_words(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        waiting = link.ask("nonsense")
        request = await link.server.request()
        error = {"class": "CommandNotFound", "desc": "The command nonsense has not been found"}
        await link.server.send({"error": error, "id": request["id"]})
        with pytest.raises(CommandFailed, match="has not been found") as failed:
            await waiting
        assert failed.value.error_class == "CommandNotFound"
        assert link.monitor.is_open


@pytest.mark.parametrize("error", [None, [], "words", {"class": [], "desc": None}])
async def test_h25_an_error_of_a_strange_shape_fails_its_command_and_no_more(tmp_path: Path, error: object) -> None:
    async with linked(tmp_path) as link:
        waiting = link.ask("query-status")
        request = await link.server.request()
        await link.server.send({"error": error, "id": request["id"]})
        with pytest.raises(CommandFailed):
            await waiting
        assert link.monitor.is_open


async def test_arguments_that_are_no_json_take_no_slot(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        for _ in range(20):
            with pytest.raises(TypeError):
                await link.monitor.execute("set", {"value": object()})
        waiting = link.ask("query-status")
        await link.server.answer(await link.server.request())
        assert await waiting == {}
