"""H39: a guest's agent may be late, silent, hostile or without end; it costs a bounded time and no more than that."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.qemu.guest_agent.scripted_agent import ScriptedAgent, channel
from tests.drivers.qemu.monitor.linked import linked
from tests.drivers.qemu.monitor.virtual_time import run_in_virtual_time
from virtplane_drivers.hypervisor.qemu.guest_agent import (
    AgentDisconnected,
    AgentGarbage,
    AgentRefused,
    AgentSilent,
    GuestAgent,
)


def ask(client: GuestAgent, command: str = "guest-ping", **arguments: Any) -> "asyncio.Task[Any]":
    return asyncio.create_task(client.execute(command, arguments))


async def test_a_request_is_sent_behind_a_sync_and_its_reply_returned(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        asking = ask(client, "guest-exec", path="/bin/true")
        request = await agent.serve({"return": {"pid": 7}})
        assert request == {"execute": "guest-exec", "arguments": {"path": "/bin/true"}}
        assert await asking == {"pid": 7}
        assert agent.raw.startswith(b"\xff{")


async def test_h39_garbage_and_late_replies_before_the_sync_s_answer_are_skipped(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        asking = ask(client)
        late = b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n{"return": {"late": 1}}\n'
        await agent.sync(before=late + b'\xff{"return": 1}\n\xff\xff\x00\xffgarbage\n{"retu')
        await agent.request()
        await agent.send({"return": {"right": 1}})
        assert await asking == {"right": 1}


async def test_h39_a_reply_that_comes_when_its_caller_has_gone_is_dropped_by_the_next_request(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        first = ask(client, "guest-get-osinfo")
        await agent.sync()
        await agent.request()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await agent.send({"return": "of the first"})
        second = ask(client, "guest-get-time")
        await agent.serve({"return": "of the second"})
        assert await second == "of the second"


async def test_h39_the_reply_to_a_request_that_timed_out_does_not_answer_the_next(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        for number in range(5):
            timed_out = asyncio.create_task(client.execute("guest-exec", timeout_s=0.05))
            await agent.sync()
            await agent.request()
            with pytest.raises(AgentSilent, match=r"guest-exec: no answer within 0\.05 s"):
                await timed_out
            await agent.send({"return": f"late {number}"})
        asking = ask(client)
        await agent.serve({"return": "now"})
        assert await asking == "now"


async def test_no_request_is_sent_to_an_agent_that_does_not_answer_a_sync(tmp_path: Path) -> None:
    """Else one that starts later would find a shutdown of yesterday in its channel."""
    async with channel(tmp_path, sync_timeout_s=0.02) as (client, agent):
        for _ in range(3):
            with pytest.raises(AgentSilent, match="guest-shutdown: not sent, as no agent answers"):
                await client.tell("guest-shutdown")
            with pytest.raises(AgentSilent, match="guest-ping: not sent"):
                await client.execute("guest-ping")
        for _ in range(6):
            assert (await agent.request())["execute"] == "guest-sync-delimited"
        asking = ask(client)  # and when it starts, it answers all of them
        await agent.request()
        number = await _last_sync(agent)
        await agent.send(*(b'\xff{"return": %d}\n' % n for n in [*range(6), number]))
        await agent.request()
        await agent.send({"return": "up"})
        assert await asking == "up"


async def _last_sync(agent: ScriptedAgent) -> int:
    return int(agent.raw.rsplit(b'"id":', 1)[1].split(b"}")[0])


async def test_each_sync_has_an_id_of_its_own(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        ids = set()
        for _ in range(50):
            asking = ask(client)
            ids.add(await agent.sync())
            await agent.request()
            await agent.send({"return": {}})
            await asking
        assert len(ids) == 50


async def test_one_request_at_a_time(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        tasks = [ask(client, "guest-exec-status", pid=number) for number in range(20)]
        for number in range(20):
            request = await agent.serve({"return": number})
            assert request["arguments"] == {"pid": number}
        assert await asyncio.gather(*tasks) == list(range(20))


async def test_the_wait_for_former_requests_counts_as_waiting(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        slow = ask(client, "guest-exec")
        await agent.sync()
        await agent.request()
        with pytest.raises(AgentSilent):
            await client.execute("guest-ping", timeout_s=0.02)
        await agent.send({"return": 1})
        assert await slow == 1
        assert agent.syncs_so_far() == 1


def test_a_sync_has_less_time_than_a_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path) as (client, agent):
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(AgentSilent, match="no agent answers within 5 s"):
                await client.execute("guest-fsfreeze-freeze", timeout_s=60.0)
            assert 5.0 <= loop.time() - began < 60.0
            await agent.request()
            freezing = asyncio.create_task(client.execute("guest-fsfreeze-freeze", timeout_s=60.0))
            await agent.sync()
            await agent.request()
            await asyncio.sleep(50.0)
            await agent.send({"return": 3})
            assert await freezing == 3

    run_in_virtual_time(scenario())


# --- answers that are none --------------------------------------------------------------------------------------------

BAD_REPLIES: dict[str, bytes] = {
    "no JSON": b"hello\n",
    "an empty line": b"\n",
    "a list": b"[]\n",
    "an object that is no reply": b'{"event": "X"}\n',
    "invalid UTF-8": b'{"return": "\xfe"}\n',
    "0xFF": b'\xff{"return": {}}\n',
    "10,000 deep": b'{"return": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n",
    "not a number": b'{"return": NaN}\n',
    "longer than the cap": b'{"return": "' + b"x" * (4 << 20) + b'"}\n',
    "without end": b"x" * (5 << 20),
}


@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES.keys())
async def test_h39_what_is_no_reply_is_garbage_and_the_next_request_gets_its_own(tmp_path: Path, reply: bytes) -> None:
    async with channel(tmp_path) as (client, agent):
        asking = ask(client)
        await agent.sync()
        await agent.request()
        sending = asyncio.create_task(agent.send(reply))
        with pytest.raises(AgentGarbage):
            await asking
        again = ask(client)
        await sending
        await agent.sync()
        await agent.request()
        await agent.send({"return": "good"})
        assert await again == "good"


HOSTILE_ERRORS: dict[str, object] = {
    "null": None,
    "a list": [],
    "of wrong types": {"class": 1, "desc": [2]},
    "huge": {"class": "x" * 100_000, "desc": "y" * 100_000},
}


@pytest.mark.parametrize("error", HOSTILE_ERRORS.values(), ids=HOSTILE_ERRORS.keys())
async def test_h39_an_error_of_any_shape_is_a_refusal_of_bounded_length(tmp_path: Path, error: object) -> None:
    async with channel(tmp_path) as (client, agent):
        asking = ask(client)
        await agent.serve({"error": error})
        with pytest.raises(AgentRefused) as refused:
            await asking
        assert len(str(refused.value)) < 1000
        assert len(refused.value.error_class) <= 500


async def test_an_agent_s_error_is_its_class_and_its_words(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        asking = ask(client, "nonsense")
        await agent.serve({"error": {"class": "CommandNotFound", "desc": "The command nonsense has not been found"}})
        with pytest.raises(AgentRefused, match="nonsense: The command nonsense has not been found") as refused:
            await asking
        assert (refused.value.command, refused.value.error_class) == ("nonsense", "CommandNotFound")


# --- floods and silence -----------------------------------------------------------------------------------------------

ENDLESS: dict[str, bytes] = {
    "zeros": b"\0" * 65536,
    "0xFF": b"\xff" * 65536,
    "answers to other syncs": b'\xff{"return": 12345}\n' * 3000,
    "the beginning of an answer": b'\xff{"return": ' * 5000,
    "blanks where an answer may have some": b"\xff" + b" " * 65535,
}


@pytest.mark.parametrize("piece", ENDLESS.values(), ids=ENDLESS.keys())
async def test_h39_a_flood_without_an_answer_is_given_up_after_so_many_bytes(tmp_path: Path, piece: bytes) -> None:
    async with channel(tmp_path) as (client, agent):
        flooding = asyncio.create_task(_flood(agent, piece))
        asking = ask(client)
        with pytest.raises(AgentGarbage, match="and no answer to guest-sync-delimited among them"):
            await asking
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)


async def _flood(agent: ScriptedAgent, piece: bytes) -> None:
    while True:
        await agent.send(piece)


async def test_h39_a_flooding_guest_does_not_hold_up_a_monitor(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent), linked(tmp_path) as link:
        flooding = asyncio.create_task(_flood(agent, b'\xff{"return": 12345}\n' * 3000))
        hopeless = asyncio.create_task(_ask_on_and_on(client))
        for number in range(200):
            waiting = link.ask("query-status")
            await link.server.answer(await link.server.request(), number)
            assert await waiting == number
        for task in (flooding, hopeless):
            task.cancel()
        await asyncio.gather(flooding, hopeless, return_exceptions=True)


async def _ask_on_and_on(client: GuestAgent) -> None:
    while True:
        with contextlib.suppress(AgentGarbage):
            await client.execute("guest-ping")


async def test_h39_a_guest_that_floods_while_nobody_asks_is_not_read(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        await _fill(agent)
        for _ in range(100):
            await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):  # the socket is full, and stays so
            agent.channel.send(b"x")
        asking = ask(client)
        await agent.serve({"return": "read again"})
        assert await asking == "read again"


async def _fill(agent: ScriptedAgent) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(1000):
            await asyncio.sleep(0)
            agent.channel.send(b"x" * 65536)


async def test_h9_a_guest_that_reads_nothing_is_not_written_to_without_end(tmp_path: Path) -> None:
    async with channel(tmp_path, sync_timeout_s=0.001) as (client, _agent):
        for _ in range(20_000):
            with pytest.raises(AgentSilent) as silent:
                await client.execute("guest-ping")
            if "takes no bytes" in str(silent.value):
                break
        assert "takes no bytes" in str(silent.value)
        assert client._transport is not None
        held_bytes = client._transport.get_write_buffer_size()
        with pytest.raises(AgentSilent):
            await client.execute("guest-ping")
        assert client._transport.get_write_buffer_size() == held_bytes < 200


# --- commands that have no answer -------------------------------------------------------------------------------------


def test_a_command_without_an_answer_is_told_and_silence_is_success(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with channel(tmp_path) as (client, agent):
            telling = asyncio.create_task(client.tell("guest-shutdown", {"mode": "powerdown"}))
            await agent.sync()
            request = await agent.request()
            assert request == {"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}
            await telling

    run_in_virtual_time(scenario())


async def test_the_end_of_the_channel_is_success_too_for_a_command_that_ends_the_guest(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        telling = asyncio.create_task(client.tell("guest-shutdown"))
        await agent.sync()
        await agent.request()
        agent.channel.close()
        await telling


async def test_a_refusal_of_a_command_without_an_answer_is_told(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        telling = asyncio.create_task(client.tell("guest-suspend-ram"))
        await agent.serve({"error": {"class": "Unsupported", "desc": "this feature is not supported"}})
        with pytest.raises(AgentRefused, match="not supported"):
            await telling


async def test_a_channel_that_ends_between_the_sync_and_the_command_has_told_nothing(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        telling = asyncio.create_task(client.tell("guest-shutdown"))
        await agent.sync()
        while not client._found.done():
            await asyncio.sleep(0)
        client.close()
        with pytest.raises(AgentDisconnected):
            await telling


# --- ends -------------------------------------------------------------------------------------------------------------

ENDS: dict[str, Callable[[GuestAgent, ScriptedAgent], None]] = {
    "QEMU closes": lambda _client, agent: agent.channel.close(),
    "we close": lambda client, _agent: client.close(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("stage", ["sync", "reply"])
async def test_the_end_of_the_channel_fails_who_asks_and_who_waits(
    tmp_path: Path, stage: str, end: Callable[[GuestAgent, ScriptedAgent], None]
) -> None:
    async with channel(tmp_path) as (client, agent):
        tasks = [ask(client) for _ in range(3)]
        if stage == "reply":
            await agent.sync()
        await agent.request()
        end(client, agent)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [AgentDisconnected] * 3
        with pytest.raises(AgentDisconnected):
            await client.execute("guest-ping")


async def test_an_end_while_nobody_asks_is_told_to_the_next_who_asks(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        agent.channel.close()
        await asyncio.sleep(0.01)
        with pytest.raises(AgentDisconnected):
            await client.execute("guest-ping")
        client.close()
        client.close()


async def test_arguments_that_are_no_json_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with channel(tmp_path) as (client, agent):
        with pytest.raises(TypeError):
            await client.execute("guest-exec", {"path": object()})
        asking = ask(client)
        await agent.serve()
        await asking
        assert agent.syncs_so_far() == 1
