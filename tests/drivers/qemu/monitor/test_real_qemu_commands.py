"""Commands, events and descriptors against a real QEMU."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from tests.drivers.qemu.monitor.linked import until
from tests.drivers.qemu.monitor.real_qemu import RealQemu, real_qemu
from tests.unix_sockets import address_of
from virtplane_drivers.hypervisor.qemu.monitor import CommandFailed, Monitor, MonitorTimeout
from virtplane_drivers.hypervisor.qemu.monitor.commands import IN_BAND_SLOTS


@pytest.fixture
async def qemu(tmp_path: Path) -> AsyncIterator[RealQemu]:
    """With two monitors."""
    async with real_qemu(tmp_path, monitors=2) as running:
        yield running


async def echo(monitor: Monitor, number: int) -> int:
    """A number that went through QEMU: its human monitor prints it."""
    return int(await monitor.execute("human-monitor-command", {"command-line": f"print {number}"}), 16)


async def test_a_real_qemu_is_spoken_to(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    assert monitor.runs_out_of_band
    assert (await monitor.execute("query-version"))["qemu"]["major"] >= 7
    with pytest.raises(CommandFailed, match="has not been found") as failed:
        await monitor.execute("nonsense")
    assert failed.value.error_class == "CommandNotFound"
    assert await echo(monitor, 42) == 42


async def test_h24_the_longest_reply_of_a_real_qemu_arrives(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    schema = await monitor.execute("query-qmp-schema")
    assert len(schema) > 500
    assert len(orjson.dumps(schema)) > 1 << 17


async def test_h12_h29_a_thousand_commands_at_once_each_get_their_own_reply(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    assert await asyncio.gather(*(echo(monitor, n) for n in range(1000))) == list(range(1000))
    assert monitor.dropped_replies == 0


async def test_h5_a_storm_of_cancellations_leaves_each_reply_with_its_caller(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    dice = Random(1)
    outcomes: list[str] = []

    async def call(number: int) -> None:
        task = asyncio.create_task(echo(monitor, number))
        if dice.random() < 0.5:
            for _ in range(dice.randrange(50)):
                await asyncio.sleep(0)
            task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        outcomes.append("right" if result == number else type(result).__name__)

    for first in range(0, 3000, 100):
        await asyncio.gather(*(call(number) for number in range(first, first + 100)))
    assert set(outcomes) == {"right", "CancelledError"}
    assert outcomes.count("right") > 1000
    assert await asyncio.gather(*(echo(monitor, n) for n in range(50))) == list(range(50))


# --- out of band ------------------------------------------------------------------------------------------------------


async def test_h29_an_out_of_band_command_is_answered_while_the_main_loop_is_stuck_and_all_slots_are_taken(
    qemu: RealQemu,
) -> None:
    monitor, other = await qemu.connect(0), await qemu.connect(1)
    async with qemu.stuck(other) as culprit:
        waiting = [asyncio.create_task(echo(monitor, number)) for number in range(20)]
        instances = await monitor.execute_out_of_band("query-yank", timeout_s=5.0)
        assert {instance["id"] for instance in instances} == {"m0", "m1"}
        assert not any(task.done() for task in [culprit, *waiting])
    assert await culprit == {}
    assert await asyncio.gather(*waiting) == list(range(20))


async def test_h29_a_real_qemu_with_one_more_in_its_queue_would_not_read_it(qemu: RealQemu) -> None:
    """Why there are 7 slots: a raw client, with 8."""
    other = await qemu.connect(1)
    urgent = b'{"exec-oob": "query-yank", "id": "urgent"}\n'
    for in_queue, is_read in ((IN_BAND_SLOTS, True), (IN_BAND_SLOTS + 1, False)):
        with socket.socket(socket.AF_UNIX) as raw:
            with address_of(qemu.paths[0]) as address:
                raw.connect(address)
            raw.sendall(b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}, "id": "ready"}\n')
            await asyncio.to_thread(_read_until, raw, b'"ready"')
            async with qemu.stuck(other):
                raw.sendall(b'{"execute": "query-status"}\n' * in_queue + urgent)
                raw.settimeout(5.0 if is_read else 0.3)
                if is_read:
                    await asyncio.to_thread(_read_until, raw, b'"urgent"')
                else:
                    with pytest.raises(TimeoutError):
                        await asyncio.to_thread(raw.recv, 1)


def _read_until(raw: socket.socket, text: bytes) -> None:
    data = b""
    while text not in data:
        data += raw.recv(1 << 16)


async def test_a_command_that_cannot_run_out_of_band_is_refused_by_qemu(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    with pytest.raises(CommandFailed, match="does not support OOB"):
        await monitor.execute_out_of_band("query-status")


# --- hangs ------------------------------------------------------------------------------------------------------------


async def test_h7_h8_a_stopped_qemu_costs_its_own_callers_their_deadlines_others_nothing_and_heals(
    qemu: RealQemu, tmp_path: Path
) -> None:
    monitor = await qemu.connect()
    async with real_qemu(tmp_path) as healthy:
        neighbour = await healthy.connect()
        qemu.send(signal.SIGSTOP)
        began = time.monotonic()
        hung = [asyncio.create_task(monitor.execute("query-status", timeout_s=0.5)) for _ in range(20)]
        assert [await echo(neighbour, number) for number in range(200)] == list(range(200))
        results = await asyncio.gather(*hung, return_exceptions=True)
        assert [type(result) for result in results] == [MonitorTimeout] * 20
        assert 0.5 <= time.monotonic() - began < 5.0
        assert monitor.is_open
        qemu.send(signal.SIGCONT)
        assert await asyncio.gather(*(echo(monitor, number) for number in range(20))) == list(range(20))
        assert monitor.dropped_replies == IN_BAND_SLOTS


async def test_h6_a_stop_that_took_too_long_is_seen_when_it_happens(qemu: RealQemu) -> None:
    monitor, other = await qemu.connect(0), await qemu.connect(1)
    await monitor.execute("cont")
    with monitor.events("STOP") as stops:
        async with qemu.stuck(other):
            with pytest.raises(MonitorTimeout):
                await monitor.execute("stop", timeout_s=0.05)
        async with asyncio.timeout(10):
            await stops.get()
    assert (await monitor.execute("query-status"))["status"] == "paused"
    assert monitor.dropped_replies == 1


async def test_h9_what_a_stopped_qemu_does_not_read_is_read_whole_when_it_goes_on(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    qemu.send(signal.SIGSTOP)
    padding = {"command-line": "print 1" + " " * 300_000}
    with pytest.raises(MonitorTimeout):
        await monitor.execute("human-monitor-command", padding, timeout_s=0.2)
    waiting = asyncio.create_task(echo(monitor, 7))
    qemu.send(signal.SIGCONT)
    assert await waiting == 7


# --- events -----------------------------------------------------------------------------------------------------------


async def test_h3_a_real_stop_is_told_before_it_is_answered(qemu: RealQemu) -> None:
    monitor = await qemu.connect()
    for command, name in (("stop", "STOP"), ("cont", "RESUME")) * 20:
        with monitor.events(name) as queue:
            await monitor.execute(command)
            assert len(queue) == 1  # already here, and not lost
            assert (await queue.get())["event"] == name


async def test_h30_a_flood_of_real_events_is_complete_and_in_order_beside_replies(qemu: RealQemu) -> None:
    monitor, other = await qemu.connect(0), await qemu.connect(1)
    await monitor.execute("cont")
    qemu.events.clear()
    heard: list[str] = []

    def hear(event: dict[str, Any]) -> None:
        heard.append(event["event"])

    monitor._on_event = hear
    flood = asyncio.create_task(_stop_and_go(other, 2000))
    count = 0
    while not flood.done():
        assert await echo(monitor, count) == count
        count += 1
    await until(lambda: len(heard) == 4000)
    assert heard == ["STOP", "RESUME"] * 2000
    assert count > 100


async def _stop_and_go(monitor: Monitor, times: int) -> None:
    for _ in range(times):
        await asyncio.gather(monitor.execute("stop"), monitor.execute("cont"))


# --- descriptors ------------------------------------------------------------------------------------------------------


async def test_a_descriptor_is_named_used_and_closed_again(qemu: RealQemu, tmp_path: Path) -> None:
    monitor = await qemu.connect()
    (tmp_path / "log").touch()
    descriptor = os.open(tmp_path / "log", os.O_RDWR)
    await monitor.execute("getfd", {"fdname": "log"}, descriptor=descriptor)
    os.close(descriptor)
    await monitor.execute("closefd", {"fdname": "log"})
    with pytest.raises(CommandFailed, match="not found"):
        await monitor.execute("closefd", {"fdname": "log"})
    with pytest.raises(CommandFailed, match="No file descriptor supplied"):
        await monitor.execute("getfd", {"fdname": "log"})


async def test_of_thirty_descriptors_at_once_each_arrives_with_its_own_command(qemu: RealQemu, tmp_path: Path) -> None:
    monitor = await qemu.connect()
    others = [asyncio.create_task(echo(monitor, number)) for number in range(100)]

    async def add(number: int) -> tuple[str, str]:
        path = tmp_path / f"file-{number}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        adding = asyncio.create_task(
            monitor.execute("add-fd", {"fdset-id": number, "opaque": str(path)}, descriptor=descriptor)
        )
        await asyncio.sleep(0)
        os.close(descriptor)
        return qemu.file_of((await adding)["fd"]), str(path)

    for there, sent in await asyncio.gather(*map(add, range(30))):
        assert there == sent
    sets = {entry["fdset-id"]: entry["fds"][0]["opaque"] for entry in await monitor.execute("query-fdsets")}
    assert sets == {number: str(tmp_path / f"file-{number}") for number in range(30)}
    assert await asyncio.gather(*others) == list(range(100))


async def test_a_descriptor_behind_more_than_the_socket_takes_arrives_with_its_command(
    qemu: RealQemu, tmp_path: Path
) -> None:
    monitor = await qemu.connect()
    qemu.send(signal.SIGSTOP)
    long = monitor.execute("human-monitor-command", {"command-line": "print 1" + " " * 300_000}, timeout_s=60.0)
    waiting = asyncio.create_task(long)
    await asyncio.sleep(0)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    adding = asyncio.create_task(monitor.execute("add-fd", {"fdset-id": 1}, descriptor=descriptor, timeout_s=60.0))
    await asyncio.sleep(0)
    os.close(descriptor)
    qemu.send(signal.SIGCONT)
    assert qemu.file_of((await adding)["fd"]) == str(tmp_path / "file")
    await waiting
