"""From a downloaded image to a volume of our own: looked at, converted with its format named, brought to its size."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.storage.directory import inspect_image
from virtplane_drivers.storage.directory.failures import VolumeFailed
from virtplane_drivers.storage.directory.layout import SECTOR_BYTES
from virtplane_drivers.storage.directory.processes import Finished, Limits, OutOfTime, run

QEMU_IMG = "qemu-img"
_GIB = 1 << 30
_INSPECT = Limits(wall_s=60.0, cpu_s=50, address_space_bytes=4 * _GIB)


@dataclass(frozen=True, slots=True)
class Image:
    """What an image was found to be."""

    format: str
    """qemu-img's name of it."""
    virtual_size_bytes: int


async def inspect(path: Path) -> Image:
    """What a downloaded file is.

    Raises:
        VolumeFailed: it is refused.
    """
    argv = [sys.executable, "-I", str(Path(inspect_image.__file__)), str(path)]
    try:
        done = await run(argv, _INSPECT)
    except OutOfTime as error:
        raise VolumeFailed(
            Reason.UNSAFE_IMAGE, f"the image cannot be inspected: {error}", retry_after_s=None
        ) from error
    if done.exit_status < 0:
        message = f"the image cannot be inspected: its inspection was ended by signal {-done.exit_status}"
        raise VolumeFailed(Reason.UNSAFE_IMAGE, message, retry_after_s=None)
    if done.exit_status != 0:
        raise VolumeFailed(Reason.INSPECTION_FAILED, done.stderr.strip()[-500:], retry_after_s=300.0)
    found = json.loads(done.stdout)
    if "refused" in found:
        raise VolumeFailed(found["refused"], found["message"], retry_after_s=None)
    return Image(found["format"], found["virtual_size"])


async def make_blank(path: Path, disk_format: DiskFormat, size_bytes: int) -> None:
    """A volume of zeros that takes no space yet."""
    await _qemu_img("create", "-q", "-f", disk_format.value, str(path), str(size_bytes))


async def convert(source: Path, image: Image, target: Path, disk_format: DiskFormat, size_bytes: int) -> None:
    """Copy the guest's view of an image into a file of our own, of the image's own size.

    Raises:
        VolumeFailed: the image is larger than the volume, or cannot be read.
    """
    check_fits(image.virtual_size_bytes, size_bytes)
    await _qemu_img("convert", "-q", "-O", disk_format.value, _opened_as(source, image), str(target))


async def grow(path: Path, disk_format: DiskFormat, size_bytes: int) -> None:
    """Bring a volume to its size; what is new reads as zeros."""
    await _qemu_img("resize", "-q", "-f", disk_format.value, str(path), str(size_bytes))


def check_fits(image_bytes: int, size_bytes: int) -> None:
    """Ends the job of an image that is larger than its volume."""
    if image_bytes > size_bytes:
        message = f"the image's virtual size is {image_bytes} bytes, the volume's only {size_bytes}"
        raise VolumeFailed(Reason.SOURCE_TOO_LARGE, f"{message}; make the volume larger", retry_after_s=None)


def _opened_as(path: Path, image: Image) -> str:
    """The image for qemu-img, with everything named that it would else probe or read out of the image itself."""
    node: dict[str, object] = {"driver": image.format, "file": {"driver": "file", "filename": str(path)}}
    match image.format:
        case "raw" if image.virtual_size_bytes % SECTOR_BYTES == 0:  # else qemu-img fills its last sector
            node["size"] = image.virtual_size_bytes
        case "qcow2" | "vmdk":
            node["backing"] = None
        case "vpc":
            node["force_size_calc"] = "current_size"  # and not one of its geometry, which nobody looked at
    return f"json:{json.dumps(node)}"


async def _qemu_img(*arguments: str) -> Finished:
    limits = Limits(wall_s=6 * 3600.0, cpu_s=3600, address_space_bytes=4 * _GIB)
    try:
        done = await run([QEMU_IMG, *arguments], limits)
    except OutOfTime as error:
        raise VolumeFailed(Reason.TIMEOUT, str(error), retry_after_s=300.0) from error
    if done.exit_status != 0:
        said = done.stderr.strip()[-500:]
        if "No space left" in said or "Disk quota exceeded" in said:
            raise VolumeFailed(Reason.NO_SPACE, f"no space is left in the pool: {said}", retry_after_s=60.0)
        if "is not installed" in said or ("No such file or directory" in said and QEMU_IMG in said.split(":")[0:2]):
            raise VolumeFailed(Reason.NO_QEMU_IMG, f"{said}; install qemu-utils", retry_after_s=60.0)
        message = f"qemu-img {arguments[0]} ended with status {done.exit_status}: {said}"
        raise VolumeFailed(Reason.CONVERSION_FAILED, message, retry_after_s=300.0)
    return done
