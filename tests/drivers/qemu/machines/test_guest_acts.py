"""Acts that arrive in a real guest: keys that it reads, a screen that it draws, commands that its agent runs."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.cluster.guests.boot_sector import GREETING, BootSectorKind
from tests.cluster.guests.quickstart import MEMORY_MIB, UP_LINE, quickstart_image
from tests.drivers.hypervisor.hosts import QemuHost, machine
from tests.drivers.qemu.machines.starting import defined
from virtplane_api.keys import KeyName
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat, DisplayType, PowerState
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import GuestCommandLost, Refused, Unavailable
from virtplane_drivers.hypervisor.contract import Desired, Disk, GuestCommand, GuestCommandResult
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver
from virtplane_drivers.hypervisor.qemu.guest_agent.client import SYNC_TIMEOUT_S
from virtplane_drivers.hypervisor.qemu.keyboard import KEY_CODES


async def shows(driver: QemuDriver, uid: str, text: str) -> None:
    async with asyncio.timeout(120):
        while text not in (await driver.serial_log(uid, 1 << 20)).decode(errors="replace"):
            await asyncio.sleep(0.05)


async def started(driver: QemuDriver, desired: Desired) -> Desired:
    await driver.define(desired)
    await driver.start(desired.uid)
    return desired


# --- keys and the screen ----------------------------------------------------------------------------------------------


async def test_keys_arrive_in_the_guest_as_they_were_pressed(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, defined(host, BootSectorKind.ECHOES, ticks=1))
        await shows(driver, desired.uid, "tick 1")
        for keys in ([KeyName.KEY_V], [KeyName.KEY_LEFTSHIFT, KeyName.KEY_V], [KeyName.KEY_KPMINUS]):
            await driver.send_keys(desired.uid, keys)
            # Each alone: a keyboard that is given more while it speaks drops it.
            await shows(driver, desired.uid, "tick 1\r\n" + {1: "v", 2: "vV"}.get(len(keys), ""))
        await shows(driver, desired.uid, "vV-")


async def test_every_key_that_can_be_asked_for_is_one_of_qemu(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, defined(host, BootSectorKind.OBEDIENT))
        assert set(KEY_CODES) == set(KeyName)
        for key in KeyName:
            await driver.send_keys(desired.uid, [key])


async def test_the_screen_of_a_guest_that_has_booted_is_another_than_before(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = replace(defined(host, BootSectorKind.OBEDIENT), display=DisplayType.VGA)
        await started(driver, desired)
        first = await driver.screenshot(desired.uid, 1 << 20)
        async with asyncio.timeout(20):
            while await driver.screenshot(desired.uid, 1 << 20) == first:
                await asyncio.sleep(0.05)


async def test_a_display_that_is_asked_for_later_is_there_after_the_next_start(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, defined(host, BootSectorKind.OBEDIENT))
        await driver.define(replace(desired, display=DisplayType.VGA))
        with pytest.raises(Refused):
            await driver.screenshot(desired.uid, 1 << 20)
        await driver.power_off(desired.uid)
        await driver.start(desired.uid)
        assert await driver.screenshot(desired.uid, 1 << 20)


async def test_a_guest_with_a_display_is_suspended_and_wakes(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = replace(defined(host, BootSectorKind.OBEDIENT), display=DisplayType.VGA)
        await started(driver, desired)
        await shows(driver, desired.uid, "tick 1")
        async with asyncio.timeout(30):
            while (await driver.observe(desired.uid)).power is not PowerState.SUSPENDED:
                await driver.suspend(desired.uid)
                await asyncio.sleep(0.05)
        for act in (driver.reset, driver.inject_nmi):
            with pytest.raises(Refused):
                await act(desired.uid)
        await driver.start(desired.uid)
        ticks = (await driver.serial_log(desired.uid, 1 << 20)).count(b"tick ")
        await shows(driver, desired.uid, f"tick {ticks + 1}")
        assert (await driver.serial_log(desired.uid, 1 << 20)).count(GREETING.encode()) == 1
        assert await driver.screenshot(desired.uid, 1 << 20)


# --- commands in a guest that has an agent ----------------------------------------------------------------------------


HOLDS_ITS_PARENT = f"kill -STOP $PPID; sleep {SYNC_TIMEOUT_S + 1:g}; kill -CONT $PPID; echo held"


@pytest.fixture
async def linux(host: QemuHost) -> AsyncIterator[tuple[QemuDriver, str]]:
    """The quickstart guest, up and with its agent."""
    disk = host.folder / "pool" / "linux.qcow2"
    disk.parent.mkdir(exist_ok=True)
    shutil.copyfile(await asyncio.to_thread(quickstart_image), disk)
    async with host.open() as driver:
        desired = replace(
            machine(host), memory_mib=MEMORY_MIB, disks=(Disk("root", FileAttachment(disk, DiskFormat.QCOW2)),)
        )
        await started(driver, desired)
        await shows(driver, desired.uid, UP_LINE)
        async with asyncio.timeout(120):
            while not await has_agent(driver, desired.uid):
                pass
        yield driver, desired.uid


async def has_agent(driver: QemuDriver, uid: str) -> bool:
    """Whether it answers within the client's own time."""
    try:
        await driver.run_guest_command(uid, command("true"))
    except Unavailable as silent:
        return silent.reason != Reason.GUEST_AGENT_SILENT
    return True


