"""The monitor of one run, connected when it is needed, and again when the connection was lost."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from virtplane_drivers.hypervisor.qemu.monitor import Monitor, MonitorClosed, MonitorError, connect
from virtplane_drivers.hypervisor.qemu.monitor.wire import Message


class Link:
    """At most one connection: QMP serves one client at a time."""

    def __init__(self, path: Path, on_event: Callable[[Message], None], on_loss: Callable[[], None]) -> None:
        self._path = path
        self._on_event = on_event
        self._on_loss = on_loss
        self._monitor: Monitor | None = None
        self._connecting = asyncio.Lock()
        self._closed = asyncio.Event()

    @property
    def was_opened(self) -> bool:
        """Whether QEMU has ever answered."""
        return self._monitor is not None

    async def open(self, timeout_s: float) -> Monitor:
        """The monitor.

        Raises:
            MonitorError: no answer, or nobody listens.
        """
        async with self._connecting:
            if self._monitor is None or not self._monitor.is_open:
                self._closed.clear()
                try:
                    self._monitor = await connect(
                        self._path, on_event=self._on_event, on_close=self._lost, timeout_s=timeout_s
                    )
                except OSError as error:
                    raise MonitorError(f"its monitor cannot be reached: {error}") from error
            return self._monitor

    async def drain(self, timeout_s: float) -> None:
        """The last events may still be in the socket when the kernel tells of the death: read until its end."""
        if self._monitor is not None and self._monitor.is_open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._closed.wait()

    def close(self) -> None:
        """QEMU goes on."""
        if self._monitor is not None:
            self._monitor.close()

    def _lost(self, _end: MonitorClosed) -> None:
        self._closed.set()
        self._on_loss()
