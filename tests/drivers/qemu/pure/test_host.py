"""What is found out about this host's own QEMU."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from virtplane_drivers.attachment import NicAttachment, StreamAttachment, TapAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hypervisor.qemu import host
from virtplane_drivers.hypervisor.qemu.argv import QEMU

OLD_QEMU = """#!/bin/sh
case "$1" in
-version) echo 'QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg-11)' ;;
-machine) printf '%s\\n' 'q35   Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-5.2)' 'pc-q35-5.2  Standard PC' ;;
*) exit 1 ;;
esac
"""


async def output_of(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(QEMU, *argv, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


async def test_the_real_qemu_says_its_version_and_its_newest_machine_type() -> None:
    looked = await host.look("tcg")
    assert f"version {looked.version}" in await output_of("-version")
    assert re.search(rf"^{re.escape(looked.newest_machine_type)} ", await output_of("-machine", "help"), re.MULTILINE)
    assert re.fullmatch(r"pc-q35-\d+\.\d+", looked.newest_machine_type)
    assert looked.accelerator == "tcg"
    assert "told to use emulation" in looked.no_acceleration_because


async def test_acceleration_is_used_where_a_guest_runs_under_it_and_else_it_is_said_why_not() -> None:
    looked = await host.look("auto")
    assert looked.accelerator == ("tcg" if looked.no_acceleration_because else "kvm")
    if looked.no_acceleration_because:
        assert "/dev/kvm" in looked.no_acceleration_because
        with pytest.raises(Unavailable) as unavailable:
            await host.look("kvm")
        assert unavailable.value.reason == "NoHardwareAcceleration"


async def test_a_host_without_qemu_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="apt-get install qemu-system-x86") as unavailable:
        await host.look("tcg")
    assert unavailable.value.reason == "NoQemu"


def a_qemu(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a QEMU that is not installed here."""
    (folder / QEMU).write_text(script)
    (folder / QEMU).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


async def test_an_older_qemu_is_read_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_qemu(tmp_path, OLD_QEMU, monkeypatch)
    looked = await host.look("tcg")
    assert (looked.version, looked.newest_machine_type) == ("5.2.0", "pc-q35-5.2")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\necho broken library; exit 127\n", "broken library"),
        ("#!/bin/sh\necho something else\n", "says nothing like"),
    ],
    ids=["it does not run", "it is something else"],
)
async def test_a_qemu_that_cannot_be_understood_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    a_qemu(tmp_path, script, monkeypatch)
    with pytest.raises(Unavailable, match=message) as unavailable:
        await host.look("tcg")
    assert unavailable.value.reason == "NoQemu"


@pytest.mark.parametrize(
    ("total_mib", "kept_mib"), [(1024, 512), (5120, 512), (16384, 1638), (81920, 8192), (1 << 20, 8192)]
)
def test_a_tenth_of_the_memory_stays_the_hosts_own_within_bounds(total_mib: int, kept_mib: int) -> None:
    assert host.kept_for_host_mib(total_mib) == kept_mib


def test_the_memory_of_the_host_is_what_its_kernel_says() -> None:
    meminfo = Path("/proc/meminfo").read_text()
    total_kib = re.search(r"MemTotal:\s+(\d+) kB", meminfo)
    assert total_kib is not None
    assert host.memory_mib() == int(total_kib[1]) // 1024


@pytest.mark.parametrize(
    ("version", "draws"),
    [
        ("7.1.0", True),
        ("7.2.22", True),
        ("10.0.2", True),
        ("8.2.50", True),
        ("7.0.91", False),
        ("6.2.0", False),
        ("", False),
    ],
)
def test_png_files_are_drawn_from_qemu_7_1_on(version: str, draws: bool) -> None:  # noqa: FBT001
    why_not = host.Host(version, "pc-q35-7.2", "tcg").no_screenshots_because
    assert (why_not == "") is draws
    assert version in why_not or draws


@pytest.mark.parametrize(
    ("version", "has_taps", "expected"),
    [
        ("7.2.22", True, {StreamAttachment, TapAttachment}),
        ("10.0.2", True, {StreamAttachment, TapAttachment}),
        ("7.2.22", False, {StreamAttachment}),
        ("7.1.0", True, set()),
        ("6.2.0", True, set()),
        ("", True, set()),
    ],
)
def test_networks_are_joined_from_qemu_7_2_on_and_taps_by_those_who_may_make_them(
    version: str,
    has_taps: bool,  # noqa: FBT001
    expected: set[type[NicAttachment]],
) -> None:
    assert host.Host(version, "pc-q35-7.2", "tcg", has_taps=has_taps).nic_attachments == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
@pytest.mark.parametrize(
    ("bounds", "expected"), [("+all", "True"), ("-net_admin", "False"), ("-sys_admin", "False")], ids=str
)
def test_root_without_a_capability_that_a_tap_takes_knows_it(bounds: str, expected: str) -> None:
    """As in a container. The user stays root, and /dev/net/tun opens for it."""
    program = "from virtplane_drivers.hypervisor.qemu import host; print(host.may_make_taps())"
    argv = ["setpriv", f"--bounding-set={bounds}", sys.executable, "-c", program]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run(argv, capture_output=True, text=True, check=True, env=env).stdout.strip() == expected
