"""The boot-sector guests on a real QEMU: what they print, and how they end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.cluster.guests.boot_sector import GREETING, POWER_BUTTON_PRESSED, BootSectorKind, boot_sector_image
from tests.cluster.guests.monitors import opened
from virtplane_drivers.hypervisor.qemu.monitor import Monitor


class Guest:
    """A running QEMU, its monitor, and what came of both."""

    def __init__(self, console: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self.monitor: Monitor
        self._console = console

    def printed(self) -> str:
        return self._console.read_text() if self._console.exists() else ""

    def events_named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    async def shows(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def booted(tmp_path: Path, kind: BootSectorKind, ticks: int = 1) -> AsyncIterator[Guest]:
    """The guest behind a root port of q35, as the driver attaches disks; ended by kill."""
    image = boot_sector_image(kind, tmp_path / "disk.raw", ticks)
    console, qmp = tmp_path / "console", tmp_path / "qmp"
    argv = ["-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg,tb-size=32", "-m", "16"]
    argv += ["-serial", f"file:{console}", "-qmp", f"unix:{qmp},server=on,wait=off", "-action", "shutdown=pause"]
    argv += ["-blockdev", f"driver=raw,node-name=disk,file.driver=file,file.filename={image}"]
    argv += ["-device", "pcie-root-port,id=slot1,chassis=1", "-device", "virtio-blk-pci,drive=disk,bus=slot1"]
    qemu = await asyncio.create_subprocess_exec("qemu-system-x86_64", *argv)
    try:
        guest = Guest(console)
        guest.monitor = await opened(qmp, guest.events.append)
        yield guest
        guest.monitor.close()
    finally:
        qemu.kill()
        await qemu.wait()


async def test_a_guest_greets_and_ticks(tmp_path: Path) -> None:
    async with booted(tmp_path, BootSectorKind.DEAF) as guest:
        await guest.shows(lambda: "tick 2" in guest.printed())
        assert GREETING in guest.printed()


async def test_the_deaf_guest_does_not_hear_the_power_button(tmp_path: Path) -> None:
    async with booted(tmp_path, BootSectorKind.DEAF) as guest:
        await guest.shows(lambda: "tick 1" in guest.printed())
        await guest.monitor.execute("system_powerdown")
        await guest.shows(lambda: "tick 3" in guest.printed())
        assert not guest.events_named("SHUTDOWN")


async def test_the_obedient_guest_powers_itself_off_when_asked(tmp_path: Path) -> None:
    async with booted(tmp_path, BootSectorKind.OBEDIENT) as guest:
        await guest.shows(lambda: GREETING in guest.printed())
        await guest.monitor.execute("system_powerdown")
        await guest.shows(lambda: guest.events_named("SHUTDOWN"))
        assert guest.events_named("SHUTDOWN")[0]["data"] == {"guest": True, "reason": "guest-shutdown"}
        assert POWER_BUTTON_PRESSED in guest.printed()
        assert (await guest.monitor.execute("query-status"))["status"] == "shutdown"


async def test_a_guest_that_powers_itself_off_needs_no_asking(tmp_path: Path) -> None:
    async with booted(tmp_path, BootSectorKind.POWERS_OFF, ticks=1) as guest:
        await guest.shows(lambda: guest.events_named("SHUTDOWN"))
        assert not guest.events_named("POWERDOWN")


async def test_a_guest_that_crashes_resets_and_boots_again(tmp_path: Path) -> None:
    async with booted(tmp_path, BootSectorKind.CRASHES, ticks=1) as guest:
        await guest.shows(lambda: guest.events_named("RESET"))
        assert guest.events_named("RESET")[0]["data"] == {"guest": True, "reason": "guest-reset"}
        await guest.shows(lambda: guest.printed().count(GREETING) == 2)
