"""From a path to an open monitor."""

import asyncio
import os
import socket
from pathlib import Path

from virtplane_drivers.hypervisor.qemu.monitor.connection import CloseHandler, EventHandler, Monitor
from virtplane_drivers.hypervisor.qemu.monitor.errors import MonitorTimeout

_SUN_PATH_MAX_BYTES = 107
_RETRY_S = 0.02


async def connect(path: Path, *, on_event: EventHandler, on_close: CloseHandler, timeout_s: float = 5.0) -> Monitor:
    """An open monitor on a QMP unix socket. Leaves nothing open when it fails or is cancelled.

    `on_event` gets every event in wire order, the first ones before this returns, and must not wait. `on_close` is
    called once when a connection ends, also one that does not come as far as to be returned.

    Raises:
        MonitorTimeout: no connection or no greeting in time. QMP serves one client: another may hold the socket.
        MonitorClosed: the other side ended the connection.
        ProtocolViolation: it speaks no QMP.
        OSError: there is no such socket, or nobody listens on it.
    """
    connection: socket.socket | None = None
    monitor: Monitor | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await connected_socket(path)
            monitor = made = Monitor(connection, on_event, on_close)
            await asyncio.get_running_loop().create_unix_connection(lambda: made, sock=connection)
            await monitor.opened()
    except BaseException as error:
        if monitor is not None:
            monitor.close()
        if connection is not None:
            connection.close()
        if isinstance(error, TimeoutError):
            raise MonitorTimeout(f"{path}: {_missing(monitor, timeout_s)}") from error
        raise
    return monitor


def _missing(monitor: Monitor | None, timeout_s: float) -> str:
    if monitor is not None and monitor.greeting:
        return f"QEMU greeted, and answered nothing within {timeout_s:g} s"
    return f"no QMP greeting within {timeout_s:g} s; another client may be connected"


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
