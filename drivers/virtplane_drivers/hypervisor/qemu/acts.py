"""Acts on a guest that are no state of it, as commands of its monitor. Who calls sees to it that a guest is there."""

import contextlib
import os
from collections.abc import Iterator, Sequence

from virtplane_api.keys import KeyName
from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.qemu.keyboard import KEY_CODES
from virtplane_drivers.hypervisor.qemu.run import Run

_TIMEOUT_S = 10.0
_PNG = b"\x89PNG\r\n\x1a\n"


async def reset(run: Run) -> None:
    """QMP `system_reset`."""
    await run.command("system_reset", _TIMEOUT_S)


async def inject_nmi(run: Run) -> None:
    """QMP `inject-nmi`."""
    await run.command("inject-nmi", _TIMEOUT_S)


async def send_keys(run: Run, keys: Sequence[KeyName]) -> None:
    """QMP `send-key`: held for its default, 100 ms."""
    codes = [{"type": "qcode", "data": KEY_CODES[key]} for key in keys]
    await (await run.monitor()).execute("send-key", {"keys": codes}, timeout_s=_TIMEOUT_S)


async def screenshot(run: Run, max_bytes: int) -> bytes:
    """QMP `screendump` (format png: since QEMU 7.1) into a file of memory that QEMU is given.

    Raises:
        Refused: TooLarge.
        MonitorError: QEMU refused, or did not answer.
    """
    monitor = await run.monitor()
    with _empty_file() as (readable, writable):
        granted = await monitor.execute("add-fd", descriptor=writable, timeout_s=_TIMEOUT_S)
        number = int(granted["fdset-id"])
        try:
            dump = {"filename": f"/dev/fdset/{number}", "format": "png"}
            await monitor.execute("screendump", dump, timeout_s=_TIMEOUT_S)
        finally:
            await monitor.execute("remove-fd", {"fdset-id": number}, timeout_s=_TIMEOUT_S)
        # Never read blindly: whoever broke into QEMU may have written as much as its memory limit lets it.
        if os.fstat(readable).st_size > max_bytes:
            raise Refused(
                f"the screen takes more than {max_bytes >> 10} KiB as PNG: let the guest use a lower resolution",
                reason=Reason.TOO_LARGE,
            )
        image = os.pread(readable, max_bytes, 0)
    if not image.startswith(_PNG):
        raise Refused("QEMU drew no PNG file", reason=Reason.ACT_REFUSED)
    return image


@contextlib.contextmanager
def _empty_file() -> Iterator[tuple[int, int]]:
    """A file of memory, open for reading, and for writing only, as QEMU wants it in a set.

    Its pages are charged to who writes them: to the machine's own cgroup.
    """
    with contextlib.ExitStack() as stack:
        readable = os.memfd_create("screenshot", os.MFD_CLOEXEC)
        stack.callback(os.close, readable)
        writable = os.open(f"/proc/self/fd/{readable}", os.O_WRONLY | os.O_CLOEXEC)
        stack.callback(os.close, writable)
        yield readable, writable
