"""Who gets a connection to the agent's HTTP server, and for how long.

aiohttp ends a connection that sends no whole request in time (its `keepalive_timeout` runs from the first moment on),
but takes any number of them, and waits for ever for somebody who does not read the answer.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from aiohttp import web

_log = logging.getLogger(__name__)

_SAY_AGAIN_AFTER_S = 60.0


class Door:
    """Each connection is the server's, or closed at once while `most` are open."""

    def __init__(self, server: web.Server, *, most: int, taken_within_s: float) -> None:
        self._server = server
        self._most = most
        self._taken_within_s = taken_within_s
        self._said = float("-inf")

    def knock(self) -> asyncio.BaseProtocol:
        """A protocol factory. It decides nothing: asyncio asks it for all that it accepts together, then makes them."""
        return _AtTheDoor(self._let_in)

    def _let_in(self, transport: asyncio.Transport) -> None:
        # Also those count whose client is gone and whose scrape is still at work.
        if len(self._server.connections) >= self._most:
            transport.abort()
            self._say()
            return
        connection: socket.socket = transport.get_extra_info("socket")
        # The kernel's limit holds for the end of an answer too, which aiohttp has handed over already.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self._taken_within_s * 1000))
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)

    def _say(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._said >= _SAY_AGAIN_AFTER_S:
            self._said = now
            _log.warning("metrics: connections are refused, %d are open", self._most)


class _AtTheDoor(asyncio.Protocol):
    def __init__(self, let_in: Callable[[asyncio.Transport], None]) -> None:
        self._let_in = let_in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._let_in(cast("asyncio.Transport", transport))
