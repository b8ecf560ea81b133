"""Acts on a guest that are no state of it, as commands of its monitor. Who calls sees to it that a guest is there."""

from collections.abc import Sequence

from virtplane_api.keys import KeyName
from virtplane_drivers.hypervisor.qemu.keyboard import KEY_CODES
from virtplane_drivers.hypervisor.qemu.run import Run

_TIMEOUT_S = 10.0


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
    """See `Screen.draw`."""
    return await run.screen.draw(await run.monitor(), max_bytes)
