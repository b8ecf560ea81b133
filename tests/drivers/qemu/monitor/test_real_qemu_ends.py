"""Ends and beginnings of connections to a real QEMU: deaths in the midst of a reply, former clients, and garbage."""

import asyncio
import os
import select
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.drivers.qemu.monitor.linked import until
from tests.drivers.qemu.monitor.real_qemu import RealQemu, real_qemu
from tests.unix_sockets import address_of
from virtplane_drivers.hypervisor.qemu.monitor import (
    HungUp,
    Monitor,
    MonitorClosed,
    MonitorTimeout,
    ProtocolViolation,
    connect,
)


@pytest.fixture
async def qemu(tmp_path: Path) -> AsyncIterator[RealQemu]:
    """With two monitors."""
    async with real_qemu(tmp_path, monitors=2) as running:
        yield running


async def status(monitor: Monitor) -> str:
    return str((await monitor.execute("query-status"))["status"])


async def test_h15_h16_a_real_qemu_that_is_asked_to_quit_tells_of_its_end_and_hangs_up(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    await monitor.quit()
    assert await qemu.wait() == 0
    await until(lambda: bool(qemu.ends))
    assert qemu.event_names == ["SHUTDOWN"]
    assert isinstance(qemu.ends[0], HungUp)


async def test_h15_quits_that_race_the_end_succeed(tmp_path: Path) -> None:
    ended = 0
    for _ in range(10):
        async with real_qemu(tmp_path) as qemu:
            monitor = await qemu.connect()
            qemu.send(signal.SIGTERM)
            results = await asyncio.gather(*(monitor.quit(timeout_s=3.0) for _ in range(3)), return_exceptions=True)
            if results == [None] * 3:
                ended += await qemu.wait() == 0
            else:
                qemu.check_stuck_in_its_end(results)
    assert ended >= 8


async def test_h13_h16_a_qemu_killed_at_any_moment_fails_each_waiting_command_once(tmp_path: Path) -> None:
    dice = Random(1)
    for _ in range(15):
        async with real_qemu(tmp_path) as qemu:
            monitor = await qemu.connect()
            tasks = [asyncio.create_task(monitor.execute("query-qmp-schema")) for _ in range(12)]
            await asyncio.sleep(dice.random() * 0.05)
            qemu.send(signal.SIGKILL)
            async with asyncio.timeout(10):
                results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, list | HungUp) for result in results)
            assert [type(end) for end in qemu.ends] == [HungUp]
            assert "SHUTDOWN" not in qemu.event_names
            with pytest.raises(MonitorClosed):
                await monitor.execute("query-status")


async def test_h13_a_qemu_killed_in_the_midst_of_a_reply_has_its_whole_replies_delivered_and_no_half_one(
    qemu: RealQemu,
) -> None:
    monitor = await qemu.connect()
    tasks = [asyncio.create_task(monitor.execute("query-qmp-schema")) for _ in range(7)]
    await asyncio.sleep(0)
    _let_qemu_fill_the_socket(monitor)
    qemu.send(signal.SIGKILL)
    async with asyncio.timeout(10):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[-1], HungUp)
    assert "bytes into a message" in str(qemu.ends[0])
    assert all(isinstance(result, HungUp) or (isinstance(result, list) and len(result) > 500) for result in results)


def _let_qemu_fill_the_socket(monitor: Monitor) -> None:
    """Blocks the event loop on purpose: nothing is read until QEMU can write no more, in the midst of a message."""
    assert monitor._transport is not None
    transport_socket = monitor._transport.get_extra_info("socket")
    sizes, deadline = [0], time.monotonic() + 20
    with socket.socket(fileno=os.dup(transport_socket.fileno())) as connection:
        while True:
            unread = connection.recv(1 << 22, socket.MSG_PEEK) if select.select([connection], [], [], 1)[0] else b""
            sizes.append(len(unread))
            if sizes[-4:] == [len(unread)] * 4 and unread and not unread.endswith(b"\n"):
                return
            assert time.monotonic() < deadline
            time.sleep(0.02)


async def test_h14_h19_the_last_events_of_a_qemu_that_dies_while_it_is_asked_are_heard(tmp_path: Path) -> None:
    ended = 0
    for _ in range(10):
        async with real_qemu(tmp_path) as qemu:
            monitor = await qemu.connect()
            asking = asyncio.create_task(_ask_on_and_on(monitor))
            await asyncio.sleep(0.01)
            qemu.send(signal.SIGTERM)
            [result] = await asyncio.gather(asking, return_exceptions=True)
            if isinstance(result, HungUp):
                ended += 1
            else:
                qemu.check_stuck_in_its_end([result])
            assert qemu.event_names == ["SHUTDOWN"]
            assert qemu.events[0]["data"] == {"guest": False, "reason": "host-signal"}
    assert ended >= 8


