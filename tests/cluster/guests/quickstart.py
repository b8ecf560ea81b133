"""The quickstart guest: a disk that boots a small Linux by itself, built from the distribution's own packages.

A PC's firmware starts syslinux from the first partition (FAT); that loads Debian's cloud kernel and an initramfs with
busybox, which is the whole system: nothing is mounted from the disk, so nothing is torn when the guest is killed. The
second partition is the guest's memory: one sector that counts its boots. All it says goes to the first serial port
(115200 baud), the boot loader's part too:

    boot number 1
    quickstart guest: up
    address eth0 10.20.0.9
    uptime 6
    uptime 8

The uptime shows that a guest was neither reset nor replaced, the boot number that its disk was kept. The ACPI power
button makes it print `POWERING_OFF_LINE` and power off. Each network adapter gets its IPv4 address by DHCP, and port 80
shows a page. Enter on the serial port gives a shell, and QEMU's guest agent runs commands. It wants 96 MiB.

`python -m tests.cluster.guests.quickstart` builds the image, when it is not in the cache yet, and prints its path. That
takes seconds, 30 MB of downloads and no root; it works on Debian 12. For Ubuntu, whose kernels have other names, it is
written but untried.
"""

import contextlib
import fcntl
import gzip
import hashlib
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster.binaries import cache_folder
from tests.cluster.guests import debian_packages, initramfs
from tests.cluster.guests.debian_packages import Package, PackageError, StaleLists, UnknownPackage

UP_LINE = "quickstart guest: up"
UPTIME_PREFIX = "uptime "
"""Before whole seconds since the kernel started, every `UPTIME_INTERVAL_S`."""
UPTIME_INTERVAL_S = 2
POWERING_OFF_LINE = "quickstart guest: powering off"
ADDRESS_PREFIX = "address "
"""Before an adapter's name and the IPv4 address that it was given."""
PAGE = "quickstart guest: a page"
"""What its web server shows, on port 80."""
BOOT_NUMBER_PREFIX = "boot number "
"""Before the boots that this disk has seen, the present one included; printed before `UP_LINE`."""

MEMORY_MIB = 96
"""The least it boots with."""
VIRTUAL_SIZE_BYTES = 64 * 1024 * 1024

SECTOR_BYTES = 512
BOOT_START, BOOT_SECTORS = 2048, 98304
COUNTER_START, COUNTER_SECTORS = BOOT_START + BOOT_SECTORS, 2048
COUNTER_MAGIC = "virtplane-quickstart-boots"

KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-kvm")
"""Debian's, then Ubuntu's; each only depends on the newest kernel."""
TOOLS = ("busybox-static", "mtools", "syslinux", "syslinux-common", "qemu-guest-agent")
LIBRARIES = ("libc6", "libglib2.0-0", "libglib2.0-0t64", "libnuma1", "libpcre2-8-0", "libudev1", "liburing2")
"""Of the agent; those that the distribution has."""
APPLETS = ("cat", "cttyhack", "dd", "insmod", "mkdir", "mount", "poweroff", "rm", "setsid", "sh", "sleep", "sync")
NETWORK_APPLETS = ("httpd", "ip", "udhcpc")
"""What the guest's script calls; its shell gets all the others."""
MODULES = ("virtio_pci", "virtio_blk", "button", "evdev", "virtio_console", "virtio_net", "af_packet", "ipv6")

# Numbers of the serial port: 0 is ttyS0. Flow control 0: do not wait for a terminal. NOESCAPE: no key, and no noise on
# the line, can stop the boot at a prompt. panic=-1: a dead kernel resets the machine at once, which its host sees.
# no_timer_check: on a busy host an emulated timer may be too late for the kernel's test of it, which ends in a panic.
BOOT_MENU = """\
SERIAL 0 115200 0
NOESCAPE 1
DEFAULT quickstart
LABEL quickstart
  LINUX /vmlinuz
  INITRD /initrd.gz
  APPEND console=ttyS0,115200 loglevel=4 panic=-1 no_timer_check rdinit=/init
"""

