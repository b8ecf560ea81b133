"""The quickstart guest on a real QEMU: what it prints, that it hears the power button, and what its disk remembers."""

import asyncio
import lzma
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.guests import debian_packages, quickstart
from tests.cluster.guests.debian_packages import Package
from tests.cluster.guests.initramfs import ModuleError, modules_in_load_order
from tests.cluster.guests.monitors import opened
from tests.cluster.guests.quickstart import (
    BOOT_NUMBER_PREFIX,
    MEMORY_MIB,
    POWERING_OFF_LINE,
    UP_LINE,
    UPTIME_PREFIX,
    VIRTUAL_SIZE_BYTES,
    ImageError,
    quickstart_image,
)
from virtplane_drivers.hypervisor.qemu.monitor import Monitor


class Guest:
    """A running QEMU, its monitor, and what came of both."""

    def __init__(self, console: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self.monitor: Monitor
        self.process: asyncio.subprocess.Process
        self._console = console

    def lines(self) -> list[str]:
        return self._console.read_text(errors="replace").splitlines() if self._console.exists() else []

    def numbers(self, prefix: str) -> list[int]:
        """What follows the prefix, in the order printed. The last line is left out: it may be half printed."""
        return [int(line.removeprefix(prefix)) for line in self.lines()[:-1] if line.startswith(prefix)]

    async def shows(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(60):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail("not shown in 60 s; the console so far:\n" + "\n".join(self.lines()))

    async def press_the_power_button(self) -> None:
        await self.monitor.execute("system_powerdown")


@pytest.fixture(scope="module")
def image() -> Path:
    return quickstart_image(print)


@pytest.fixture
def disk(image: Path, tmp_path: Path) -> Path:
    """An overlay, as every VM gets its own."""
    overlay = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay], check=True)
    return overlay


@asynccontextmanager
async def booted(disk: Path, memory_mib: int = 128) -> AsyncIterator[Guest]:
    """The guest behind a root port of q35, as the driver attaches disks; ended by kill where it has not ended."""
    console, qmp = disk.with_name("console"), disk.with_name("qmp")
    console.unlink(missing_ok=True)
    argv = ["-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg,tb-size=32", "-m", str(memory_mib)]
    argv += ["-serial", f"file:{console}", "-qmp", f"unix:{qmp},server=on,wait=off"]
    argv += ["-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={disk}"]
    argv += ["-device", "pcie-root-port,id=slot1,chassis=1", "-device", "virtio-blk-pci,drive=disk,bus=slot1"]
    guest = Guest(console)
    guest.process = await asyncio.create_subprocess_exec("qemu-system-x86_64", *argv)
    try:
        guest.monitor = await opened(qmp, guest.events.append)
        yield guest
        guest.monitor.close()
    finally:
        if guest.process.returncode is None:
            guest.process.kill()
        await guest.process.wait()


async def test_the_guest_comes_up_and_its_uptime_goes_on(disk: Path) -> None:
    async with booted(disk) as guest:
        await guest.shows(lambda: len(guest.numbers(UPTIME_PREFIX)) >= 3)
        uptimes = guest.numbers(UPTIME_PREFIX)
        assert uptimes == sorted(set(uptimes))
        assert guest.lines().count(UP_LINE) == 1
        assert guest.lines().index(UP_LINE) < guest.lines().index(f"{UPTIME_PREFIX}{uptimes[0]}")


async def test_a_reset_starts_the_uptime_anew_and_counts_a_boot(disk: Path) -> None:
    async with booted(disk) as guest:
        await guest.shows(lambda: guest.numbers(UPTIME_PREFIX))
        reset_at = time.monotonic()
        await guest.monitor.execute("system_reset")
        await guest.shows(lambda: guest.lines().count(UP_LINE) == 2)
        assert guest.numbers(BOOT_NUMBER_PREFIX) == [1, 2]
        before = len(guest.numbers(UPTIME_PREFIX))
        await guest.shows(lambda: len(guest.numbers(UPTIME_PREFIX)) > before)
        assert guest.numbers(UPTIME_PREFIX)[before] <= time.monotonic() - reset_at + 1


