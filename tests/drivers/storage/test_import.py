"""Images from a real web server become volumes of our own, byte for byte, with a real qemu-img."""

import itertools
import json
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import MIB, DirectoryHost, failure_of, made, pool_folder, volume
from tests.drivers.storage.image_files import (
    FORMATS,
    IMAGE_BYTES,
    in_format,
    pattern,
    qemu_img,
    same_content,
    with_iso_9660,
    with_partitions,
)
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.storage.contract import Blank, ObservedVolume, VolumeState
from virtplane_drivers.storage.directory import DirectoryStorage

RAW_KINDS: Mapping[str, Callable[[bytes], bytes]] = {
    "a partitioned disk": lambda content: with_partitions(content, (0x83, 64)),
    "a disk with a GPT": lambda content: with_partitions(content, (0xEE, 1)),
    "boot code and no partition": with_partitions,
    "an ISO": with_iso_9660,
    "an ISO that boots from USB too": lambda content: with_partitions(with_iso_9660(content), (0x17, 0), (0xEF, 100)),
    "an ISO with a GPT beside other partitions": lambda content: with_partitions(
        with_iso_9660(content), (0xEF, 1), (0xEE, 1)
    ),
    "a text": lambda content: b"#cloud-config\n" * (len(content) // 14),
}


def path_of(seen: ObservedVolume) -> Path:
    assert isinstance(seen.attachment, FileAttachment), seen
    return seen.attachment.path


@pytest.mark.parametrize(("name", "disk_format"), list(itertools.product(FORMATS, DiskFormat)))
async def test_an_image_of_each_format_becomes_a_volume_with_the_same_content(
    directory: DirectoryHost, storage: DirectoryStorage, name: str, disk_format: DiskFormat
) -> None:
    raw = directory.folder / "content.img"
    raw.write_bytes(pattern())
    source = directory.publish("image", in_format(name, raw).read_bytes())
    seen = await made(storage, directory.pool, volume(source, disk_format=disk_format))
    assert (seen.state, seen.size_bytes, seen.format) == (VolumeState.READY, 4 * MIB, disk_format), seen.failure
    assert same_content(raw, "raw", path_of(seen), disk_format.value)


@pytest.mark.parametrize("kind", RAW_KINDS)
async def test_bytes_of_no_disk_format_are_taken_as_they_are(
    directory: DirectoryHost, storage: DirectoryStorage, kind: str
) -> None:
    content = RAW_KINDS[kind](pattern())
    seen = await made(storage, directory.pool, volume(directory.publish("image", content)))
    assert seen.state is VolumeState.READY, seen.failure
    assert path_of(seen).read_bytes() == content.ljust(4 * MIB, b"\0")


@pytest.mark.parametrize("name", ["raw", "qcow2", "vhd-fixed"])
async def test_an_image_as_large_as_the_volume_fits(
    directory: DirectoryHost, storage: DirectoryStorage, name: str
) -> None:
    raw = directory.folder / "content.img"
    raw.write_bytes(pattern())
    source = directory.publish("image", in_format(name, raw).read_bytes())
    seen = await made(storage, directory.pool, volume(source, size_bytes=IMAGE_BYTES))
    assert (seen.state, seen.size_bytes) == (VolumeState.READY, IMAGE_BYTES), seen.failure
    assert path_of(seen).read_bytes() == pattern()


async def test_a_raw_image_that_ends_within_a_sector_goes_on_with_zeros(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    source = directory.publish("image", b"x" * 1000)
    for size_bytes in (1024, MIB):
        seen = await made(storage, directory.pool, volume(source, size_bytes=size_bytes))
        assert (seen.state, seen.size_bytes) == (VolumeState.READY, size_bytes), seen.failure
        assert path_of(seen).read_bytes() == (b"x" * 1000).ljust(size_bytes, b"\0")


@pytest.mark.parametrize("name", FORMATS)
async def test_an_image_larger_than_the_volume_is_refused(
    directory: DirectoryHost, storage: DirectoryStorage, name: str
) -> None:
    raw = directory.folder / "content.img"
    raw.write_bytes(pattern())
    source = directory.publish("image", in_format(name, raw).read_bytes())
    seen = await made(storage, directory.pool, volume(source, size_bytes=MIB))
    assert failure_of(seen) == "SourceTooLarge"
    assert seen.failure is not None
    assert seen.failure.retry_after_s is None
    assert str(MIB) in seen.failure.message
    assert directory.files() == []


@pytest.mark.parametrize("disk_format", DiskFormat)
async def test_a_volume_is_an_image_of_its_own_that_only_its_owner_may_read(
    directory: DirectoryHost, storage: DirectoryStorage, disk_format: DiskFormat
) -> None:
    source = directory.publish("image", pattern())
    for desired in (volume(source, disk_format=disk_format), volume(Blank(), disk_format=disk_format)):
        path = path_of(await made(storage, directory.pool, desired))
        assert path == pool_folder(directory.pool) / f"{desired.uid}.{disk_format.value}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_nlink == 1
        said = json.loads(qemu_img("info", "--output=json", "-f", disk_format.value, path))
        assert (said["format"], said["virtual-size"]) == (disk_format.value, 4 * MIB)
        assert "backing-filename" not in said
    assert len(directory.files()) == 2


async def test_a_blank_volume_reads_as_zeros_and_takes_no_space_yet(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    zeros = directory.folder / "zeros.img"
    zeros.touch()
    for disk_format in DiskFormat:
        seen = await made(storage, directory.pool, volume(Blank(), size_bytes=1 << 34, disk_format=disk_format))
        assert path_of(seen).stat().st_blocks * 512 < MIB
        assert same_content(path_of(seen), disk_format.value, zeros, "raw")
