"""From a path to an open monitor."""

import asyncio
import logging
import os
import socket
from pathlib import Path

from virtplane_drivers.hypervisor.qemu.monitor.connection import CloseHandler, EventHandler, Monitor
from virtplane_drivers.hypervisor.qemu.monitor.errors import (
    ConnectionSpoilt,
    HungUp,
    MonitorClosed,
    MonitorTimeout,
)

_SUN_PATH_MAX_BYTES = 107
_RETRY_S = 0.02

_log = logging.getLogger(__name__)


async def connect(path: Path, *, on_event: EventHandler, on_close: CloseHandler, timeout_s: float = 5.0) -> Monitor:
    """An open monitor on a QMP unix socket. Leaves nothing open when it fails or is cancelled.

    `on_event` gets every event in wire order, the first ones before this returns, and must not wait. `on_close` is
    called once when a connection ends, also one that does not come as far as to be returned. A connection that QEMU
    misreads from its beginning is given up without a word, and the next tried.

    Raises:
        MonitorTimeout: no connection or no greeting in time. QMP serves one client: another may hold the socket.
        MonitorClosed: the other side ended the connection.
        ProtocolViolation: it speaks no QMP.
        OSError: there is no such socket, or nobody listens on it.
    """
    connecting = _Connecting(path, on_event, on_close)
    try:
        async with asyncio.timeout(timeout_s):
            return await connecting.open()
    except BaseException as error:
        if connecting.end is not None:
            on_close(connecting.end)
        if isinstance(error, TimeoutError):
            missing = "QEMU greeted, and answered nothing" if connecting.was_greeted else "no QMP greeting"
            hint = "" if connecting.was_greeted else "; another client may be connected"
            raise MonitorTimeout(f"{path}: {missing} within {timeout_s:g} s{hint}") from error
        raise


class _Connecting:
    """The connections that one `connect` makes, one after the other, until one is good."""

    def __init__(self, path: Path, on_event: EventHandler, on_close: CloseHandler) -> None:
        self.was_greeted = False
        self.end: MonitorClosed | None = None
        """Of the last connection, if none was good."""
        self._path = path
        self._on_event = on_event
        self._on_close = on_close
        self._is_open = False

    async def open(self) -> Monitor:
        was_spoilt = False
        while True:
            try:
                return await self._open_once()
            except ConnectionSpoilt as spoilt:
                was_spoilt = True
                _log.info("%s: %s; connecting again", self._path, spoilt)
            except HungUp:
                # QEMU accepts and closes what comes before it has seen the end of the spoilt one.
                if not was_spoilt or self.was_greeted:
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _open_once(self) -> Monitor:
        self.was_greeted, self.end = False, None
        connection = await connected_socket(self._path)
        monitor = Monitor(connection, self._on_event, self._closed)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: monitor, sock=connection)
            await monitor.opened()
        except BaseException:
            self.was_greeted = bool(monitor.greeting)
            monitor.close()
            connection.close()
            raise
        self._is_open = True
        return monitor

    def _closed(self, end: MonitorClosed) -> None:
        if self._is_open:
            self._on_close(end)
        else:
            self.end = end


async def connected_socket(path: Path) -> socket.socket:
    """A connected, non-blocking unix socket. Waits, under the caller's deadline, while the backlog is full.

    The path may be longer than an address holds (unix(7): 107 bytes): it is reached through its folder's descriptor.

    Raises:
        OSError: there is no such socket, or nobody listens on it.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    folder = -1
    try:
        connection.setblocking(False)  # noqa: FBT003
        address = str(path)
        if len(os.fsencode(path)) > _SUN_PATH_MAX_BYTES:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            address = f"/proc/self/fd/{folder}/{path.name}"
        while True:
            try:
                connection.connect(address)
            except BlockingIOError:
                # Not under way but refused for now (connect(2), EAGAIN): asyncio's sock_connect would take it as done.
                await asyncio.sleep(_RETRY_S)
            else:
                return connection
    except BaseException:
        connection.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)
