"""What a guest shows, as a PNG file that its QEMU draws into memory of ours.

One file per run, given to QEMU once and drawn into again and again. One for each picture would leave its descriptor
behind: QEMU before 9.1 closes one that was removed only while the guest runs, and no version gives a set up that a PNG
was drawn through (it closes its copy by fclose, which the set does not hear of).
"""

import contextlib
import os

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.qemu.monitor import CommandFailed, Monitor

_TIMEOUT_S = 10.0
_PNG = b"\x89PNG\r\n\x1a\n"
_SET = 1000
"""Number of the set of descriptors; above those of the command line."""


class Screen:
    """The file of one run. Asked for one picture at a time."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        """Open for writing only, as QEMU wants it in a set."""

    async def draw(self, monitor: Monitor, max_bytes: int) -> bytes:
        """QMP `screendump` (format png: since QEMU 7.1).

        Raises:
            Refused: TooLarge, or it is no PNG (ActRefused).
            MonitorError: QEMU refused, or did not answer.
        """
        try:
            descriptor = await self._give(monitor)
            # QEMU truncates the file and writes on from where it was: the place is one with ours.
            os.lseek(descriptor, 0, os.SEEK_SET)
            dump = {"filename": f"/dev/fdset/{_SET}", "format": "png"}
            await monitor.execute("screendump", dump, timeout_s=_TIMEOUT_S)
        except BaseException:
            # It may be drawn late, into the next picture; or QEMU has not got the file, or not any more.
            self.close()
            raise
        image = _content(descriptor, max_bytes)
        if not image.startswith(_PNG):
            raise Refused("QEMU drew no PNG file", reason=Reason.ACT_REFUSED)
        return image

    def close(self) -> None:
        """Another picture gets a file of its own."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    async def _give(self, monitor: Monitor) -> int:
        if self._descriptor is None:
            with contextlib.suppress(CommandFailed):  # mostly there is none: of an agent that is gone, or a failure
                await monitor.execute("remove-fd", {"fdset-id": _SET}, timeout_s=_TIMEOUT_S)
            self._descriptor = _empty_file()
            await monitor.execute("add-fd", {"fdset-id": _SET}, descriptor=self._descriptor, timeout_s=_TIMEOUT_S)
        return self._descriptor


def _empty_file() -> int:
    """Memory, charged to who writes it: to the machine's own cgroup.

    A seal that kept it from growing would refuse every picture, as QEMU first truncates the file.
    """
    readable = os.memfd_create("screen", os.MFD_CLOEXEC)
    try:
        return os.open(f"/proc/self/fd/{readable}", os.O_WRONLY | os.O_CLOEXEC)
    finally:
        os.close(readable)


def _content(descriptor: int, max_bytes: int) -> bytes:
    """What is in the file, which is empty then.

    Raises:
        Refused: TooLarge. Never read blindly: whoever broke into QEMU may have made it as long as a file can be.
    """
    readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(readable).st_size > max_bytes:
            raise Refused(
                f"the screen takes more than {max_bytes >> 10} KiB as PNG: let the guest use a lower resolution",
                reason=Reason.TOO_LARGE,
            )
        return os.pread(readable, max_bytes, 0)
    finally:
        os.close(readable)
        os.ftruncate(descriptor, 0)
