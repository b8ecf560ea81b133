"""A program of its own that looks at hostile bytes: `inspect_image.py FILE` prints JSON about an image.

Printed is `{"format": ..., "virtual_size": ...}`, or `{"refused": reason, "message": ...}`. It runs as a bounded child,
so that a parser that loops or eats memory on a crafted image harms nobody; it imports nothing of this project.
"""

import contextlib
import json
import os
import struct
import sys
from typing import Any

QEMU_NAMES = {"qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "vdi": "vdi"}
"""oslo.utils' name of a format -> qemu-img's."""

_PLAIN = {"raw", "gpt", "iso"}
"""Bytes as a guest sees them, often of several of these kinds at once: an installer's ISO boots from a USB stick too.
Nothing in them is followed by qemu-img, so that nothing about them can be unsafe to it."""

_REASONS = {"backing_file": "BackingFileRefused", "data_file": "DataFileRefused"}
_MESSAGES = {
    "backing_file": "the image names a backing file, which could be any file of the host",
    "data_file": "the image names an external data file, which could be any file of the host",
}
_CHUNK_BYTES = 64 * 1024
_SECTOR_BYTES = 512
_VMDK_HEADER = struct.Struct("<4sIIQ")
"""Magic, version, flags, capacity in sectors."""
_VMDK_DESCRIPTOR_BYTES = 20 * _SECTOR_BYTES
"""What QEMU reads of it, whatever size the header tells (block/vmdk.c, DESC_SIZE)."""
_VHD_FOOTER = struct.Struct(">8s40xQ4xI")
"""Cookie, current size, geometry, type (Microsoft, Virtual Hard Disk Format Specification)."""
_VHD_FIXED = 2


class _Refused(Exception):
    """A check of ours; its argument is the name of the check, as oslo.utils' checks have one."""


def inspect(path: str) -> dict[str, object]:
    """What the image is, or why it is refused.

    Raises:
        OSError: the file cannot be read.
        ImportError: oslo.utils is not installed.
    """
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415  # 0.3 s that only the child spends

    try:
        found = {str(kind): kind for kind in _kinds(path)}
        if found.keys() <= _PLAIN:
            return {"format": "raw", "virtual_size": _plain_size(path)}
        if len(found) > 1:
            raise format_inspector.ImageFormatError(f"it is {' and '.join(sorted(found))} at once")
        [(name, image)] = found.items()
        if name not in QEMU_NAMES:
            return {"refused": "FormatRefused", "message": f"images of format {name} are not imported"}
        if name == "vmdk":
            _check_vmdk(path)
        image.safety_check()
        return {"format": QEMU_NAMES[name], "virtual_size": int(image.virtual_size)}
    except _Refused as refused:
        failed = str(refused)
    except format_inspector.SafetyCheckFailed as unsafe:
        failed = next(iter(unsafe.failures), "unknown")
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a parser stumbles over, the bytes are to blame
        failed = str(error) or repr(error)
    message = _MESSAGES.get(failed, f"the image is not safe: {failed}")
    return {"refused": _REASONS.get(failed, "UnsafeImage"), "message": message}


def _kinds(path: str) -> list[Any]:
    """oslo.utils' inspectors of all formats that the file looks like."""
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415

    with open(path, "rb") as file, contextlib.closing(format_inspector.InspectWrapper(file)) as wrapper:  # noqa: PTH123
        while wrapper.formats is None and wrapper.read(_CHUNK_BYTES):
            pass
    return list(wrapper.formats)


def _check_vmdk(path: str) -> None:
    """Refuses what QEMU would follow to other files, and oslo.utils lets pass."""
    with open(path, "rb") as file:  # noqa: PTH123
        header = file.read(_SECTOR_BYTES)
        descriptor = file.read(_VMDK_DESCRIPTOR_BYTES)
    magic, _, _, capacity = _VMDK_HEADER.unpack_from(header.ljust(_VMDK_HEADER.size, b"\0"))
    # A text without a header, or a header that tells no capacity: QEMU opens what the descriptor lists as extents.
    if magic != b"KDMV" or capacity == 0:
        raise _Refused("data_file")
    if b"parentfilenamehint" in descriptor.lower():
        raise _Refused("backing_file")


def _plain_size(path: str) -> int:
    """The file's size; without the footer that makes a disk's plain bytes a VHD of fixed size."""
    size = os.stat(path).st_size  # noqa: PTH116
    if size <= _SECTOR_BYTES:
        return size
    with open(path, "rb") as file:  # noqa: PTH123
        file.seek(size - _SECTOR_BYTES)
        cookie, disk_size, kind = _VHD_FOOTER.unpack_from(file.read(_SECTOR_BYTES))
    is_footer = (cookie, disk_size, kind) == (b"conectix", size - _SECTOR_BYTES, _VHD_FIXED)
    return int(disk_size) if is_footer else size


if __name__ == "__main__":
    print(json.dumps(inspect(sys.argv[1])))
