"""Images made to reach other files, to lie, or to break what looks at them. A real qemu-img would obey them."""

import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import MIB, DirectoryHost, failure_of, made, pool_folder, volume
from tests.drivers.storage.image_files import (
    IMAGE_BYTES,
    in_format,
    pattern,
    qemu_img,
    vhd_that_understates_its_size,
    vmdk_naming,
    vmdk_with_a_larger_footer,
    with_iso_9660,
)
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.storage.contract import VolumeState
from virtplane_drivers.storage.directory import DirectoryStorage
from virtplane_drivers.storage.directory.convert import Image, convert, inspect
from virtplane_drivers.storage.directory.failures import VolumeFailed
from virtplane_drivers.storage.directory.processes import Limits, confined

SECRET = b"the neighbour's secret\n"
_QCOW2 = struct.Struct(">4sIQIIQ")

Builder = Callable[[Path, Path], bytes]
"""From a folder to build in, and a secret file of a neighbour."""


def with_qemu_img(*arguments: str) -> Builder:
    """`qemu-img create` of an image that names the secret."""

    def build(folder: Path, secret: Path) -> bytes:
        image = folder / "hostile"
        words = [word.format(secret=secret, folder=folder) for word in arguments]
        qemu_img("create", "-q", *words, image, str(IMAGE_BYTES))
        return image.read_bytes()

    return build


def from_vmdk(change: Callable[[bytes], bytes], name: str = "vmdk") -> Builder:
    """A change of an image that qemu-img made of harmless content."""

    def build(folder: Path, _secret: Path) -> bytes:
        raw = folder / "content.img"
        raw.write_bytes(pattern())
        return change(in_format(name, raw).read_bytes())

    return build


def _vmdk_over(folder: Path, secret: Path) -> bytes:
    """A VMDK over a neighbour's VMDK."""
    parent = secret.with_name("parent.vmdk")
    qemu_img("convert", "-f", "raw", "-O", "vmdk", secret, parent)
    return with_qemu_img("-f", "vmdk", "-b", str(parent), "-F", "vmdk")(folder, secret)


def _child_of(secret_name: str) -> Callable[[bytes], bytes]:
    """A VMDK that has a parent, told behind the end that its header gives for the descriptor."""

    def change(vmdk: bytes) -> bytes:
        header = bytearray(vmdk)
        header[36:44] = struct.pack("<Q", 1)  # the descriptor's size in sectors
        text = vmdk[512 : 512 * 21].rstrip(b"\0")
        text = text.ljust(600, b"\n") + f'parentFileNameHint="{secret_name}"\n'.encode()
        header[512 : 512 * 21] = text.ljust(512 * 20, b"\0")
        return bytes(header)

    return change