INIT = Path(__file__).with_name("quickstart_init.sh")
NETWORK = Path(__file__).with_name("quickstart_network.sh")

Report = Callable[[str], None]


class ImageError(Exception):
    """The image could not be built; the message holds what to do or a program's last words."""


def quickstart_image(progress: Report | None = None) -> Path:
    """The image, a qcow2 file that nobody may write to: boot copies or overlays. Built when the cache lacks it.

    Raises:
        ImageError: with the reason for people.
    """
    report = progress or (lambda _line: None)
    try:
        try:
            return _image_of(_ingredients(), report)
        except (StaleLists, UnknownPackage):
            report("updating apt's package lists")
            debian_packages.update_lists()
            return _image_of(_ingredients(), report)
    except (PackageError, initramfs.ModuleError) as failure:
        raise ImageError(str(failure)) from failure


def _ingredients() -> list[Package]:
    """What decides the image's content: the package that stands for the newest kernel, and the tools'."""
    known = debian_packages.candidates((*KERNELS, *TOOLS, *LIBRARIES))
    kernel = next((name for name in KERNELS if name in known), KERNELS[0])
    libraries = [name for name in LIBRARIES if name in known]
    return [debian_packages.known_package(name, known) for name in (kernel, *TOOLS, *libraries)]


def _packages(ingredients: list[Package]) -> list[Package]:
    """What to unpack, the kernel first. On Ubuntu its modules are in a package that it depends on."""
    newest, *tools = ingredients
    names = [name for name in newest.depends if re.match(r"linux-image-\d", name)]
    kernels = list(debian_packages.candidates(names).values())
    if len(kernels) != 1:
        raise UnknownPackage(f"apt's lists do not say which kernel {newest.name} {newest.version} stands for")
    names = [name for name in kernels[0].depends if re.match(r"linux-modules-\d", name)]
    return [*kernels, *(debian_packages.candidates(names).values() if names else ()), *tools]


def _image_of(ingredients: list[Package], report: Report) -> Path:
    """The image from just these packages: its folder is named after them and the source that puts them together."""
    digest = hashlib.sha256(repr(ingredients).encode())
    for source in (INIT, NETWORK, Path(initramfs.__file__), Path(__file__)):
        digest.update(source.read_bytes())
    folder = cache_folder() / "guests" / digest.hexdigest()[:16]
    image = folder / "quickstart.qcow2"
    if image.exists():
        return image
    folder.mkdir(parents=True, exist_ok=True)
    with _only_builder(folder / ".lock", report):
        if not image.exists():  # else another process has built it while this one waited
            scratch = folder / ".building"
            shutil.rmtree(scratch, ignore_errors=True)  # of a builder that was killed
            scratch.mkdir()
            try:
                _build(_packages(ingredients), scratch, report).replace(image)
            finally:
                shutil.rmtree(scratch)
    return image


