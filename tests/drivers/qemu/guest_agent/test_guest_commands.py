"""A command in a guest whose agent lies, stalls or dies: a bounded time, one clear end, and never a second run."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.qemu.guest_agent.scripted_agent import ScriptedAgent
from virtplane_api.reasons import Reason
from virtplane_drivers.errors import DriverError, GuestCommandLost, Refused, Unavailable
from virtplane_drivers.hypervisor.contract import GuestCommand, GuestCommandResult
from virtplane_drivers.hypervisor.qemu.guest_commands import run_guest_command

COMMAND = GuestCommand(("/bin/cat", "-n"), timeout_s=10.0, max_output_bytes=4, stdin=b"fed\0")
PING: dict[str, Any] = {"return": {}}
PID = {"return": {"pid": 42}}
RUNS = {"return": {"exited": False}}


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


@asynccontextmanager
async def guest(folder: Path, *replies: object) -> AsyncIterator[tuple[Callable[[], Any], list[dict[str, Any]]]]:
    """An agent that answers these in their order, and then hangs up; what it was asked for."""
    asked: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)  # noqa: FBT003
        listener.bind(str(folder / "agent"))
        listener.listen(1)

        async def serve() -> None:
            channel, _address = await asyncio.get_running_loop().sock_accept(listener)
            with channel:
                agent = ScriptedAgent(channel)
                for reply in replies:
                    asked.append(await agent.serve(reply))  # noqa: PERF401  # known as it comes

        serving = asyncio.create_task(serve())
        try:
            yield lambda: run_guest_command(folder / "agent", COMMAND), asked
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


async def test_a_guest_that_takes_no_bytes_costs_the_command_s_time_and_nothing_else_stands_still(
    tmp_path: Path,
) -> None:
    """It answers before it has read: the request stays in the channel, and no other one goes in."""
    long = GuestCommand(
        ("/bin/cat",), timeout_s=1.0, max_output_bytes=4, stdin="\N{GRINNING FACE}".encode() * (64 << 10)
    )
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.05)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)  # noqa: FBT003
        listener.bind(str(tmp_path / "agent"))
        listener.listen(1)

        async def serve() -> None:
            channel, _address = await asyncio.get_running_loop().sock_accept(listener)
            with channel:
                agent = ScriptedAgent(channel)
                await agent.serve(PING)
                await agent.sync(behind=b'{"return": {"pid": 1}}\n')
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(serve()), asyncio.create_task(beat())]
        try:
            with pytest.raises(GuestCommandLost):
                await run_guest_command(tmp_path / "agent", long)
            assert beats > 5
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
