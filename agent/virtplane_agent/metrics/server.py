"""The agent's HTTP server: /metrics, /healthz and /readyz, in its own event loop."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from virtplane_agent.metrics import snapshot
from virtplane_agent.metrics.address import AddressUnusable, ListenAddress
from virtplane_agent.metrics.door import Door
from virtplane_agent.metrics.families import CONTENT_TYPE, text_of
from virtplane_agent.metrics.subject import Subject
from virtplane_drivers.host.blocking import in_thread

_log = logging.getLogger(__name__)


def _is_fault_of_ours(record: logging.LogRecord) -> bool:
    """A request that is none was answered with 400: a traceback for each would let whoever gets there fill the log."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_server_log = logging.getLogger(f"{__name__}.aiohttp")
_server_log.addFilter(_is_fault_of_ours)

GOODBYE_S = 1.0
"""What a scrape that is under way is given when the agent ends."""
CLIENT_S = 10.0
"""What a client is given to send a request, from when it connected or had its last answer, and to go on taking one:
as long as Prometheus waits by default."""
MOST_CONNECTIONS = 32
"""Two Prometheus and some people need a few; each may have an answer in memory, 0.9 MB of 1,000 interfaces."""


@asynccontextmanager
async def serving(
    address: ListenAddress, subject: Subject, *, client_s: float = CLIENT_S, most_connections: int = MOST_CONNECTIONS
) -> AsyncIterator[list[ListenAddress]]:
    """Answers until the block ends; yields the addresses that it listens at, of port 0 the one that was chosen.

    Raises:
        AddressUnusable: it cannot be listened at.
    """
    pages = _Pages(subject)
    application = web.Application()
    application.add_routes(
        [web.get("/metrics", pages.metrics), web.get("/healthz", pages.healthz), web.get("/readyz", pages.readyz)]
    )
    runner = web.AppRunner(
        application, access_log=None, logger=_server_log, shutdown_timeout=GOODBYE_S, keepalive_timeout=client_s
    )
    await runner.setup()
    try:
        server = cast("web.Server", runner.server)  # there since setup
        door = Door(server, most=most_connections, taken_within_s=client_s)
        async with _listening(address, door) as bound:
            for one in bound:
                _log.info("metrics at http://%s/metrics", one)
            yield bound
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _listening(address: ListenAddress, door: Door) -> AsyncIterator[list[ListenAddress]]:
    try:
        listener = await asyncio.get_running_loop().create_server(door.knock, address.host, address.port)
    except OSError as error:
        raise AddressUnusable(f"cannot listen at {address}: {error.strerror or error}") from error
    except UnicodeError as error:  # of a name that DNS could not carry
        raise AddressUnusable(f"cannot listen at {address}: {error}") from error
    try:
        yield [ListenAddress(*one.getsockname()[:2]) for one in listener.sockets]
    finally:
        listener.close()


class _Pages:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        # However many ask, one thread is at work for them.
        self._turn = asyncio.Lock()

    async def metrics(self, _request: web.Request) -> web.Response:
        async with self._turn:
            taken = await snapshot.take(self._subject)
            body = await in_thread(text_of, taken)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        hindrances = self._subject.hindrances()
        if not hindrances:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="".join(f"{hindrance}\n" for hindrance in hindrances))
