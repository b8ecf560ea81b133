"""One run of a machine: its process and its monitor, and what can be asked of them. It writes no record."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.process import GuestProcess
from virtplane_drivers.hypervisor.qemu.argv import DISK_ID
from virtplane_drivers.hypervisor.qemu.link import Link
from virtplane_drivers.hypervisor.qemu.monitor import Monitor, MonitorError
from virtplane_drivers.hypervisor.qemu.monitor.wire import Message
from virtplane_drivers.hypervisor.qemu.screen import Screen

ANSWER_TIMEOUT_S = 4.0
"""After this a machine is shown as Unknown; nothing is done to it for that."""
QUIT_TIMEOUT_S = 3.0
DEATH_TIMEOUT_S = 5.0
_DRAIN_TIMEOUT_S = 1.0

_IO_STATES = {"nospace": "no space is left", "failed": "reads or writes fail"}
"""BlockDeviceIoStatus (QAPI block-core.json), in words."""


class Run:
    """A process that was started or adopted. `on_change` is called whenever QEMU or the kernel says something."""

    def __init__(self, process: GuestProcess, socket_path: Path, on_change: Callable[[], None]) -> None:
        self.process = process
        self.cause = ""
        """ShutdownCause of the first SHUTDOWN event since the guest was last reset: it was over then, whoever ended
        what was left of QEMU."""
        self.screen = Screen()
        self._on_change = on_change
        self._link = Link(socket_path, self._heard, on_change)

    @property
    def is_alive(self) -> bool:
        """Until the kernel says that the process ended."""
        return self.process.is_alive

    async def monitor(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Monitor:
        """The open monitor.

        Raises:
            MonitorError: no answer.
        """
        return await self._link.open(timeout_s)

    async def command(self, name: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """What QEMU returns for a command without arguments.

        Raises:
            MonitorError: it refused, or no answer.
        """
        return await (await self.monitor(timeout_s)).execute(name, timeout_s=timeout_s)

    async def state(self) -> str:
        """RunState (QAPI run-state.json).

        Raises:
            MonitorError: no answer.
        """
        answer = await self.command("query-status")
        # A guest that broke into its QEMU may answer anything, and must still be one that can be ended.
        if not isinstance(answer, dict) or not isinstance(answer.get("status"), str):
            raise MonitorError(f"query-status: no state in {str(answer)[:100]}")
        return str(answer["status"])

    async def io_error(self) -> str:
        """Which disks cannot be used, in words for people.

        Raises:
            MonitorError: no answer.
        """
        answer = await self.command("query-block")
        devices = [device for device in answer if isinstance(device, dict)] if isinstance(answer, list) else []
        troubles = [
            f"disk {_disk_name(str(device.get('qdev', '')))}: {_IO_STATES[str(device.get('io-status'))]}"
            for device in devices
            if str(device.get("io-status")) in _IO_STATES
        ]
        return "; ".join(troubles)[:1000] or "a disk cannot be used"

    async def end(self) -> None:
        """End the process: QEMU is asked first, as it may have writes to finish; then it is killed.

        Raises:
            Unavailable: it does not die.
        """
        with contextlib.suppress(MonitorError):
            await (await self.monitor(QUIT_TIMEOUT_S)).quit(timeout_s=QUIT_TIMEOUT_S)
        if await self.process.wait(QUIT_TIMEOUT_S if self._link.was_opened else 0.0):
            return
        self.process.kill()
        if not await self.process.wait(DEATH_TIMEOUT_S):
            message = f"QEMU (pid {self.process.identity.pid}) does not die: it waits for a device of the host"
            raise Unavailable(message, reason=Reason.PROCESS_STUCK, retry_after_s=10.0)

    async def drain(self) -> None:
        """Hear QEMU's last words."""
        await self._link.drain(_DRAIN_TIMEOUT_S)

    def let_go(self) -> None:
        """Stop watching; what runs, runs on."""
        self._link.close()
        self.process.let_go()
        self.screen.close()

    def _heard(self, message: Message) -> None:
        """In the reader: note, and leave the rest to the worker."""
        if message["event"] == "SHUTDOWN" and not self.cause:
            self.cause = str(message.get("data", {}).get("reason", ""))
        elif message["event"] == "RESET":
            self.cause = ""
        self._on_change()


def _disk_name(device_path: str) -> str:
    """Of `/machine/peripheral/disk-root/virtio-backend`: root."""
    part = next((part for part in device_path.split("/") if part.startswith(DISK_ID)), device_path)
    return part.removeprefix(DISK_ID)