@contextlib.contextmanager
def _only_builder(path: Path, report: Report) -> Iterator[None]:
    """Holds the image's build lock; the kernel frees it when this process dies, however it dies."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process builds the quickstart guest; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(packages: list[Package], scratch: Path, report: Report) -> Path:
    report(f"building the quickstart guest from {packages[0].name} {packages[0].version} and busybox")
    unpacked = scratch / "packages"
    debian_packages.unpack(packages, scratch / "downloads", unpacked)
    (scratch / "initrd.gz").write_bytes(gzip.compress(_initramfs(unpacked), mtime=0))
    (scratch / "syslinux.cfg").write_text(BOOT_MENU)
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    kernel.rename(scratch / "vmlinuz")
    disk = scratch / "disk.raw"
    with disk.open("wb") as raw:
        raw.write(_master_boot_record((unpacked / "usr/lib/syslinux/mbr/mbr.bin").read_bytes()))
        raw.truncate(VIRTUAL_SIZE_BYTES)
        raw.seek(COUNTER_START * SECTOR_BYTES)
        raw.write(f"{COUNTER_MAGIC} 0\n".encode())
    # The tools run from where they were unpacked; syslinux calls mtools' by name.
    env = os.environ | {"PATH": f"{unpacked}/usr/bin:{os.environ.get('PATH', os.defpath)}", "MTOOLSRC": os.devnull}
    offset = BOOT_START * SECTOR_BYTES
    boot = f"{disk}@@{offset}"
    _run(["mformat", "-i", boot, "-T", str(BOOT_SECTORS), "-h", "64", "-s", "32", "-H", str(BOOT_START), "::"], env)
    _run(["mcopy", "-i", boot, *(str(scratch / name) for name in ("vmlinuz", "initrd.gz", "syslinux.cfg")), "::"], env)
    _run(["syslinux", "--install", "--offset", str(offset), str(disk)], env)
    image = scratch / "quickstart.qcow2"
    _run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(image)], env)
    image.chmod(0o444)
    return image


def _initramfs(unpacked: Path) -> bytes:
    # Debian 13's packages no longer use the links from /bin and /lib to /usr.
    (tree,) = (*unpacked.glob("lib/modules/*"), *unpacked.glob("usr/lib/modules/*"))
    (busybox,) = (*unpacked.glob("bin/busybox"), *unpacked.glob("usr/bin/busybox"))
    modules = initramfs.modules_in_load_order(tree, MODULES)
    archive = initramfs.Archive()
    for folder in ("proc", "sys", "run", "tmp"):
        archive.folder(folder)
    archive.console()
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in (*APPLETS, *NETWORK_APPLETS):
        archive.symlink(f"bin/{applet}", "busybox")
    for name, content in modules.items():
        archive.file(f"lib/modules/{name}", content)
    agent = unpacked / "usr/sbin/qemu-ga"
    archive.file("bin/qemu-ga", agent.read_bytes(), 0o755)
    for path, content in debian_packages.libraries_of(agent, unpacked).items():
        archive.file(path, content, 0o755)
    archive.file("etc/modules", "\n".join(modules).encode())
    archive.file("etc/quickstart", _settings().encode())
    archive.file("etc/network.sh", NETWORK.read_bytes(), 0o755)
    archive.file("init", INIT.read_bytes(), 0o755)
    return archive.to_bytes()


def _settings() -> str:
    """What the script in the guest prints and looks for, as shell variables."""
    settings = {
        "UP_LINE": UP_LINE,
        "UPTIME_PREFIX": UPTIME_PREFIX,
        "UPTIME_INTERVAL_S": str(UPTIME_INTERVAL_S),
        "POWERING_OFF_LINE": POWERING_OFF_LINE,
        "BOOT_NUMBER_PREFIX": BOOT_NUMBER_PREFIX,
        "COUNTER_MAGIC": COUNTER_MAGIC,
        "ADDRESS_PREFIX": ADDRESS_PREFIX,
        "PAGE": PAGE,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())


def _master_boot_record(code: bytes) -> bytes:
    """syslinux's code, which starts the active partition, and the table; CHS fields say "use LBA"."""
    fat16_by_lba, no_file_system = 0x0E, 0xDA
    table = (0x80, fat16_by_lba, BOOT_START, BOOT_SECTORS), (0, no_file_system, COUNTER_START, COUNTER_SECTORS)
    entries = b"".join(
        struct.pack("<B3sB3sII", active, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, sectors)
        for active, kind, start, sectors in table
    )
    return code[:440].ljust(446, b"\0") + entries.ljust(64, b"\0") + b"\x55\xaa"


def _run(argv: list[str], env: dict[str, str]) -> None:
    # Popen looks a program up in the PATH of its own environment, not in that of `env`.
    program = shutil.which(argv[0], path=env["PATH"])
    if program is None:
        raise ImageError(f"there is no {argv[0]}; `python -m tests.cluster.system_packages` names its package")
    done = subprocess.run([program, *argv[1:]], env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise ImageError(f"{' '.join(argv)} exited {done.returncode}:\n{output}")


def main() -> int:
    """Prints the image's path, with progress on stderr; exits 1 with a message when it cannot be built."""
    try:
        print(quickstart_image(lambda line: print(line, file=sys.stderr, flush=True)))
    except ImageError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
