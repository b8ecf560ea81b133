"""A program of its own that looks at hostile bytes: `inspect_image.py FILE` prints JSON about an image.

Printed is `{"format": ..., "virtual_size": ...}`, or `{"refused": reason, "message": ...}`. It runs as a bounded child,
so that a parser that loops or eats memory on a crafted image harms nobody; it imports nothing of this project.
"""

import json
import sys

QEMU_NAMES = {
    "raw": "raw",
    "gpt": "raw",
    "iso": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vhd": "vpc",
    "vhdx": "vhdx",
    "vdi": "vdi",
}
"""oslo.utils' name of a format -> qemu-img's."""

_REASONS = {"backing_file": "BackingFileRefused", "data_file": "DataFileRefused"}
_MESSAGES = {
    "backing_file": "the image names a backing file, which could be any file of the host",
    "data_file": "the image names an external data file, which could be any file of the host",
}


def inspect(path: str) -> dict[str, object]:
    """What the image is, or why it is refused."""
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415  # 0.3 s that only the child spends

    try:
        found = format_inspector.detect_file_format(path)
        name = str(found)
        if name not in QEMU_NAMES:
            return {"refused": "FormatRefused", "message": f"images of format {name} are not imported"}
        found.safety_check()
    except format_inspector.SafetyCheckFailed as unsafe:
        failed = next(iter(unsafe.failures), "unknown")
        message = _MESSAGES.get(failed, f"the image is not safe: {failed}")
        return {"refused": _REASONS.get(failed, "UnsafeImage"), "message": message}
    except format_inspector.ImageFormatError as error:
        return {"refused": "UnsafeImage", "message": str(error)}
    return {"format": QEMU_NAMES[name], "virtual_size": found.virtual_size}


if __name__ == "__main__":
    print(json.dumps(inspect(sys.argv[1])))