async def test_the_power_button_powers_it_off_and_its_disk_remembers_the_boots(disk: Path) -> None:
    for boot in (1, 2):
        async with booted(disk) as guest:
            await guest.shows(lambda: UP_LINE in guest.lines())
            assert guest.numbers(BOOT_NUMBER_PREFIX) == [boot]
            await guest.press_the_power_button()
            async with asyncio.timeout(20):
                assert await guest.process.wait() == 0
            assert guest.lines().count(POWERING_OFF_LINE) == 1
            (shutdown,) = (event for event in guest.events if event["event"] == "SHUTDOWN")
            assert shutdown["data"] == {"guest": True, "reason": "guest-shutdown"}


async def test_the_memory_it_asks_for_is_enough(disk: Path) -> None:
    async with booted(disk, MEMORY_MIB) as guest:
        await guest.shows(lambda: guest.numbers(UPTIME_PREFIX))
        assert re.search("out of memory", "\n".join(guest.lines()), re.IGNORECASE) is None


def test_a_built_image_is_found_and_not_built_again(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "_build", None)
    assert quickstart_image() == image


def test_the_image_has_the_size_it_is_said_to_have_and_nobody_may_write_to_it(image: Path) -> None:
    info = subprocess.run(["qemu-img", "info", "--output=json", image], check=True, capture_output=True, text=True)
    assert f'"virtual-size": {VIRTUAL_SIZE_BYTES},' in info.stdout
    assert image.stat().st_mode & 0o222 == 0


def test_without_package_lists_a_user_who_is_not_root_is_told_the_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(f'Dir::State::lists "{tmp_path}/lists"; Dir::State::status "/dev/null";')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ImageError, match="sudo apt-get update"):
        quickstart_image()


DEBIAN = Package("linux-image-cloud-amd64", "6.1.192-2", ("linux-image-6.1.0-56-cloud-amd64",))
UBUNTU = Package("linux-image-virtual", "6.8.0-60.63", ("linux-image-6.8.0-60-generic",))
KERNELS_KNOWN = {
    "linux-image-6.1.0-56-cloud-amd64": ("kmod", "linux-base", "initramfs-tools"),
    "linux-image-6.8.0-60-generic": ("kmod", "linux-base", "linux-modules-6.8.0-60-generic"),
    "linux-modules-6.8.0-60-generic": (),
}


@pytest.mark.parametrize(
    ("newest", "unpacked"),
    [
        (DEBIAN, ["linux-image-6.1.0-56-cloud-amd64"]),
        (UBUNTU, ["linux-image-6.8.0-60-generic", "linux-modules-6.8.0-60-generic"]),
    ],
    ids=["debian", "ubuntu"],
)
def test_the_newest_kernel_is_unpacked_with_the_package_of_its_modules(
    newest: Package, unpacked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        debian_packages, "candidates", lambda names: {n: Package(n, newest.version, KERNELS_KNOWN[n]) for n in names}
    )
    busybox = Package("busybox-static", "1:1.35.0-4", ())
    packages = quickstart._packages([newest, busybox])
    assert [package.name for package in packages] == [*unpacked, busybox.name]


def test_modules_load_behind_what_they_depend_on_and_built_in_ones_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio-ring.ko\n")
    module = {
        name: f"ELF\0depends={depends}\0name={name}\0".encode()
        for name, depends in {"virtio_blk": "virtio,virtio_ring", "virtio": "", "evdev": ""}.items()
    }
    (tmp_path / "virtio_blk.ko").write_bytes(module["virtio_blk"])
    (tmp_path / "virtio.ko.xz").write_bytes(lzma.compress(module["virtio"]))
    (tmp_path / "evdev.ko").write_bytes(module["evdev"])
    order = modules_in_load_order(tmp_path, ["virtio_blk", "virtio_ring"])
    assert list(order.items()) == [("virtio", module["virtio"]), ("virtio_blk", module["virtio_blk"])]
    with pytest.raises(ModuleError, match="no module button"):
        modules_in_load_order(tmp_path, ["button"])
