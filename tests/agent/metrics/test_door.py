"""Clients that hold connections to the agent's HTTP server: by real sockets."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from virtplane_agent.metrics import server
from virtplane_agent.metrics.address import ListenAddress
from virtplane_agent.metrics.server import serving
from virtplane_agent.metrics.subject import Subject

ANY = ListenAddress("127.0.0.1", 0)
SOON_S = 0.2
LONG_S = 60.0
"""Longer than any test: what ends sooner was not ended by this limit."""
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: agent\r\n\r\n"


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def ask(self) -> int:
        """The status of an answer; the connection stays."""
        self.send(HEALTH)
        head = await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readexactly(len(b"ok\n"))
        return int(head.split()[1])

    async def is_closed(self) -> bool:
        """Waits for the server to end it; False when it sends something."""
        try:
            return await self._reader.read(1) == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def connected(address: ListenAddress) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def until_it_is_answered(address: ListenAddress) -> None:
    while True:
        async with connected(address) as client:
            try:
                assert await client.ask() == 200
            except (ConnectionError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.05)
            else:
                return


@pytest.mark.parametrize("sent", [b"", b"GET /metr", HEALTH[:-2]], ids=["nothing", "half a line", "half a header"])
async def test_a_client_that_sends_no_whole_request_is_closed_in_time(sent: bytes) -> None:
    async with asyncio.timeout(20), serving(ANY, Subject(), client_s=SOON_S) as [address], connected(address) as client:
        client.send(sent)
        assert await client.is_closed()


async def test_drops_of_a_request_win_no_time() -> None:
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(20), serving(ANY, Subject(), client_s=SOON_S) as [address], connected(address) as client:

        async def drip() -> None:
            client.send(HEALTH[:-2] + b"X: ")
            while True:
                client.send(b"x")
                await asyncio.sleep(SOON_S / 8)

        dripping = asyncio.create_task(drip())
        assert await client.is_closed()
        dripping.cancel()
    assert asyncio.get_running_loop().time() - began >= SOON_S


async def test_a_client_that_asks_again_in_time_keeps_its_connection_and_one_that_does_not_is_closed() -> None:
    async with asyncio.timeout(20), serving(ANY, Subject(), client_s=1.0) as [address], connected(address) as client:
        for _ in range(3):
            assert await client.ask() == 200
        assert await client.is_closed()


async def test_a_client_that_does_not_take_its_answer_is_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More than the buffers of both ends hold: else it would be gone from the agent at once."""
    monkeypatch.setattr(server, "text_of", lambda _taken: b"#" * (64 << 20))
    async with asyncio.timeout(20), serving(ANY, Subject(), client_s=SOON_S, most_connections=1) as [address]:
        with socket.create_connection(address) as deaf:
            deaf.sendall(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n")
            await asyncio.to_thread(deaf.recv, 1)
            # Its place, the only one, is free again.
            await until_it_is_answered(address)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_beyond_the_most_connections_are_closed_and_a_scrape_among_those_that_are_open_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "virtplane_agent.metrics")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(20))
        [address] = await stack.enter_async_context(serving(ANY, Subject(), client_s=LONG_S, most_connections=3))
        scraper = await stack.enter_async_context(connected(address))
        assert await scraper.ask() == 200
        others = [await stack.enter_async_context(connected(address)) for _ in range(40)]
        ends = [asyncio.create_task(other.is_closed()) for other in others]
        # Those that came first are let in.
        assert all(await asyncio.gather(*ends[2:]))
        assert [end.done() for end in ends[:2]] == [False, False]
        assert await scraper.ask() == 200
        for end in ends[:2]:
            end.cancel()
        await asyncio.gather(*ends[:2], return_exceptions=True)
        assert [await other.ask() for other in others[:2]] == [200, 200]
    assert [record.getMessage() for record in caplog.records] == ["metrics: connections are refused, 3 are open"]


async def test_connections_that_come_all_at_once_are_counted_one_by_one() -> None:
    """They wait in the kernel while the server is busy: asyncio accepts them all before it makes the first."""
    async with asyncio.timeout(20), serving(ANY, Subject(), client_s=LONG_S, most_connections=3) as [address]:
        sockets = [socket.create_connection(address) for _ in range(20)]  # nothing else runs meanwhile
        for one in sockets:
            one.settimeout(0)
        loop = asyncio.get_running_loop()
        ends = [asyncio.create_task(loop.sock_recv(one, 1)) for one in sockets]
        while sum(end.done() for end in ends) < 17:
            await asyncio.sleep(0.01)
        open_ = [one for one, end in zip(sockets, ends, strict=True) if not end.done()]
        assert len(open_) == 3
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        for one in sockets:
            one.close()


async def test_a_place_is_free_again_once_its_client_has_gone() -> None:
    async with asyncio.timeout(20), serving(ANY, Subject(), client_s=LONG_S, most_connections=1) as [address]:
        async with connected(address) as first:
            assert await first.ask() == 200
            async with connected(address) as second:
                assert await second.is_closed()
        await until_it_is_answered(address)
