"""What this host's QEMU is: its version, its newest machine type, whether hardware runs its guests."""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.attachment import NicAttachment, StreamAttachment, TapAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.command import execute
from virtplane_drivers.hypervisor.qemu.argv import QEMU

_PROBE_TIMEOUT_S = 5.0
_MIB = 1 << 20
_KVM = Path("/dev/kvm")
_TUN = Path("/dev/net/tun")
_NET_ADMIN_SYS_ADMIN = 1 << 12 | 1 << 21

_PROBE_PORT = 0xF4
_PROBE_SECTOR = bytes.fromhex("b010e6f4f4").ljust(510, b"\0") + b"\x55\xaa"
"""mov $0x10, %al; out %al, $0xf4; hlt: what isa-debug-exit turns into exit status 2 * 0x10 + 1."""
_PROBE_STATUS = 33


@dataclass(frozen=True, slots=True)
class Host:
    """Facts that hold until the agent ends."""

    version: str
    newest_machine_type: str
    accelerator: str
    no_acceleration_because: str = ""
    has_taps: bool = False
    """Whether this process may make taps, in network namespaces that are not its own."""

    @property
    def no_screenshots_because(self) -> str:
        """Empty where QEMU draws PNG files (QAPI ui.json, ImageFormat: since 7.1)."""
        return "" if self._is_at_least(7, 1) else f"QEMU {self.version} draws no PNG files: 7.1 or a newer one does"

    @property
    def nic_attachments(self) -> frozenset[type[NicAttachment]]:
        """What NICs can be joined to here: QEMU takes `-netdev` as JSON, and has `stream`, since 7.2."""
        if not self._is_at_least(7, 2):
            return frozenset()
        return frozenset({StreamAttachment, TapAttachment} if self.has_taps else {StreamAttachment})

    def _is_at_least(self, *version: int) -> bool:
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:2]) >= version


async def look(accelerator: str) -> Host:
    """Ask QEMU; with `auto` also whether KVM really runs a guest here, by running one.

    Raises:
        Unavailable: there is no QEMU, or not the accelerator that was asked for.
    """
    version = _match(r"version (\S+)", await _run(QEMU, "-version"))
    machine_type = _match(r"^q35 .*\(alias of (\S+)\)", await _run(QEMU, "-machine", "help"))
    why_not = "" if accelerator == "tcg" else await _why_no_kvm()
    if accelerator == "kvm" and why_not:
        raise Unavailable(why_not, reason=Reason.NO_HARDWARE_ACCELERATION)
    if accelerator == "tcg":
        why_not = "the agent was told to use emulation (--qemu-accelerator tcg)"
    return Host(version, machine_type, "tcg" if why_not else "kvm", why_not, may_make_taps())


def memory_mib() -> int:
    """Of the host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB


def kept_for_host_mib(total_mib: int) -> int:
    """What guests do not get: a tenth, at least 512 MiB, at most 8 GiB."""
    return min(8192, max(512, total_mib // 10))


def may_make_taps() -> bool:
    """Whether there are taps, and this process has CAP_NET_ADMIN and CAP_SYS_ADMIN (capabilities(7), setns(2))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return effective & _NET_ADMIN_SYS_ADMIN == _NET_ADMIN_SYS_ADMIN and _TUN.exists()


async def _why_no_kvm() -> str:
    if why := _why_kvm_does_not_open():
        return why
    # A nested, software KVM opens and still does not run guests: only a guest that ran is a proof.
    with tempfile.NamedTemporaryFile(prefix="virtplane-kvm-", suffix=".img") as image:
        image.write(_PROBE_SECTOR.ljust(64 * 1024, b"\0"))
        image.flush()
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "kvm"]
        argv += ["-cpu", "host", "-m", "16M", "-drive", f"file={image.name},format=raw,if=ide,read-only=on"]
        argv += ["-device", f"isa-debug-exit,iobase={_PROBE_PORT:#x},iosize=1"]
        try:
            done = await execute(*argv, timeout_s=_PROBE_TIMEOUT_S)
        except TimeoutError:
            return f"{_KVM} opens, but a guest does not run under it within {_PROBE_TIMEOUT_S:g} s"
    if done.exit_status != _PROBE_STATUS:
        said = done.output.strip()[-300:] or f"status {done.exit_status}"
        return f"{_KVM} opens, but a guest does not run under it: {said}"
    return ""


def _why_kvm_does_not_open() -> str:
    if not _KVM.exists():
        return f"{_KVM}: no such device; enable virtualization in the firmware, or nested virtualization outside"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return f"{_KVM}: permission denied; add the agent's user to the group kvm"
    return ""


async def _run(*argv: str) -> str:
    try:
        done = await execute(*argv, timeout_s=_PROBE_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        message = f"{argv[0]} does not run: {error!r}; install it, e.g. apt-get install qemu-system-x86"
        raise Unavailable(message, reason=Reason.NO_QEMU) from error
    if done.exit_status != 0:
        raise Unavailable(f"{' '.join(argv)}: {done.output.strip()[-300:]}", reason=Reason.NO_QEMU)
    return done.output


def _match(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise Unavailable(f"QEMU says nothing like {pattern!r}: {text[:200]}", reason=Reason.NO_QEMU)
    return match[1].rstrip(",")