REFUSED: Mapping[str, tuple[Builder, str]] = {
    "a qcow2 with a backing file": (
        with_qemu_img("-f", "qcow2", "-b", "{secret}", "-F", "raw"),
        "BackingFileRefused",
    ),
    "a qcow2 with a backing file in JSON": (
        with_qemu_img("-f", "qcow2", "-u", "-b", 'json:{{"driver":"file","filename":"{secret}"}}', "-F", "raw"),
        "BackingFileRefused",
    ),
    "a qcow2 with an external data file": (
        with_qemu_img("-f", "qcow2", "-o", "data_file={folder}/data,data_file_raw=on"),
        "DataFileRefused",
    ),
    "a VMDK with a parent": (_vmdk_over, "BackingFileRefused"),
    "a VMDK with a parent where inspectors do not look": (from_vmdk(_child_of("secret.img")), "BackingFileRefused"),
    "a VMDK in several files": (with_qemu_img("-f", "vmdk", "-o", "subformat=monolithicFlat"), "DataFileRefused"),
    "a VMDK that is only a text": (
        lambda _folder, secret: vmdk_naming(secret.name, embedded=False),
        "DataFileRefused",
    ),
    "a VMDK whose header is only an envelope": (
        lambda _folder, secret: vmdk_naming(secret.name, embedded=True),
        "DataFileRefused",
    ),
    "a QED image": (with_qemu_img("-f", "qed"), "FormatRefused"),
    "a LUKS container": (
        lambda _folder, _secret: (
            b"LUKS\xba\xbe\0\1" + b"aes".ljust(32, b"\0") + b"xts-plain64".ljust(32, b"\0") + bytes(MIB)
        ),
        "FormatRefused",
    ),
    "a qcow2 that is an ISO too": (from_vmdk(with_iso_9660, "qcow2"), "UnsafeImage"),
    "a qcow2 with features that nobody knows": (
        lambda _folder, _secret: _QCOW2.pack(b"QFI\xfb", 3, 0, 0, 16, MIB).ljust(72, b"\0") + b"\x80" + bytes(MIB),
        "UnsafeImage",
    ),
    "a qcow2 larger than any disk": (
        lambda _folder, _secret: _QCOW2.pack(b"QFI\xfb", 2, 0, 0, 16, (1 << 64) - 512) + bytes(MIB),
        "SourceTooLarge",
    ),
    "a VMDK whose footer tells another size": (
        from_vmdk(lambda vmdk: vmdk_with_a_larger_footer(vmdk, 1 << 30), "vmdk-stream-optimized"),
        "SourceTooLarge",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_hostile_image_is_refused_for_good_and_nothing_is_left_in_the_pool(
    directory: DirectoryHost, storage: DirectoryStorage, name: str
) -> None:
    build, reason = REFUSED[name]
    directory.cache.mkdir()
    secret = directory.cache / "secret.img"  # where a name without a folder would lead to
    secret.write_bytes(SECRET * (IMAGE_BYTES // len(SECRET)))
    source = directory.publish("image", build(directory.folder, secret))
    seen = await made(storage, directory.pool, volume(source))
    assert failure_of(seen) == reason
    assert seen.failure is not None
    assert seen.failure.retry_after_s is None
    assert directory.files() == []


GARBAGE: Mapping[str, bytes] = {
    "qcow2": b"QFI\xfb" + b"\xff" * 100_000,
    "a qcow2 with a plausible header": _QCOW2.pack(b"QFI\xfb", 2, 0, 0, 16, MIB) + b"\xff" * 100_000,
    "a qcow2 with no more than a header": _QCOW2.pack(b"QFI\xfb", 2, 0, 0, 16, MIB).ljust(512, b"\0"),
    "vmdk": b"KDMV" + b"\xff" * 100_000,
    "vhdx": b"vhdxfile" + b"\xff" * 300_000,
    "vhd": b"conectix" + b"\xff" * 100_000,
    "vdi": bytes(0x40) + struct.pack("<I", 0xBEDA107F) + b"\xff" * 100_000,
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_that_claims_to_be_an_image_becomes_no_volume(
    directory: DirectoryHost, storage: DirectoryStorage, name: str
) -> None:
    seen = await made(storage, directory.pool, volume(directory.publish("image", GARBAGE[name])))
    assert failure_of(seen) in {
        "UnsafeImage",
        "BackingFileRefused",
        "DataFileRefused",
        "SourceTooLarge",
        "ConversionFailed",
    }
    assert seen.failure is not None
    assert len(seen.failure.message) < 1000
    assert directory.files() == []
    assert (await storage.observe(directory.pool, "another")).state is None


async def test_a_size_that_only_the_inspected_header_tells_is_the_one_that_holds(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    raw = directory.folder / "content.img"
    raw.write_bytes(pattern())
    lie = vhd_that_understates_its_size(in_format("vhd", raw).read_bytes(), MIB)
    seen = await made(storage, directory.pool, volume(directory.publish("image", lie), size_bytes=MIB))
    assert (seen.state, seen.size_bytes) == (VolumeState.READY, MIB), seen.failure
    [name] = directory.files()
    assert (pool_folder(directory.pool) / name).read_bytes() == pattern()[:MIB]


@pytest.mark.parametrize("disk_format", ["qcow2", "vmdk"])
async def test_a_backing_file_is_not_read_even_where_the_inspection_was_deceived(
    tmp_path: Path, disk_format: str
) -> None:
    secret, image, target = (tmp_path / name for name in ("secret", "image", "target"))
    secret.write_bytes(SECRET.ljust(MIB, b"."))
    base = tmp_path / "base"
    qemu_img("convert", "-f", "raw", "-O", disk_format, secret, base)
    qemu_img("create", "-q", "-f", disk_format, "-b", base, "-F", disk_format, image)
    await convert(image, Image(disk_format, MIB), target, DiskFormat.RAW, MIB)
    assert target.read_bytes() == bytes(MIB)
    obeyed = tmp_path / "obeyed"
    qemu_img("convert", "-f", disk_format, "-O", "raw", image, obeyed)
    assert SECRET in obeyed.read_bytes()


async def test_an_inspection_that_could_not_be_made_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(VolumeFailed, match="No such file") as failed:
        await inspect(tmp_path / "gone")
    assert (failed.value.failure.reason, failed.value.failure.retry_after_s) == ("InspectionFailed", 300.0)


def test_the_bounds_of_a_child_are_kept_by_the_kernel(tmp_path: Path) -> None:
    limits = Limits(wall_s=5.0, cpu_s=7, address_space_bytes=1 << 30, file_bytes=4096)
    said = subprocess.run(confined(["cat", "/proc/self/limits"], limits), check=True, capture_output=True, text=True)
    bounds = {line[:25].strip(): line[25:].split()[0] for line in said.stdout.splitlines()}
    assert bounds["Max address space"] == str(1 << 30)
    assert (bounds["Max cpu time"], bounds["Max core file size"], bounds["Max file size"]) == ("7", "0", "4096")