def command(*argv: str, timeout_s: float = 20.0, stdin: bytes = b"") -> GuestCommand:
    return GuestCommand(argv, timeout_s=timeout_s, max_output_bytes=1000, stdin=stdin)


async def test_commands_run_in_a_real_guest(linux: tuple[QemuDriver, str]) -> None:
    """One guest for all: it takes seconds to boot."""
    driver, uid = linux

    async def run(*argv: str, timeout_s: float = 20.0, stdin: bytes = b"") -> GuestCommandResult:
        return await driver.run_guest_command(uid, command(*argv, timeout_s=timeout_s, stdin=stdin))

    said = await run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert said == GuestCommandResult(exit_code=3, signal=None, stdout=b"out\n", stderr=b"err\n")
    assert (await run("cat", stdin=b"fed \xff\0")).stdout == b"fed \xff\0"
    # No shell is between: words stay words.
    assert (await run("echo", "a b", "$HOME", "*")).stdout == b"a b $HOME *\n"
    killed = await run("sh", "-c", "kill -9 $$")
    assert (killed.exit_code, killed.signal) == (None, 9)
    long = await run("sh", "-c", "i=0; while [ $i -lt 1000 ]; do echo 0123456789; i=$((i+1)); done")
    assert (long.stdout, long.is_truncated) == ((b"0123456789\n" * 1000)[:1000], True)
    # More than a reply of the agent may be as a whole.
    huge = await run("dd", "if=/dev/zero", "bs=1024", "count=1500")
    assert (huge.exit_code, huge.stdout, huge.is_truncated) == (0, bytes(1000), True)
    with pytest.raises(Refused, match="no-such-program") as refused:
        await run("no-such-program")
    assert refused.value.reason == Reason.GUEST_AGENT_REFUSED
    with pytest.raises(GuestCommandLost, match="runs on in the guest"):
        await run("sleep", "30", timeout_s=0.5)
    # Two at a time wait for one another, and both are answered.
    both = await asyncio.gather(run("echo", "one"), run("echo", "two"))
    assert [result.stdout for result in both] == [b"one\n", b"two\n"]


async def test_a_guest_without_an_agent_is_told_of_and_nothing_waits_for_it(host: QemuHost) -> None:
    async with host.open() as driver:
        desired = await started(driver, defined(host, BootSectorKind.OBEDIENT))
        asking = asyncio.create_task(driver.run_guest_command(desired.uid, command("true")))
        paused = asyncio.create_task(driver.pause(desired.uid))
        done, _ = await asyncio.wait({asking, paused}, return_when=asyncio.FIRST_COMPLETED)
        assert done == {paused}
        with pytest.raises(Unavailable, match="Install and start qemu-guest-agent") as silent:
            await asking
        assert silent.value.reason == Reason.GUEST_AGENT_SILENT


async def test_an_agent_that_is_held_is_waited_for_and_one_that_is_gone_is_told_of(
    linux: tuple[QemuDriver, str],
) -> None:
    driver, uid = linux
    # A command's parent is the agent. It is held for longer than a question to it may take.
    held = await driver.run_guest_command(uid, command("sh", "-c", HOLDS_ITS_PARENT, timeout_s=60.0))
    assert (held.exit_code, held.stdout) == (0, b"held\n")
    with pytest.raises(GuestCommandLost):
        await driver.run_guest_command(uid, command("sh", "-c", "kill -9 $PPID", timeout_s=1.0))
    with pytest.raises(Unavailable, match="Install and start qemu-guest-agent") as silent:
        await driver.run_guest_command(uid, command("true"))
    assert silent.value.reason == Reason.GUEST_AGENT_SILENT


async def test_a_machine_that_is_powered_off_takes_its_commands_along(linux: tuple[QemuDriver, str]) -> None:
    driver, uid = linux
    running = command("sh", "-c", "echo it runs >/dev/console; sleep 600", timeout_s=600.0)
    asking = asyncio.create_task(driver.run_guest_command(uid, running))
    await shows(driver, uid, "it runs")
    await driver.power_off(uid)
    with pytest.raises(GuestCommandLost, match="pid"):
        await asking
