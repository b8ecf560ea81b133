"""Images as they are found on the web, and such as no honest tool makes."""

import random
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

IMAGE_BYTES = 2 << 20
SECTOR_BYTES = 512
_TEXT_BYTES = 1 << 20
"""A descriptor that is a file of its own is taken for one only when there is that much of it."""
_FIRST_DATA_AT = 64 * 1024
"""The content below is left to partition tables and boot code."""

FORMATS: Mapping[str, tuple[str, ...]] = {
    "raw": ("raw",),
    "qcow2": ("qcow2",),
    "qcow2-version-2": ("qcow2", "-o", "compat=0.10"),
    "qcow2-compressed": ("qcow2", "-c"),
    "vmdk": ("vmdk",),
    "vmdk-stream-optimized": ("vmdk", "-o", "subformat=streamOptimized"),
    "vhd": ("vpc",),
    "vhd-fixed": ("vpc", "-o", "subformat=fixed,force_size=on"),
    "vhdx": ("vhdx",),
    "vdi": ("vdi",),
}
"""qemu-img's output format and options, by a name of ours."""


def qemu_img(*arguments: str | Path) -> str:
    """Runs qemu-img; an error of it is an error of the test."""
    done = subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def same_content(one: Path, one_format: str, other: Path, other_format: str) -> bool:
    """Whether two images show a guest the same bytes; where one is longer, it goes on with zeros."""
    argv = ["qemu-img", "compare", "-q", "-f", one_format, "-F", other_format, str(one), str(other)]
    return subprocess.run(argv, check=False).returncode == 0


def pattern(seed: int = 1) -> bytes:
    """Content of a disk, with a hole in it."""
    data = random.Random(seed)
    half = (IMAGE_BYTES - _FIRST_DATA_AT) // 2
    return bytes(_FIRST_DATA_AT) + data.randbytes(half - 100_000) + bytes(100_000) + data.randbytes(half)


def in_format(name: str, raw: Path) -> Path:
    """The content of a raw file in another format, beside it."""
    target = raw.with_name(name)
    qemu_img("convert", "-f", "raw", "-O", *FORMATS[name], raw, target)
    return target


def with_partitions(content: bytes, *partitions: tuple[int, int]) -> bytes:
    """The same with an MBR; each partition is its type and its first sector."""
    table = b"".join(
        struct.pack("<B3BB3BII", 0x80 if n == 0 else 0, 0, 2, 0, kind, 255, 255, 255, first, 100)
        for n, (kind, first) in enumerate(partitions)
    )
    return b"boot code".ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa" + content[SECTOR_BYTES:]


def with_iso_9660(content: bytes) -> bytes:
    """The same with the volume descriptor of an ISO 9660 file system of that size."""
    descriptor = bytearray(2048)
    descriptor[:7] = b"\x01CD001\x01"
    blocks = len(content) // 2048
    descriptor[80:88] = struct.pack("<I", blocks) + struct.pack(">I", blocks)
    descriptor[128:132] = struct.pack("<H", 2048) + struct.pack(">H", 2048)
    return content[: 32 * 1024] + bytes(descriptor) + content[34 * 1024 :]


def vmdk_naming(file_name: str, *, embedded: bool) -> bytes:
    """A VMDK whose data is said to lie in the file of that name beside it.

    Two parsers read it differently: oslo.utils takes the first createType in any case of letters, QEMU the one that is
    spelt so. `embedded`: behind the header of a sparse extent without capacity, which QEMU then takes for a mere
    envelope of the text (block/vmdk.c, vmdk_open_vmdk4); else the text alone.
    """
    sectors = IMAGE_BYTES // SECTOR_BYTES
    text = (
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        'createtype="monolithicSparse"\ncreateType="monolithicFlat"\n'
        f'RW {sectors} FLAT "{file_name}" 0\n'
        'ddb.adapterType = "ide"\n'
    ).encode()
    if not embedded:
        return text.ljust(_TEXT_BYTES, b"\n")
    header = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, 0, 128, 1, 20, 512, 0, 0, 128)
    return header.ljust(SECTOR_BYTES, b"\0") + text.ljust(20 * SECTOR_BYTES, b"\0") + bytes(IMAGE_BYTES)


def vhd_that_understates_its_size(vhd: bytes, size_bytes: int) -> bytes:
    """A dynamic VHD with another size in the field that inspectors read; QEMU computes its own of the geometry."""
    footer = bytearray(vhd[:SECTOR_BYTES])
    footer[48:56] = struct.pack(">Q", size_bytes)
    footer[40:48] = struct.pack(">Q", size_bytes)
    footer[64:68] = bytes(4)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
    return bytes(footer) + vhd[SECTOR_BYTES:-SECTOR_BYTES] + bytes(footer)


def vmdk_with_a_larger_footer(vmdk: bytes, size_bytes: int) -> bytes:
    """A stream-optimised VMDK whose footer, which QEMU believes, tells another capacity than its header."""
    header = bytearray(vmdk[:SECTOR_BYTES])
    header[12:20] = struct.pack("<Q", size_bytes // SECTOR_BYTES)
    footer = struct.pack("<QII", 1, 0, 3).ljust(SECTOR_BYTES, b"\0") + bytes(header) + bytes(SECTOR_BYTES)
    grain_directory_at_end = struct.pack("<Q", (1 << 64) - 1)
    return vmdk[:56] + grain_directory_at_end + vmdk[64:] + footer
