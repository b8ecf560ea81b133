"""The end of a connection: once, with its reason, after all that was read, and with nobody left waiting."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.drivers.qemu.monitor.linked import linked, open_descriptors
from tests.drivers.qemu.monitor.scripted_qmp import event
from tests.drivers.qemu.monitor.virtual_time import run_in_virtual_time
from virtplane_drivers.hypervisor.qemu.monitor import (
    HungUp,
    MonitorClosed,
    MonitorTimeout,
    ProtocolViolation,
)
from virtplane_drivers.hypervisor.qemu.monitor.commands import IN_BAND_SLOTS
from virtplane_drivers.hypervisor.qemu.monitor.connection import BROKEN_WRITE_GRACE_S, UNFINISHED_TIMEOUT_S


@pytest.mark.parametrize("read_by_the_server", [3, 0], ids=["EOF", "reset, as requests are unread"])
async def test_h13_h14_the_end_fails_all_that_wait_once_after_the_events_before_it(
    tmp_path: Path, read_by_the_server: int
) -> None:
    async with linked(tmp_path) as link:
        tasks = [link.ask("query-status") for _ in range(3)]
        await asyncio.sleep(0)
        for _ in range(read_by_the_server):
            await link.server.request()
        await link.server.send(event("STOP"), event("SHUTDOWN", guest=True))
        link.server.hang_up()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [HungUp] * 3
        assert link.event_names == ["STOP", "SHUTDOWN"]
        assert len(link.ends) == 1
        with pytest.raises(MonitorClosed):
            await link.monitor.execute("query-status")


async def test_h13_those_that_wait_for_a_slot_fail_too(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks = [link.ask("query-status") for _ in range(3 * IN_BAND_SLOTS)]
        await link.server.request()
        link.server.hang_up()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [HungUp] * (3 * IN_BAND_SLOTS)


async def test_h14_h19_a_command_to_a_qemu_that_has_just_died_does_not_cost_its_last_events(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        await link.server.send(event("STOP"), event("SHUTDOWN", guest=True))
        link.server.hang_up()
        asking = link.ask("query-status")  # its write fails, before the events are read
        with pytest.raises(HungUp, match="QEMU closed the connection"):
            await asking
        assert link.event_names == ["STOP", "SHUTDOWN"]


async def test_h19_events_are_read_to_the_end_though_nobody_waits(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        await link.server.send(*(event("STOP", number=number) for number in range(5000)))
        link.server.hang_up()
        await link.end()
        assert [e["data"]["number"] for e in link.events] == list(range(5000))


def test_h14_a_peer_that_takes_no_more_and_says_nothing_is_given_up_soon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as link:
            link.server.client.shutdown(socket.SHUT_RD)
            began = asyncio.get_running_loop().time()
            with pytest.raises(HungUp, match="QEMU reads no more"):
                await link.monitor.execute("query-status")
            assert asyncio.get_running_loop().time() - began == pytest.approx(BROKEN_WRITE_GRACE_S)

    run_in_virtual_time(scenario())


async def test_h13_an_end_in_the_midst_of_a_message_says_so(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        await link.server.send(event("STOP"), b'{"return": {"stat')
        link.server.hang_up()
        assert str(await link.end()) == "QEMU closed the connection, 17 bytes into a message"
        assert link.event_names == ["STOP"]


async def test_h15_a_qemu_that_hangs_up_instead_of_answering_quit_has_quit(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        quitting = asyncio.create_task(link.monitor.quit())
        other = link.ask("query-status")
        await link.server.request()
        await link.server.request()
        link.server.hang_up()
        await quitting
        with pytest.raises(HungUp):
            await other


async def test_h15_quit_is_no_success_when_it_was_this_side_that_ended_the_connection(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        quitting = asyncio.create_task(link.monitor.quit())
        await link.server.request()
        link.monitor.close()
        with pytest.raises(MonitorClosed, match="closed by this side"):
            await quitting
        with pytest.raises(MonitorClosed):
            await link.monitor.quit()


async def test_h15_quit_is_no_success_when_the_connection_had_ended_before(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        link.server.hang_up()
        await link.end()
        with pytest.raises(MonitorClosed, match="quit: QEMU closed the connection"):
            await link.monitor.quit()


async def test_h15_quit_that_is_not_answered_times_out(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        with pytest.raises(MonitorTimeout):
            await link.monitor.quit(timeout_s=0.02)


async def test_h20_closing_again_is_no_error_and_is_told_once_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = open_descriptors()
    async with linked(tmp_path) as link:
        assert open_descriptors() > before
        link.monitor.close()
        link.monitor.close()
        assert await link.server.client_is_gone()
        link.monitor.close()
        assert [str(end) for end in link.ends] == ["closed by this side"]
        assert not link.monitor.is_open
    assert open_descriptors() == before


async def test_h20_closing_while_commands_wait_fails_them(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks, _requests = await link.asked(3)
        link.monitor.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results] == [f"command-{n}: closed by this side" for n in range(3)]


# --- a message that is never finished ---------------------------------------------------------------------------------


def test_h23_a_message_that_is_not_finished_in_time_ends_the_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as link:
            waiting = asyncio.create_task(link.monitor.execute("query-status", timeout_s=1000.0))
            await link.server.request()
            await link.server.send(event("STOP"), b'{"return": {}, "id"')
            began = asyncio.get_running_loop().time()
            with pytest.raises(ProtocolViolation, match=r"a message not finished within 60 s"):
                await waiting
            assert asyncio.get_running_loop().time() - began == pytest.approx(UNFINISHED_TIMEOUT_S)
            assert link.event_names == ["STOP"]

    run_in_virtual_time(scenario())


def test_h23_bytes_that_drip_make_a_message_no_younger(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as link:
            for _ in range(59):
                await link.server.send(b" ")
                await asyncio.sleep(1.0)
            assert link.monitor.is_open
            await link.server.send(b" ")
            await asyncio.sleep(2.0)
            assert isinstance(link.ends[0], ProtocolViolation)

    run_in_virtual_time(scenario())


def test_h23_each_message_has_its_own_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as link:
            await link.server.send(b'{"event":')
            for _ in range(5):
                await asyncio.sleep(0.9 * UNFINISHED_TIMEOUT_S)
                # The end of one and the beginning of the next in one read: at no time is nothing unfinished.
                await link.server.send(b'"STOP"}\n{"event":')
            await link.server.send(b'"STOP"}\n')
            await asyncio.sleep(2 * UNFINISHED_TIMEOUT_S)
            assert link.event_names == ["STOP"] * 6
            assert link.monitor.is_open

    run_in_virtual_time(scenario())
