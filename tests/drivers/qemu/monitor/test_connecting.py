"""From a path to an open monitor, and what can come between."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.drivers.qemu.monitor.linked import Linked, linked, open_descriptors
from tests.drivers.qemu.monitor.scripted_qmp import GREETING, ScriptedServer, event, scripted_server
from tests.unix_sockets import address_of
from virtplane_drivers.hypervisor.qemu.monitor import (
    CommandFailed,
    ConnectionSpoilt,
    HungUp,
    Monitor,
    MonitorClosed,
    MonitorTimeout,
    ProtocolViolation,
    connect,
)


def connecting(path: Path, timeout_s: float = 5.0) -> "asyncio.Task[Monitor]":
    return asyncio.create_task(
        connect(path, on_event=lambda _event: None, on_close=lambda _end: None, timeout_s=timeout_s)
    )


GREETINGS: dict[str, tuple[dict[str, object], object]] = {
    "oob": ({"version": {}, "capabilities": ["oob", "more"]}, {"enable": ["oob"]}),
    "other capabilities": ({"version": {}, "capabilities": ["other"]}, None),
    "no capabilities": ({"version": {}, "capabilities": []}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize(("greeting", "arguments"), GREETINGS.values(), ids=GREETINGS.keys())
async def test_oob_is_enabled_when_the_greeting_offers_it_and_only_then(
    tmp_path: Path, greeting: dict[str, object], arguments: object
) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        task = connecting(tmp_path / "qmp")
        await server.accept()
        await server.send({"QMP": greeting})
        request = await server.request()
        assert request.get("arguments") == arguments
        await server.answer(request)
        monitor = await task
        assert monitor.runs_out_of_band == (arguments is not None)
        await server.send({"QMP": greeting})
        assert await server.client_is_gone()
        assert not monitor.is_open


# --- what is there before us ------------------------------------------------------------------------------------------


async def test_h21_events_before_the_greeting_and_in_negotiation_are_delivered_and_taken_for_nothing_else(
    tmp_path: Path,
) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        link = Linked(tmp_path / "qmp", server)
        task = asyncio.create_task(
            connect(link.path, on_event=link.events.append, on_close=link.ends.append),
        )
        await server.accept()
        await server.send(event("VSERPORT_CHANGE"), event("STOP"), GREETING, event("RESUME"))
        request = await server.request()
        await server.send(event("STOP"), {"return": {}, "id": request["id"]}, event("RESUME"))
        monitor = await task
        assert link.event_names == ["VSERPORT_CHANGE", "STOP", "RESUME", "STOP", "RESUME"]
        monitor.close()


async def test_h21_replies_to_a_former_client_are_dropped_whatever_their_ids(tmp_path: Path) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        link = Linked(tmp_path / "qmp", server)
        left_overs: list[object] = [{"return": {}, "id": number} for number in range(1000)]
        left_overs += [
            {"return": {}},
            {"error": {"class": "X", "desc": "nobody's"}, "id": 1},
            {"return": {}, "id": "a"},
        ]
        monitor = await link.connect(*left_overs)
        assert monitor.dropped_replies == len(left_overs)
        waiting = link.ask("query-status")
        await server.answer(await server.request(), "ours")
        assert await waiting == "ours"
        monitor.close()


async def test_h21_no_two_connections_negotiate_under_the_same_id(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        ids = set()
        for _ in range(20):
            task = connecting(link.path)
            await link.server.accept()
            await link.server.send(GREETING)
            request = await link.server.request()
            ids.add(request["id"])
            await link.server.answer(request)
            (await task).close()
        assert len(ids) == 20
        assert min(ids) > 1 << 50


# --- a QEMU that misreads, as a real one may when it is connected to while it starts ----------------------------------

SPOILS: dict[str, object] = {
    "a second greeting": GREETING,
    "an error without an id": {"error": {"class": "GenericError", "desc": "JSON parse error"}},
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
async def test_h21_h26_a_connection_that_is_misread_from_its_beginning_is_made_again(
    tmp_path: Path, spoil: object
) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        link = Linked(tmp_path / "qmp", server)
        task = asyncio.create_task(connect(link.path, on_event=link.events.append, on_close=link.ends.append))
        for _ in range(3):
            await server.accept()
            await server.send(GREETING, spoil)
            assert await server.client_is_gone()
            await server.accept()
            server.hang_up()  # as QEMU does with one that comes too soon after such a one
        await server.accept()
        await server.negotiate()
        link.monitor = await task
        assert link.ends == []
        waiting = link.ask("query-status")
        await server.answer(await server.request(), "good")
        assert await waiting == "good"
        link.monitor.close()
        assert len(link.ends) == 1


async def test_h22_a_qemu_that_always_misreads_is_given_up_in_time(tmp_path: Path) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        before = open_descriptors()
        task = connecting(tmp_path / "qmp", timeout_s=0.3)
        misreading = asyncio.create_task(_greet_all_twice(server))
        with pytest.raises(MonitorTimeout):
            await task
        misreading.cancel()
        await asyncio.gather(misreading, return_exceptions=True)
        server.hang_up()
        assert open_descriptors() == before - 1


async def _greet_all_twice(server: ScriptedServer) -> None:
    while True:
        await server.accept()
        await server.send(GREETING, GREETING)


async def test_a_connection_that_is_misread_later_ends_and_says_so(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        waiting = link.ask("query-status")
        await link.server.request()
        await link.server.send(GREETING)
        with pytest.raises(ConnectionSpoilt, match="query-status: QEMU greeted twice"):
            await waiting
        assert isinstance(link.ends[0], ConnectionSpoilt)


async def test_a_qemu_that_refuses_to_negotiate_says_why(tmp_path: Path) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        before = open_descriptors()
        task = connecting(tmp_path / "qmp")
        await server.accept()
        await server.send(GREETING)
        request = await server.request()
        await server.send({"error": {"class": "GenericError", "desc": "no oob today"}, "id": request["id"]})
        with pytest.raises(CommandFailed, match="no oob today"):
            await task
        assert await server.client_is_gone()
        assert open_descriptors() == before


# --- what never comes -------------------------------------------------------------------------------------------------


async def test_h22_a_greeting_that_never_comes_ends_in_a_clear_error(tmp_path: Path) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        before = open_descriptors()
        with pytest.raises(MonitorTimeout, match=r"no QMP greeting within 0\.05 s; another client may be connected"):
            await connecting(tmp_path / "qmp", timeout_s=0.05)
        assert open_descriptors() == before
        await server.accept()
        assert await server.client_is_gone()


async def test_h22_a_socket_whose_queue_is_full_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        with address_of(tmp_path / "qmp") as address:
            others = _until_the_queue_is_full(address)
        before = open_descriptors()
        with pytest.raises(MonitorTimeout, match="another client may be connected"):
            await connecting(tmp_path / "qmp", timeout_s=0.1)
        assert open_descriptors() == before
        task = connecting(tmp_path / "qmp")
        await asyncio.sleep(0.05)
        for other in others:
            other.close()
        for _ in others:
            await server.accept()
        await server.accept()
        await server.negotiate()
        (await task).close()


def _until_the_queue_is_full(address: str) -> list[socket.socket]:
    others: list[socket.socket] = []
    while True:
        other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        other.setblocking(False)  # noqa: FBT003
        try:
            other.connect(address)
        except BlockingIOError:
            other.close()
            return others
        others.append(other)


async def test_a_qemu_that_greets_and_answers_nothing_is_told_from_one_that_does_not_greet(tmp_path: Path) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        task = connecting(tmp_path / "qmp", timeout_s=0.1)
        await server.accept()
        await server.send(GREETING)
        with pytest.raises(MonitorTimeout, match=r"QEMU greeted, and answered nothing within 0\.1 s"):
            await task


NO_GREETINGS: dict[str, bytes] = {
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "a greeting that is a text": b'{"QMP": "hello"}\n',
    "a greeting without a list": b'{"QMP": {"capabilities": 1}}\n',
    "another object": b'{"hello": 1}\n',
}


@pytest.mark.parametrize("line", NO_GREETINGS.values(), ids=NO_GREETINGS.keys())
async def test_h25_what_greets_otherwise_is_no_qemu(tmp_path: Path, line: bytes) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        task = connecting(tmp_path / "qmp")
        await server.accept()
        await server.send(line)
        with pytest.raises(ProtocolViolation):
            await task


@pytest.mark.parametrize("stage", ["accepted", "greeted", "asked"])
async def test_h20_a_qemu_that_dies_while_it_is_connected_to_is_a_closed_monitor(tmp_path: Path, stage: str) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        before, ends = open_descriptors(), list[MonitorClosed]()
        task = asyncio.create_task(connect(tmp_path / "qmp", on_event=lambda _event: None, on_close=ends.append))
        await _come_to(server, stage)
        server.hang_up()
        with pytest.raises(HungUp):
            await task
        assert [type(end) for end in ends] == [HungUp]
        assert open_descriptors() == before - 1  # the server's own


@pytest.mark.parametrize("stage", ["begun", "accepted", "greeted", "asked"])
async def test_h20_a_cancelled_connect_leaves_nothing_connected(tmp_path: Path, stage: str) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        before = open_descriptors()
        task = connecting(tmp_path / "qmp")
        await _come_to(server, stage)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if stage != "begun":
            assert await server.client_is_gone()
        assert open_descriptors() == before


async def test_h20_a_connect_cancelled_at_any_step_of_the_loop_leaves_nothing_connected(tmp_path: Path) -> None:
    async with scripted_server(tmp_path / "qmp") as server:
        before = open_descriptors()
        for steps in range(12):
            task = connecting(tmp_path / "qmp")
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0)  # asyncio's transport closes one step later
            assert open_descriptors() == before, f"cancelled after {steps} steps"
            if steps:
                await server.accept()
                assert await server.client_is_gone()


async def _come_to(server: ScriptedServer, stage: str) -> None:
    if stage == "begun":
        await asyncio.sleep(0)
        return
    await server.accept()
    if stage in ("greeted", "asked"):
        await server.send(GREETING)
    if stage == "asked":
        await server.request()


# --- paths ------------------------------------------------------------------------------------------------------------


async def test_a_path_without_a_socket_and_a_socket_without_a_listener_are_errors_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await connecting(tmp_path / "qmp")
    async with scripted_server(tmp_path / "qmp"):
        pass
    before = open_descriptors()
    with pytest.raises(ConnectionRefusedError):
        await connecting(tmp_path / "qmp")
    assert open_descriptors() == before


async def test_a_path_too_long_for_a_socket_address_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    (tmp_path / "short").symlink_to(folder)
    async with scripted_server(tmp_path / "short" / "qmp") as server:
        task = connecting(folder / "qmp")
        await server.accept()
        await server.negotiate()
        (await task).close()
