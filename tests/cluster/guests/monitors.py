"""The monitor of a QEMU that was started just now."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virtplane_drivers.hypervisor.qemu.monitor import Monitor, connect


async def opened(qmp: Path, on_event: Callable[[dict[str, Any]], None], timeout_s: float = 60.0) -> Monitor:
    """Connected once QEMU listens: it makes the socket a moment before."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await connect(qmp, on_event=on_event, on_close=lambda _end: None)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.02)
