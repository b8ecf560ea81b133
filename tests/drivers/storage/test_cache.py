"""Downloads that are shared, kept and thrown away: the web server counts who asks."""

import asyncio
import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path

from tests.drivers.storage.directory_host import (
    MIB,
    QUICK,
    DirectoryHost,
    failure_of,
    made,
    pool_folder,
    settled,
    volume,
)
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.storage.contract import NO_VOLUME, HttpImage, ObservedVolume, VolumeState
from virtplane_drivers.storage.directory import DirectoryStorage
from virtplane_drivers.storage.directory.address_policy import AddressPolicy
from virtplane_drivers.storage.directory.cache import ImageCache
from virtplane_drivers.storage.directory.download import Progress

CONTENT = bytes(range(256)) * 4096


def content_of(seen: ObservedVolume) -> bytes:
    assert isinstance(seen.attachment, FileAttachment), seen
    return seen.attachment.path.read_bytes()


async def until_asked(directory: DirectoryHost, times: int) -> None:
    async with asyncio.timeout(10):
        while len(directory.server.requests) < times:
            await asyncio.sleep(0.005)


async def test_a_file_of_another_checksum_is_thrown_away_for_good(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    source = directory.publish("image", CONTENT)
    wrong = replace(source, sha256="0" * 64)
    seen = await made(storage, directory.pool, volume(wrong))
    assert failure_of(seen) == "ChecksumMismatch"
    assert seen.failure is not None
    assert seen.failure.retry_after_s is None
    assert str(source.sha256) in seen.failure.message
    assert (directory.files(), directory.cached()) == ([], [])
    assert (await made(storage, directory.pool, volume(source))).state is VolumeState.READY


async def test_a_file_that_was_changed_on_its_way_can_be_had_later(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    source = directory.publish("image", CONTENT)
    (directory.server.folder / "image").write_bytes(CONTENT[::-1])
    desired = volume(source)
    assert failure_of(await made(storage, directory.pool, desired)) == "ChecksumMismatch"
    (directory.server.folder / "image").write_bytes(CONTENT)
    assert content_of(await made(storage, directory.pool, desired))[: len(CONTENT)] == CONTENT


async def test_many_clones_at_once_are_one_download_and_later_ones_none(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    source = directory.publish("image", CONTENT)
    directory.server.faults.stall = stall = threading.Event()
    clones = [volume(source, size_bytes=MIB) for _ in range(8)]
    for clone in clones:
        await storage.create(directory.pool, clone)
    await until_asked(directory, 1)
    stall.set()
    for clone in clones:
        assert content_of(await settled(storage, directory.pool, clone.uid)) == CONTENT
    assert content_of(await made(storage, directory.other_pool, volume(source, size_bytes=MIB))) == CONTENT
    async with directory.open() as next_driver:
        assert content_of(await made(next_driver, directory.pool, volume(source, size_bytes=MIB))) == CONTENT
    assert len(directory.server.requests) == 1
    assert directory.cached() == [f"{source.sha256}.image"]


async def test_clones_are_files_of_their_own(directory: DirectoryHost, storage: DirectoryStorage) -> None:
    source = directory.publish("image", CONTENT)
    first, second = [await made(storage, directory.pool, volume(source, size_bytes=MIB)) for _ in range(2)]
    assert isinstance(first.attachment, FileAttachment)
    first.attachment.path.write_bytes(b"the guest's")
    assert content_of(second) == CONTENT
    assert content_of(await made(storage, directory.pool, volume(source, size_bytes=MIB))) == CONTENT


async def test_an_image_without_a_checksum_is_asked_for_each_time_and_never_kept(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    source = HttpImage(directory.publish("image", CONTENT).url)
    assert content_of(await made(storage, directory.pool, volume(source, size_bytes=MIB))) == CONTENT
    assert directory.cached() == []
    directory.publish("image", CONTENT[::-1])
    assert content_of(await made(storage, directory.pool, volume(source, size_bytes=MIB))) == CONTENT[::-1]


async def test_who_gives_up_does_not_end_the_download_of_the_others(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    source = directory.publish("image", CONTENT)
    directory.server.faults.stall = stall = threading.Event()
    kept, given_up = volume(source), volume(source)
    for clone in (kept, given_up):
        await storage.create(directory.pool, clone)
    await until_asked(directory, 1)
    await storage.delete(directory.pool, given_up.uid)
    stall.set()
    assert (await settled(storage, directory.pool, kept.uid)).state is VolumeState.READY
    assert await storage.observe(directory.pool, given_up.uid) == NO_VOLUME
    assert len(directory.server.requests) == 1


async def test_who_comes_when_the_last_one_gives_up_gets_the_image_all_the_same(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    for source in (directory.publish("image", CONTENT), HttpImage(directory.server.url("image"))):
        directory.server.faults.stall = stall = threading.Event()
        directory.server.faults.stall_after_bytes = MIB // 2
        directory.server.requests.clear()
        given_up, late = volume(source, size_bytes=MIB), volume(source, size_bytes=MIB)
        await storage.create(directory.pool, given_up)
        await until_asked(directory, 1)
        await asyncio.gather(storage.delete(directory.pool, given_up.uid), storage.create(directory.pool, late))
        directory.server.faults.stall = None
        stall.set()
        assert content_of(await settled(storage, directory.pool, late.uid)) == CONTENT


async def test_progress_is_shown_as_bytes_come(directory: DirectoryHost, storage: DirectoryStorage) -> None:
    desired = volume(directory.publish("image", CONTENT))
    directory.server.faults.stall = stall = threading.Event()
    directory.server.faults.stall_after_bytes = MIB // 2
    await storage.create(directory.pool, desired)
    async with asyncio.timeout(10):
        while (await storage.observe(directory.pool, desired.uid)).progress_percent != 40:
            await asyncio.sleep(0.005)
    stall.set()
    seen = await settled(storage, directory.pool, desired.uid)
    assert (seen.state, seen.progress_percent) == (VolumeState.READY, None)


async def test_a_server_that_hangs_delays_no_other_volume(directory: DirectoryHost, storage: DirectoryStorage) -> None:
    slow = volume(directory.publish("slow", CONTENT))
    directory.server.faults.stall = stall = threading.Event()
    await storage.create(directory.pool, slow)
    await until_asked(directory, 1)
    directory.server.faults.stall = None
    assert (await made(storage, directory.pool, volume(directory.publish("quick", b"x")))).state is VolumeState.READY
    assert (await storage.observe(directory.pool, slow.uid)).state is VolumeState.CREATING
    stall.set()
    assert (await settled(storage, directory.pool, slow.uid)).state is VolumeState.READY


async def test_the_cache_keeps_what_was_used_last_and_no_more_than_it_may(directory: DirectoryHost) -> None:
    limits = replace(QUICK, max_cache_bytes=2 * MIB + MIB // 2)
    sources = [directory.publish(f"image-{n}", bytes([n + 1]) * MIB) for n in range(3)]
    async with directory.open(limits=limits) as storage:
        for n in (0, 1):
            await made(storage, directory.pool, volume(sources[n]))
            make_older(directory.cache, by_s=100 - n)
        await made(storage, directory.pool, volume(sources[0]))
        await made(storage, directory.pool, volume(sources[2]))
        assert directory.cached() == sorted(f"{sources[n].sha256}.image" for n in (0, 2))
        assert len(directory.server.requests) == 3


async def test_downloads_that_nobody_goes_on_with_take_room_of_the_cache_and_go_first(
    directory: DirectoryHost,
) -> None:
    limits = replace(QUICK, max_cache_bytes=2 * MIB)
    directory.server.faults.stall = stall = threading.Event()
    directory.server.faults.stall_after_bytes = 2 * MIB
    async with directory.open(limits=limits) as storage:
        for n in range(3):
            abandoned = volume(directory.publish(f"abandoned-{n}", bytes([n + 1]) * 4 * MIB))
            await storage.create(directory.pool, abandoned)
            async with asyncio.timeout(10):
                while (await storage.observe(directory.pool, abandoned.uid)).progress_percent != 40:
                    await asyncio.sleep(0.005)
            await storage.delete(directory.pool, abandoned.uid)
            make_older(directory.cache, by_s=100)
            assert taken_bytes(directory.cache) <= 2 * MIB + 8192
        directory.server.faults.stall = None
        stall.set()
        source = directory.publish("image", CONTENT)
        await made(storage, directory.pool, volume(source))
        assert f"{source.sha256}.image" in directory.cached()
        assert taken_bytes(directory.cache) <= 2 * MIB + 8192


async def test_what_is_in_use_is_kept_however_little_the_cache_may_hold(directory: DirectoryHost) -> None:
    limits = replace(QUICK, max_cache_bytes=0)
    cache = ImageCache(directory.cache, AddressPolicy([directory.server.address]), limits)
    used, coming, other = (directory.publish(name, name.encode() * MIB) for name in ("used", "coming", "other"))
    async with cache.image(used, ignore) as path:
        directory.server.faults.stall = stall = threading.Event()
        directory.server.faults.stall_after_bytes = MIB
        begun = asyncio.Event()
        download = asyncio.create_task(through(cache, coming, lambda received, _: begun.set() if received else None))
        async with asyncio.timeout(10):
            await begun.wait()
        directory.server.faults.stall = None
        await through(cache, other, ignore)
        assert f"{other.sha256}.image" not in directory.cached()
        assert path.read_bytes() == b"used" * MIB
        stall.set()
        assert await download == b"coming" * MIB
    assert len(directory.server.requests) == 3
    assert directory.cached() == []


def ignore(_received: int, _total: int | None) -> None:
    """No progress is shown."""


async def through(cache: ImageCache, source: HttpImage, progress: Progress) -> bytes:
    async with cache.image(source, progress) as path:
        return await asyncio.to_thread(path.read_bytes)


async def test_the_cache_is_its_owners_alone(directory: DirectoryHost, storage: DirectoryStorage) -> None:
    await made(storage, directory.pool, volume(directory.publish("image", CONTENT)))
    assert directory.cache.stat().st_mode & 0o777 == 0o700
    assert pool_folder(directory.pool).exists()


async def test_one_content_under_two_urls_is_kept_once(directory: DirectoryHost, storage: DirectoryStorage) -> None:
    sources = [directory.publish(name, CONTENT) for name in ("one", "two")]
    clones = [volume(source, size_bytes=MIB) for source in sources]
    for clone in clones:
        await storage.create(directory.pool, clone)
    for clone in clones:
        assert content_of(await settled(storage, directory.pool, clone.uid)) == CONTENT
    assert directory.cached() == [f"{hashlib.sha256(CONTENT).hexdigest()}.image"]


def make_older(cache: Path, *, by_s: float) -> None:
    """As if all that is cached had been used that much earlier."""
    for path in cache.iterdir():
        used_at = path.stat().st_mtime - by_s
        os.utime(path, (used_at, used_at))


def taken_bytes(cache: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in cache.iterdir())
