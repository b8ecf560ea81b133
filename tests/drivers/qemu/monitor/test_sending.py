"""The writing side: whole commands, in order, however slowly QEMU reads, and descriptors with their commands."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from tests.drivers.qemu.monitor.linked import Linked, linked, open_descriptors, until
from virtplane_drivers.hypervisor.qemu.monitor import MonitorTimeout
from virtplane_drivers.hypervisor.qemu.monitor.commands import IN_BAND_SLOTS
from virtplane_drivers.hypervisor.qemu.monitor.outbox import Outbox

MORE_THAN_A_SOCKET_TAKES = "x" * (1 << 20)


async def test_h9_a_server_that_reads_nothing_costs_each_command_its_own_deadline(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        for _ in range(3):
            with pytest.raises(MonitorTimeout):
                await link.monitor.execute("set", {"value": MORE_THAN_A_SOCKET_TAKES}, timeout_s=0.02)
        waiting = link.ask("query-status")
        for _ in range(3):  # whole, one after the other, though nobody waits for them any more
            request = await link.server.request()
            assert request["arguments"] == {"value": MORE_THAN_A_SOCKET_TAKES}
            await link.server.answer(request)
        await link.server.answer(await link.server.request(), "healed")
        assert await waiting == "healed"
        assert link.monitor.dropped_replies == 3


async def test_h10_a_command_cancelled_while_half_of_it_is_written_is_written_to_its_end(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        half = link.ask("set", value=MORE_THAN_A_SOCKET_TAKES)
        await asyncio.sleep(0)
        half.cancel()
        await asyncio.gather(half, return_exceptions=True)
        whole = link.ask("query-status")
        assert (await link.server.request())["arguments"] == {"value": MORE_THAN_A_SOCKET_TAKES}
        await link.server.answer(await link.server.request(), "whole")
        assert await whole == "whole"


# --- descriptors ------------------------------------------------------------------------------------------------------


def file_with(folder: Path, text: str) -> int:
    (folder / text).write_text(text)
    return os.open(folder / text, os.O_RDONLY)


def passed_texts(link: Linked) -> list[str]:
    return [os.pread(descriptor, 100, 0).decode() for descriptor in link.server.descriptors]


async def add_fd(link: Linked, descriptor: int) -> object:
    return await link.monitor.execute("add-fd", {"fdset-id": descriptor}, descriptor=descriptor)


async def test_a_descriptor_goes_with_its_command_and_may_be_closed_at_once(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        descriptor = file_with(tmp_path, "one")
        adding = asyncio.create_task(add_fd(link, descriptor))
        await asyncio.sleep(0)
        os.close(descriptor)
        request = await link.server.request()
        assert (request["execute"], passed_texts(link)) == ("add-fd", ["one"])
        await link.server.answer(request)
        await adding


async def test_a_descriptor_goes_with_its_own_bytes_behind_those_that_the_socket_did_not_take(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        descriptor = file_with(tmp_path, "one")
        before = link.ask("set", value=MORE_THAN_A_SOCKET_TAKES)
        await asyncio.sleep(0)
        adding = asyncio.create_task(add_fd(link, descriptor))
        await asyncio.sleep(0)
        after = link.ask("set", value="after")
        os.set_blocking(descriptor, True)
        os.close(descriptor)
        requests = [await link.server.request() for _ in range(3)]
        assert [r["execute"] for r in requests] == ["set", "add-fd", "set"]
        assert passed_texts(link) == ["one"]
        for request in requests:
            await link.server.answer(request)
        await asyncio.gather(before, adding, after)


async def test_the_number_of_a_waiting_descriptor_may_be_another_file_s_by_the_time_it_is_sent(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks, requests = await link.asked(IN_BAND_SLOTS)
        right = file_with(tmp_path, "right")
        adding = asyncio.create_task(add_fd(link, right))
        await asyncio.sleep(0)
        os.close(right)
        wrong = file_with(tmp_path, "wrong")
        assert wrong == right
        for request in requests:
            await link.server.answer(request)
        await link.server.answer(await link.server.request())
        await asyncio.gather(adding, *tasks)
        assert passed_texts(link) == ["right"]
        os.close(wrong)


async def test_only_one_descriptor_is_under_way_as_qemu_holds_no_more(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        descriptors = [file_with(tmp_path, str(number)) for number in range(5)]
        adding = [asyncio.create_task(add_fd(link, descriptor)) for descriptor in descriptors]
        for number, descriptor in enumerate(descriptors):
            request = await link.server.request()
            assert request["arguments"] == {"fdset-id": descriptor}
            assert passed_texts(link)[number:] == [str(number)]
            assert link.server.requests_so_far() == []
            await link.server.answer(request)
            os.close(descriptor)
        await asyncio.gather(*adding)


async def test_descriptors_of_commands_that_are_never_sent_are_closed(tmp_path: Path) -> None:
    async with linked(tmp_path) as link:
        tasks, _requests = await link.asked(IN_BAND_SLOTS)
        descriptor = file_with(tmp_path, "one")
        before = open_descriptors()
        cancelled = asyncio.create_task(add_fd(link, descriptor))
        left = asyncio.create_task(add_fd(link, descriptor))
        timed_out = link.monitor.execute("add-fd", {}, descriptor=descriptor, timeout_s=0.01)
        await asyncio.sleep(0)
        assert open_descriptors() == before + 2
        cancelled.cancel()
        await asyncio.gather(cancelled, timed_out, return_exceptions=True)
        await until(lambda: open_descriptors() == before + 1)  # a thread closes them
        link.monitor.close()
        await asyncio.gather(left, *tasks, return_exceptions=True)
        # The connection is closed as well, on its two numbers.
        await until(lambda: open_descriptors() == before - 2)
        os.close(descriptor)


async def test_a_descriptor_is_passed_once_when_its_command_takes_several_writes() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.setblocking(False)  # noqa: FBT003
        failures: list[OSError] = []
        outbox = Outbox(ours, failures.append)
        payload = MORE_THAN_A_SOCKET_TAKES.encode()
        outbox.send(payload, os.open("/dev/zero", os.O_RDONLY))
        received, descriptors, _flags, _address = socket.recv_fds(theirs, 1 << 20, 4)
        assert len(received) < len(payload)
        outbox.send(b"behind")  # there is room for it now, before the event loop has seen it
        while len(received) < len(payload) + 6:
            data, fds, _flags, _address = await asyncio.to_thread(socket.recv_fds, theirs, 1 << 20, 4)
            received += data
            descriptors += fds
        assert received == payload + b"behind"
        [descriptor] = descriptors
        assert os.read(descriptor, 4) == bytes(4)
        os.close(descriptor)
        assert failures == []
        outbox.close()


async def test_h9_what_a_dead_peer_did_not_take_is_forgotten_and_told_once() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        ours.setblocking(False)  # noqa: FBT003
        failures: list[OSError] = []
        outbox = Outbox(ours, failures.append)
        before = open_descriptors()
        outbox.send(MORE_THAN_A_SOCKET_TAKES.encode(), os.open("/dev/zero", os.O_RDONLY))
        outbox.send(b"behind", os.open("/dev/zero", os.O_RDONLY))
        theirs.close()
        await until(lambda: bool(failures))
        outbox.send(b"later", os.open("/dev/zero", os.O_RDONLY))
        assert [type(failure) for failure in failures] == [BrokenPipeError]
        await until(lambda: open_descriptors() == before - 1)
        outbox.close()
        outbox.close()
