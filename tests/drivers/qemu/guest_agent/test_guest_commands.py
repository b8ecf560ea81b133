"""A command in a guest whose agent lies, stalls or dies: a bounded time, one clear end, and never a second run."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.qemu.guest_agent.scripted_agent import ScriptedAgent
from tests.unix_sockets import bound
from virtplane_api.reasons import Reason
from virtplane_drivers.errors import DriverError, GuestCommandLost, Refused, Unavailable
from virtplane_drivers.hypervisor.contract import GuestCommand, GuestCommandResult
from virtplane_drivers.hypervisor.qemu import guest_commands
from virtplane_drivers.hypervisor.qemu.guest_commands import run_guest_command

COMMAND = GuestCommand(("/bin/cat", "-n"), timeout_s=10.0, max_output_bytes=4, stdin=b"fed\0")
PING: dict[str, Any] = {"return": {}}
PID = {"return": {"pid": 42}}
RUNS = {"return": {"exited": False}}


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass(frozen=True, slots=True)
class Held:
    """A reply that comes once it is released."""

    reply: object
    released: asyncio.Event


@dataclass(frozen=True, slots=True)
class Unread:
    """A reply to a request of which the first bytes were read; no others are."""

    reply: object


async def serve(agent: ScriptedAgent, replies: tuple[object, ...], asked: list[dict[str, Any]]) -> None:
    for reply in replies:
        await agent.sync()
        if isinstance(reply, Unread):
            await asyncio.get_running_loop().sock_recv(agent.channel, 10)
            await agent.send(reply.reply)
            await asyncio.Event().wait()
        asked.append(await agent.request())
        if isinstance(reply, Held):
            await reply.released.wait()
        await agent.send(reply.reply if isinstance(reply, Held) else reply)


Run = Callable[..., Coroutine[Any, Any, GuestCommandResult]]


@asynccontextmanager
async def guest(folder: Path, *replies: object) -> AsyncIterator[tuple[Run, list[dict[str, Any]]]]:
    """An agent that answers these in their order, and then hangs up; what it was asked for."""
    asked: list[dict[str, Any]] = []
    with bound(folder / "agent") as listener:
        listener.setblocking(False)  # noqa: FBT003
        listener.listen(1)

        async def accept() -> None:
            channel, _address = await asyncio.get_running_loop().sock_accept(listener)
            with channel:
                await serve(ScriptedAgent(channel), replies, asked)

        serving = asyncio.create_task(accept())
        try:
            yield lambda command=COMMAND: run_guest_command(folder / "agent", command), asked
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def test_what_is_asked_of_the_agent_is_what_was_meant(tmp_path: Path) -> None:
    done = {"return": {"exited": True, "exitcode": 0, "out-data": text(b"1\tfed"), "err-data": text(b"!")}}
    async with guest(tmp_path, PING, PID, RUNS, RUNS, done) as (run, asked):
        result = await run()
    assert result == GuestCommandResult(0, None, stdout=b"1\tfe", stderr=b"!", is_truncated=True)
    assert [one["execute"] for one in asked] == ["guest-ping", "guest-exec", *["guest-exec-status"] * 3]
    assert asked[1]["arguments"] == {
        "path": "/bin/cat",
        "arg": ["-n"],
        "capture-output": True,
        "input-data": text(b"fed\0"),
    }
    assert asked[2]["arguments"] == {"pid": 42}


@pytest.mark.parametrize(
    ("replies", "error", "reason"),
    [
        ([], Unavailable, Reason.GUEST_AGENT_SILENT),
        ([{"error": {"class": "X", "desc": "no"}}], Unavailable, Reason.GUEST_AGENT_SILENT),
        ([PING, {"error": {"class": "CommandNotFound", "desc": "disabled"}}], Refused, Reason.GUEST_AGENT_REFUSED),
        ([PING], GuestCommandLost, Reason.GUEST_COMMAND_LOST),
        ([PING, PID], GuestCommandLost, Reason.GUEST_COMMAND_LOST),
        ([PING, PID, {"error": {"class": "X", "desc": "no such pid"}}], GuestCommandLost, Reason.GUEST_COMMAND_LOST),
    ],
    ids=[
        "hangs up at once",
        "knows no ping",
        "forbids commands",
        "dies over it",
        "dies later",
        "has forgotten it",
    ],
)
async def test_how_far_it_came_decides_whether_it_may_have_run(
    tmp_path: Path, replies: list[object], error: type[DriverError], reason: Reason
) -> None:
    async with guest(tmp_path, *replies) as (run, asked):
        with pytest.raises(error) as told:
            await run()
    assert told.value.reason == reason
    assert [one["execute"] for one in asked].count("guest-exec") <= 1


@pytest.mark.parametrize("pid", [None, "42", True, [], {"pid": "x"}, {"pid": None}, {"pid": 1 << 40}, {"pid": True}])
async def test_an_agent_that_names_no_pid_has_lost_it(tmp_path: Path, pid: object) -> None:
    async with guest(tmp_path, PING, {"return": pid}) as (run, _asked):
        with pytest.raises(GuestCommandLost, match="names no pid"):
            await run()


@pytest.mark.parametrize(
    "status",
    [
        None,
        "done",
        [],
        {},
        {"exited": "yes"},
        {"exited": 1},
        {"exited": True},
        {"exited": True, "exitcode": "0"},
        {"exited": True, "exitcode": 1 << 33},
        {"exited": True, "exitcode": True},
        {"exited": True, "signal": -1},
        {"exited": True, "exitcode": 0, "out-data": 7},
        {"exited": True, "exitcode": 0, "out-data": "???"},
        {"exited": True, "exitcode": 0, "err-data": {"a": 1}},
    ],
)
async def test_an_end_that_is_told_oddly_is_an_end_that_is_not_known(tmp_path: Path, status: object) -> None:
    async with guest(tmp_path, PING, PID, {"return": status}) as (run, _asked):
        with pytest.raises(GuestCommandLost):
            await run()


async def test_a_program_that_a_signal_ended_has_no_exit_code(tmp_path: Path) -> None:
    async with guest(tmp_path, PING, PID, {"return": {"exited": True, "signal": 9}}) as (run, _asked):
        assert await run() == GuestCommandResult(None, 9)


@pytest.mark.parametrize("limit", [4, 5, 6])
async def test_of_a_long_output_the_beginning_comes_and_that_it_was_cut(tmp_path: Path, limit: int) -> None:
    """More than a reply may be: qemu-ga keeps 16 MiB of it."""
    long = {"return": {"exited": True, "exitcode": 0, "out-data": text(b"abcdefgh" * (1 << 18)), "err-data": text(b"")}}
    async with guest(tmp_path, PING, PID, long) as (run, _asked):
        result = await run(replace(COMMAND, max_output_bytes=limit))
    assert result == GuestCommandResult(0, None, stdout=b"abcdefgh"[:limit], is_truncated=True)


@pytest.mark.parametrize("limit", [4, 5, 6])
async def test_an_output_that_just_fits_is_whole(tmp_path: Path, limit: int) -> None:
    fits = {"return": {"exited": True, "exitcode": 0, "out-data": text(b"abcdefgh"[:limit])}}
    async with guest(tmp_path, PING, PID, fits) as (run, _asked):
        result = await run(replace(COMMAND, max_output_bytes=limit))
    assert result == GuestCommandResult(0, None, stdout=b"abcdefgh"[:limit])


async def test_an_agent_that_is_held_before_it_answers_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells of an end once: who gave up and asked again would hear that there is no such pid."""
    monkeypatch.setattr(guest_commands, "_ANSWER_TIMEOUT_S", 0.2)
    released = asyncio.Event()
    done = {"return": {"exited": True, "exitcode": 0}}
    async with guest(tmp_path, PING, PID, Held(done, released)) as (run, asked):
        running = asyncio.create_task(run())
        await asyncio.sleep(3 * guest_commands._ANSWER_TIMEOUT_S)
        released.set()
        assert (await running).exit_code == 0
    assert [one["execute"] for one in asked].count("guest-exec-status") == 1


async def test_a_guest_that_takes_no_bytes_holds_up_nobody_but_its_caller(tmp_path: Path) -> None:
    """It says that the program runs, without having read what it is: the next question cannot be written."""
    fed = replace(COMMAND, stdin=bytes(4 << 20), timeout_s=1.0)
    async with guest(tmp_path, PING, Unread(PID)) as (run, _asked):
        asking = asyncio.create_task(run(fed))
        steps = 0
        while not asking.done():
            await asyncio.sleep(0.01)
            steps += 1
        with pytest.raises(GuestCommandLost, match="runs on in the guest"):
            await asking
    assert steps > 10
