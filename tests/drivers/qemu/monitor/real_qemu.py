"""Real QEMU processes without a machine in them: monitors and nothing else, up in 50 ms."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.unix_sockets import address_of
from virtplane_drivers.hypervisor.qemu.monitor import Monitor, MonitorClosed, MonitorTimeout, connect

START_TIMEOUT_S = 30.0
_WAITING = 2
"""The threads of a QEMU at rest that wait in poll(2)."""


class RealQemu:
    """A running process and the paths of its monitors."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.events: list[dict[str, Any]] = []
        """Of all monitors that were connected here."""
        self.ends: list[MonitorClosed] = []
        self._folder = folder
        self._process = process
        self._monitors: list[Monitor] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def event_names(self) -> list[str]:
        return [event["event"] for event in self.events]

    async def started(self) -> None:
        """Its main thread and that of its monitors wait for somebody to speak.

        To a QEMU without a machine that is still on its way there, 1 first client in 5,000 is one too early: both
        threads take it, tear its commands to pieces, and QEMU may die of it.
        """
        async with asyncio.timeout(START_TIMEOUT_S):
            while self._process.returncode is None and sum("poll" in place for place in self._waits()) < _WAITING:
                await asyncio.sleep(0.002)

    async def connect(self, number: int = 0) -> Monitor:
        monitor = await connect(
            self.paths[number], on_event=self.events.append, on_close=self.ends.append, timeout_s=START_TIMEOUT_S
        )
        self._monitors.append(monitor)
        return monitor

    def file_of(self, descriptor: int) -> str:
        """What a descriptor of the process stands for."""
        return str(Path(f"/proc/{self.pid}/fd/{descriptor}").readlink())

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        async with asyncio.timeout(START_TIMEOUT_S):
            return await self._process.wait()

    def check_stuck_in_its_end(self, results: Sequence[object]) -> None:
        """QEMU 7.2 hangs in its end 1 time in 1,000, if it is asked something meanwhile: no answer, and no death."""
        assert all(result is None or isinstance(result, MonitorTimeout) for result in results), results
        assert self._process.returncode is None
        assert self.event_names == ["SHUTDOWN"]

    async def end(self) -> None:
        for monitor in self._monitors:
            monitor.close()
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @asynccontextmanager
    async def stuck(self, monitor: Monitor) -> AsyncIterator[asyncio.Task[Any]]:
        """QEMU's main loop hangs for the length of the block: it opens a pipe to write to, which nobody reads.

        Yields the command that it hangs in.
        """
        pipe = self._folder / f"pipe-{os.urandom(3).hex()}"
        os.mkfifo(pipe)
        arguments = {"val": 0, "size": 1, "filename": str(pipe)}
        command = asyncio.create_task(monitor.execute("pmemsave", arguments, timeout_s=START_TIMEOUT_S))
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not self._waits_for_a_reader():
                    await asyncio.sleep(0.002)
            yield command
        finally:
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            await asyncio.gather(command, return_exceptions=True)
            os.close(reader)

    def _waits_for_a_reader(self) -> bool:
        """Whether the main thread is in open()."""
        return Path(f"/proc/{self.pid}/wchan").read_text() in ("wait_for_partner", "fifo_open")

    def _waits(self) -> list[str]:
        """Where each thread waits, as the kernel names the place."""
        places = []
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread, or all of it, has ended
            places = [(thread / "wchan").read_text() for thread in Path(f"/proc/{self.pid}/task").iterdir()]
        return places


@asynccontextmanager
async def real_qemu(folder: Path, monitors: int = 1) -> AsyncIterator[RealQemu]:
    """A process that is ended with the block."""
    argv = ["-nodefaults", "-no-user-config", "-display", "none", "-machine", "none"]
    listeners, paths = [], []
    for number in range(monitors):
        paths.append(folder / f"qmp-{os.urandom(3).hex()}")
        listeners.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # Else QEMU, which looks at it from two threads while it starts, may wait in accept() for a second client.
        listeners[-1].setblocking(False)  # noqa: FBT003
        with address_of(paths[-1]) as address:
            listeners[-1].bind(address)
        listeners[-1].listen(1)
        argv += ["-chardev", f"socket,id=m{number},fd={listeners[-1].fileno()},server=on,wait=off"]
        argv += ["-mon", f"chardev=m{number},mode=control"]
    try:
        process = await asyncio.create_subprocess_exec(
            "qemu-system-x86_64", *argv, pass_fds=[listener.fileno() for listener in listeners]
        )
    finally:
        for listener in listeners:
            listener.close()
    qemu = RealQemu(folder, process, paths)
    try:
        await qemu.started()
        yield qemu
    finally:
        await qemu.end()
