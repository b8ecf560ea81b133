"""From a downloaded image to a volume of our own: looked at, converted with its format named, brought to its size."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.storage.directory import inspect_image
from virtplane_drivers.storage.directory.failures import VolumeFailed
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
        found = json.loads(done.stdout)
    except (OutOfTime, ValueError) as error:
        raise VolumeFailed("UnsafeImage", f"the image cannot be inspected: {error}", retry_after_s=None) from error
    if "refused" in found:
        raise VolumeFailed(found["refused"], found["message"], retry_after_s=None)
    # Of a raw image the inspector counts what it has read of it; the file's size is the disk's.
    size_bytes = (await asyncio.to_thread(path.stat)).st_size if found["format"] == "raw" else found["virtual_size"]
    return Image(found["format"], int(size_bytes))


async def make_blank(path: Path, disk_format: DiskFormat, size_bytes: int) -> None:
    """A volume of zeros that takes no space yet."""
    await _qemu_img("create", "-q", "-f", disk_format.value, str(path), str(size_bytes))


async def convert(source: Path, image: Image, target: Path, disk_format: DiskFormat, size_bytes: int) -> None:
    """Copy the guest's view of an image into a file of our own, and grow it to the volume's size.

    Raises:
        VolumeFailed: the image is larger than the volume, or cannot be read.
    """
    if image.virtual_size_bytes > size_bytes:
        message = f"the image's virtual size is {image.virtual_size_bytes} bytes, the volume's only {size_bytes}"
        raise VolumeFailed("SourceTooLarge", f"{message}; make the volume larger", retry_after_s=None)
    # The format is named, never probed: what was inspected is what is read.
    await _qemu_img("convert", "-q", "-f", image.format, "-O", disk_format.value, str(source), str(target))
    if image.virtual_size_bytes < size_bytes:
        await _qemu_img("resize", "-q", "-f", disk_format.value, str(target), str(size_bytes))


async def _qemu_img(*arguments: str) -> Finished:
    limits = Limits(wall_s=6 * 3600.0, cpu_s=3600, address_space_bytes=4 * _GIB)
    try:
        done = await run([QEMU_IMG, *arguments], limits)
    except OutOfTime as error:
        raise VolumeFailed("Timeout", str(error), retry_after_s=300.0) from error
    if done.exit_status != 0:
        said = done.stderr.strip()[-500:]
        if "No space left" in said or "Disk quota exceeded" in said:
            raise VolumeFailed("NoSpace", f"no space is left in the pool: {said}", retry_after_s=60.0)
        if "is not installed" in said or ("No such file or directory" in said and QEMU_IMG in said.split(":")[0:2]):
            raise VolumeFailed("NoQemuImg", f"{said}; install qemu-utils", retry_after_s=60.0)
        message = f"qemu-img {arguments[0]} ended with status {done.exit_status}: {said}"
        raise VolumeFailed("ConversionFailed", message, retry_after_s=300.0)
    return done