async def _ask_on_and_on(monitor: Monitor) -> None:
    while True:
        await monitor.execute("query-status", timeout_s=3.0)


# --- one client after the other ---------------------------------------------------------------------------------------


async def test_a_monitor_may_be_closed_and_opened_again_and_again(qemu: RealQemu) -> None:
    for _ in range(30):
        monitor = await qemu.connect()
        assert await status(monitor) in ("prelaunch", "running")
        monitor.close()


async def test_h22_a_second_client_is_told_to_wait_and_served_when_the_first_has_gone(qemu: RealQemu) -> None:
    first = await qemu.connect()
    with pytest.raises(MonitorTimeout, match="another client may be connected"):
        await connect(qemu.paths[0], on_event=lambda _e: None, on_close=lambda _e: None, timeout_s=0.3)
    waiting = asyncio.create_task(qemu.connect())
    await asyncio.sleep(0.05)
    first.close()
    assert await status(await waiting) == "running"


async def test_h21_what_qemu_owes_to_a_former_client_is_dropped_by_the_next(qemu: RealQemu) -> None:
    other = await qemu.connect(1)
    former = await qemu.connect()
    async with qemu.stuck(former):
        asked = [asyncio.create_task(former.execute("query-status")) for _ in range(3)]
        await asyncio.sleep(0.05)
        former.close()
        await asyncio.gather(*asked, return_exceptions=True)
        connecting = asyncio.create_task(qemu.connect())
        await asyncio.sleep(0.05)  # it has greeted us and waits for the end of the former client's command
        assert not connecting.done()
    monitor = await connecting
    assert monitor.dropped_replies == 1
    assert await status(monitor) == await status(other)


async def test_h21_a_former_client_with_our_kind_of_ids_changes_nothing(qemu: RealQemu) -> None:
    other = await qemu.connect(1)
    for number in range(1, 4):
        raw = await _raw(qemu)
        async with qemu.stuck(other):
            raw.sendall(b'{"execute": "qmp_capabilities", "id": %d}\n' % number)
            await asyncio.sleep(0.05)
            raw.close()
            connecting = asyncio.create_task(qemu.connect())
            await asyncio.sleep(0.05)
        monitor = await connecting
        assert (await monitor.execute("query-version"))["qemu"]["major"] >= 7
        monitor.close()


async def test_h21_events_while_it_negotiates_do_not_confuse_it(qemu: RealQemu) -> None:
    other = await qemu.connect(1)
    flood = asyncio.create_task(_ask_stop_and_go(other))
    for _ in range(30):
        monitor = await qemu.connect()
        assert await status(monitor) in ("running", "paused")
        monitor.close()
    flood.cancel()
    await asyncio.gather(flood, return_exceptions=True)


async def _ask_stop_and_go(monitor: Monitor) -> None:
    while True:
        await monitor.execute("stop")
        await monitor.execute("cont")


# --- garbage ----------------------------------------------------------------------------------------------------------


async def _raw(qemu: RealQemu) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(5.0)
    with address_of(qemu.paths[0]) as address:
        raw.connect(address)
    assert b'"QMP"' in await asyncio.to_thread(raw.recv, 1 << 16)
    return raw


@pytest.mark.parametrize(
    "garbage",
    [b'{"execute": "query-sta', b"garbage", b"\xff\xff", b'{"execute": {{{{[[[', b"\x00\x01", b'"', b"[" * 2000],
    ids=["half a command", "words", "0xFF", "open brackets", "control characters", "a quote", "2,000 deep"],
)
async def test_h28_garbage_of_a_former_client_does_not_reach_the_next(qemu: RealQemu, garbage: bytes) -> None:
    with await _raw(qemu) as raw:
        raw.sendall(b'{"execute": "qmp_capabilities"}\n' + garbage)
    monitor = await qemu.connect()
    assert await status(monitor) == "running"
    assert monitor.is_open


async def test_h26_h28_garbage_of_ours_ends_the_connection_and_a_new_one_is_good(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    waiting = asyncio.create_task(monitor.execute("query-status", timeout_s=60.0))
    monitor._outbox.send(b'{"execute": }\n')
    with pytest.raises(ProtocolViolation, match="QEMU could not read a request"):
        await asyncio.gather(waiting, _until_closed(monitor))
    assert await status(await qemu.connect()) == "running"


async def _until_closed(monitor: Monitor) -> None:
    await until(lambda: not monitor.is_open)
    await monitor.execute("query-status")


async def test_h28_after_0xff_a_real_qemu_reads_on(qemu: RealQemu) -> None:
    """What the specification promises, and what a client that stayed connected could use."""
    with await _raw(qemu) as raw:
        raw.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "query-sta\xff')
        raw.sendall(b'{"execute": "query-status", "id": "after"}\n')
        data = b""
        while b'"after"' not in data:
            data += await asyncio.to_thread(raw.recv, 1 << 16)
        assert b"JSON parse error" in data
