"""The monitor against the hazards of monitors (H-numbers: docs of the field's known failures), on a scripted server."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.drivers.qemu.scripted_qmp import ScriptedServer, scripted_server
from virtplane_drivers.hypervisor.qemu.monitor import (
    CommandFailed,
    Monitor,
    MonitorClosed,
    MonitorTimeout,
    ProtocolViolation,
    connect,
)
from virtplane_drivers.hypervisor.qemu.monitor.wire import LineReader


class Linked:
    """A monitor with its server, and what it told its owner."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.events: list[dict[str, Any]] = []
        self.ends: list[MonitorClosed] = []
        self.monitor: Monitor

    async def closed(self) -> MonitorClosed:
        async with asyncio.timeout(5):
            while not self.ends:
                await asyncio.sleep(0.001)
        return self.ends[0]


@asynccontextmanager
async def linked(tmp_path: Path) -> AsyncIterator[Linked]:
    path = tmp_path / "qmp"
    async with scripted_server(path) as server:
        link = Linked(server)
        link.monitor = await connect(path, on_event=link.events.append, on_close=link.ends.append)
        try:
            yield link
        finally:
            link.monitor.close()


def event(name: str, **data: Any) -> dict[str, Any]:
    return {"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}}


MESSAGES = [event("STOP"), {"return": {"a": "ü\n"}, "id": 1}, event("RESUME"), {"error": {"class": "X"}, "id": 2}]


@given(cuts=st.lists(st.integers(0, 400), max_size=30), end=st.sampled_from([b"\n", b"\r\n"]))
def test_h1_messages_come_out_whole_and_in_order_however_the_bytes_are_cut(cuts: list[int], end: bytes) -> None:
    wire = b"".join(orjson.dumps(message) + end for message in MESSAGES)
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    reader = LineReader()
    out = [m for a, b in itertools.pairwise(places) for m in reader.feed(wire[a:b])]
    assert out == MESSAGES


def test_h1_one_byte_at_a_time() -> None:
    wire = b"".join(orjson.dumps(message) + b"\r\n" for message in MESSAGES)
    reader = LineReader()
    assert [m for byte in wire for m in reader.feed(bytes([byte]))] == MESSAGES


@pytest.mark.parametrize("reply_first", [True, False], ids=["reply, event", "event, reply"])
async def test_h1_event_and_reply_in_one_read_are_both_delivered(
    tmp_path: Path,
    reply_first: bool,  # noqa: FBT001
) -> None:
    async with linked(tmp_path) as link:
        stopping = asyncio.create_task(link.monitor.execute("stop"))
        request = await link.server.request()
        both: list[object] = [{"return": {}, "id": request["id"]}, event("STOP")]
        link.server.send(*(both if reply_first else reversed(both)))
        assert await stopping == {}
        assert [e["event"] for e in link.events] == ["STOP"]


async def test_h5_a_cancelled_command_s_reply_is_dropped_and_the_next_gets_its_own(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        first = asyncio.create_task(link.monitor.execute("first"))
        one = await link.server.request()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(link.monitor.execute("second"))
        two = await link.server.request()
        link.server.send({"return": "of the first", "id": one["id"]}, {"return": "of the second", "id": two["id"]})
        assert await second == "of the second"
        assert link.monitor.dropped_replies == 1


async def test_h6_h8_a_late_reply_is_dropped_and_the_monitor_stays_good(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        with pytest.raises(MonitorTimeout, match=r"query-status: no answer within 0\.05 s"):
            await link.monitor.execute("query-status", timeout_s=0.05)
        late = await link.server.request()
        again = asyncio.create_task(link.monitor.execute("query-status"))
        request = await link.server.request()
        link.server.send({"return": "late", "id": late["id"]}, {"return": "now", "id": request["id"]})
        assert await again == "now"
        assert link.monitor.is_open


async def test_h12_a_thousand_tasks_at_once_each_get_their_own_reply_whatever_the_order(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:

        async def answer() -> None:
            dice = random.Random(1)
            for _ in range(1000):
                held = [await link.server.request()]
                while not link.server.requests.empty():
                    held.append(link.server.requests.get_nowait())
                dice.shuffle(held)
                for request in held:
                    link.server.send({"return": request["arguments"]["number"], "id": request["id"]})
                answered.extend(held)
                if len(answered) == 1000:
                    return

        answered: list[Any] = []
        answering = asyncio.create_task(answer())
        numbers = range(1000)
        replies = await asyncio.gather(*(link.monitor.execute("echo", {"number": n}) for n in numbers))
        await answering
        assert replies == list(numbers)
        assert link.monitor.dropped_replies == 0


async def test_h29_no_more_than_eight_commands_are_in_flight(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks = [asyncio.create_task(link.monitor.execute("wait")) for _ in range(20)]
        requests = [await link.server.request() for _ in range(8)]
        await asyncio.sleep(0.02)
        assert link.server.requests.empty()
        link.server.send({"return": {}, "id": requests[0]["id"]})
        await link.server.request()
        link.monitor.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, MonitorClosed) for result in results) == 19


async def test_h13_end_of_file_fails_all_that_wait_once_after_the_events_before_it(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks = [asyncio.create_task(link.monitor.execute("quit")) for _ in range(3)]
        for _ in tasks:
            await link.server.request()
        link.server.send(event("SHUTDOWN", guest=True))
        link.server.hang_up()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [MonitorClosed] * 3
        assert [e["event"] for e in link.events] == ["SHUTDOWN"]
        assert len(link.ends) == 1
        with pytest.raises(MonitorClosed):
            await link.monitor.execute("query-status")


async def test_h20_closing_again_is_no_error_and_is_told_once(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        link.monitor.close()
        link.monitor.close()
        await asyncio.sleep(0)
        assert len(link.ends) == 1


async def test_h22_a_greeting_that_never_comes_ends_in_a_clear_error(tmp_path: Path) -> None:
    async with scripted_server(tmp_path / "qmp", greet=False) as server:
        with pytest.raises(MonitorTimeout, match="another client may be connected"):
            await connect(tmp_path / "qmp", on_event=print, on_close=lambda _end: None, timeout_s=0.05)
        await server.connected.wait()


BAD_LINES: list[tuple[str, bytes]] = [
    ("no JSON", b"hello\n"),
    ("a list", b"[1]\n"),
    ("invalid UTF-8", b'{"event": "\xff"}\n'),
    ("not a number", b'{"return": NaN, "id": 1}\n'),
    ("very deep", b"[" * 10_000 + b"]" * 10_000 + b"\n"),
    ("an object of no known kind", b'{"foo": 1}\n'),
    ("an error without an id", b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n'),
]


@pytest.mark.parametrize("line", [row[1] for row in BAD_LINES], ids=[row[0] for row in BAD_LINES])
async def test_h25_h26_what_is_no_qmp_fails_the_waiting_command_and_delivers_what_came_before(
    tmp_path: Path, line: bytes
) -> None:
    async with linked(tmp_path) as link:
        waiting = asyncio.create_task(link.monitor.execute("query-status"))
        await link.server.request()
        link.server.send(event("STOP"), line)
        with pytest.raises(ProtocolViolation):
            await waiting
        assert [e["event"] for e in link.events] == ["STOP"]
        assert isinstance(await link.closed(), ProtocolViolation)


async def test_h27_a_second_reply_and_one_never_asked_for_are_counted_and_dropped(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        task = asyncio.create_task(link.monitor.execute("query-status"))
        number = (await link.server.request())["id"]
        replies = [{"return": "first", "id": number}, {"return": "second", "id": number}, {"return": 0, "id": 999}]
        link.server.send(*replies, {"return": 0, "id": "text"}, event("RESUME"))
        assert await task == "first"
        assert link.monitor.dropped_replies == 3
        assert link.monitor.is_open


async def test_h24_a_reply_of_megabytes_arrives(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        task = asyncio.create_task(link.monitor.execute("query-qmp-schema"))
        request = await link.server.request()
        link.server.send({"return": "x" * (5 << 20), "id": request["id"]})
        assert len(await task) == 5 << 20


def test_h23_h24_what_is_longer_than_the_cap_is_refused_before_it_is_whole() -> None:
    reader = LineReader(max_message_bytes=1000)
    assert list(reader.feed(b"x" * 900)) == []
    with pytest.raises(ProtocolViolation, match="longer than 1000 bytes"):
        list(reader.feed(b"x" * 200))


async def test_an_error_of_qemu_is_its_class_and_its_words(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        task = asyncio.create_task(link.monitor.execute("nonsense"))
        request = await link.server.request()
        error = {"class": "CommandNotFound", "desc": "The command nonsense has not been found"}
        link.server.send({"error": error, "id": request["id"]})
        with pytest.raises(CommandFailed, match="has not been found") as failed:
            await task
        assert failed.value.error_class == "CommandNotFound"


async def test_a_path_too_long_for_a_socket_address_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    (tmp_path / "short").symlink_to(folder)
    async with scripted_server(tmp_path / "short" / "qmp"):
        monitor = await connect(folder / "qmp", on_event=print, on_close=lambda _end: None)
        assert monitor.is_open
        monitor.close()


async def test_a_real_qemu_is_spoken_to_and_ends_by_quit(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    argv = ["-nodefaults", "-display", "none", "-machine", "none", "-qmp", f"unix:{path},server=on,wait=off"]
    qemu = await asyncio.create_subprocess_exec("qemu-system-x86_64", *argv)
    events: list[dict[str, Any]] = []
    ends: list[MonitorClosed] = []
    try:
        async with asyncio.timeout(20):
            while not path.exists():
                await asyncio.sleep(0.005)
            monitor = await connect(path, on_event=events.append, on_close=ends.append)
            assert (await monitor.execute("query-version"))["qemu"]["major"] >= 7
            assert len(await monitor.execute("query-qmp-schema")) > 500
            with pytest.raises(CommandFailed, match="has not been found"):
                await monitor.execute("nonsense")
            statuses = await asyncio.gather(*(monitor.execute("query-status") for _ in range(200)))
            assert len({status["status"] for status in statuses}) == 1
            await monitor.execute("quit")
            await qemu.wait()
            while not ends:
                await asyncio.sleep(0.005)
    finally:
        if qemu.returncode is None:
            qemu.kill()
            await qemu.wait()
    assert [e["event"] for e in events] == ["SHUTDOWN"]
    assert len(ends) == 1
