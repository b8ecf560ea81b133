"""Two agents over one folder, each with a cache of its own, and one volume that both have to do with."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from tests.drivers.storage.directory_host import MIB, DirectoryHost, failure_of, made, settled, volume
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.storage.contract import NO_VOLUME, Blank, DesiredVolume, VolumeState
from virtplane_drivers.storage.directory import DirectoryStorage

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
async def elsewhere(directory: DirectoryHost) -> AsyncIterator[DirectoryStorage]:
    """The driver of another agent."""
    async with directory.open(cache=directory.folder / "another-cache") as opened:
        yield opened


async def held_up(
    directory: DirectoryHost, storage: DirectoryStorage, disk_format: DiskFormat = DiskFormat.RAW
) -> tuple[DesiredVolume, threading.Event]:
    """A volume whose image does not come before the event is set."""
    desired = volume(directory.publish("image", CONTENT), size_bytes=MIB, disk_format=disk_format)
    stall = directory.server.faults.stall = threading.Event()
    await storage.create(directory.pool, desired)
    async with asyncio.timeout(10):
        while not directory.server.requests:
            await asyncio.sleep(0.005)
    directory.server.faults.stall = None
    return desired, stall


@pytest.mark.parametrize("disk_format", DiskFormat)
async def test_two_agents_that_make_one_volume_at_once_make_one_whole_volume(
    directory: DirectoryHost, storage: DirectoryStorage, elsewhere: DirectoryStorage, disk_format: DiskFormat
) -> None:
    for source in (Blank(), Blank(), Blank(), directory.publish("image", CONTENT)):
        desired = volume(source, size_bytes=MIB, disk_format=disk_format)
        await asyncio.gather(*(driver.create(directory.pool, desired) for driver in (storage, elsewhere)))
        one, other = [await settled(driver, directory.pool, desired.uid) for driver in (storage, elsewhere)]
        assert one == other
        assert (one.state, one.size_bytes) == (VolumeState.READY, MIB)
        assert directory.files() == [f"{desired.uid}.{disk_format.value}"]
        await storage.delete(directory.pool, desired.uid)
        assert await elsewhere.observe(directory.pool, desired.uid) == NO_VOLUME


async def test_what_one_agent_made_the_other_sees_and_leaves(
    directory: DirectoryHost, storage: DirectoryStorage, elsewhere: DirectoryStorage
) -> None:
    desired = volume(Blank())
    before = await made(storage, directory.pool, desired)
    assert await elsewhere.observe(directory.pool, desired.uid) == before
    assert await made(elsewhere, directory.pool, desired) == before


async def test_a_job_that_lives_is_not_taken_for_a_killed_one(
    directory: DirectoryHost, storage: DirectoryStorage, elsewhere: DirectoryStorage
) -> None:
    desired, stall = await held_up(directory, storage)
    seen = await made(elsewhere, directory.pool, desired)
    assert isinstance(seen.attachment, FileAttachment), seen
    seen.attachment.path.write_bytes(b"the guest's".ljust(MIB))
    stall.set()
    assert (await settled(storage, directory.pool, desired.uid)).state is VolumeState.READY
    assert seen.attachment.path.read_bytes().startswith(b"the guest's")
    assert directory.files() == [f"{desired.uid}.raw"]


@pytest.mark.parametrize("disk_format", DiskFormat)
async def test_a_volume_deleted_by_one_agent_does_not_come_back_by_the_job_of_another(
    directory: DirectoryHost, storage: DirectoryStorage, elsewhere: DirectoryStorage, disk_format: DiskFormat
) -> None:
    desired, stall = await held_up(directory, storage, disk_format)
    await elsewhere.delete(directory.pool, desired.uid)
    assert directory.files() == []
    stall.set()
    seen = await settled(storage, directory.pool, desired.uid)
    assert failure_of(seen) == "Deleted"
    assert directory.files() == []
    assert await elsewhere.observe(directory.pool, desired.uid) == NO_VOLUME


async def test_a_volume_made_again_by_another_agent_stays_the_one_that_it_made(
    directory: DirectoryHost, storage: DirectoryStorage, elsewhere: DirectoryStorage
) -> None:
    desired, stall = await held_up(directory, storage)
    await elsewhere.delete(directory.pool, desired.uid)
    seen = await made(elsewhere, directory.pool, volume(Blank(), size_bytes=2 * MIB, uid=desired.uid))
    stall.set()
    assert await settled(storage, directory.pool, desired.uid) == seen
    assert seen.size_bytes == 2 * MIB
    assert directory.files() == [f"{desired.uid}.raw"]
