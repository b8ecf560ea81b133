"""A pool on a real file system that hangs: what waits for it cannot be killed, and holds up nothing else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import DirectoryHost, made, settled, volume
from tests.drivers.storage.hanging_pool import HangingPool, hanging_pool, needs_fuse
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.blocking import Questions
from virtplane_drivers.storage.contract import NO_VOLUME, Blank, DesiredVolume, Pool, StorageDriver, VolumeState
from virtplane_drivers.storage.directory import DirectoryStorage, jobs, processes
from virtplane_drivers.storage.directory import driver as directory_driver

pytestmark = needs_fuse


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_DEATH_TIMEOUT_S", 0.2)
    monkeypatch.setattr(jobs, "_LEAVE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(jobs, "_END_TIMEOUT_S", 0.2)
    monkeypatch.setattr(directory_driver, "ANSWER_TIMEOUT_S", 0.5)


@pytest.fixture
async def hanging(tmp_path: Path) -> AsyncIterator[HangingPool]:
    with hanging_pool(tmp_path) as pool:
        yield pool


def pool_on(hanging: HangingPool) -> Pool:
    return Pool(uid="hanging", name="hanging", type="directory", directory=hanging.folder)


def opened(directory: DirectoryHost) -> DirectoryStorage:
    storage = directory.open()
    storage._questions = Questions(timeout_s=0.5)
    return storage


async def stuck_job(storage: StorageDriver, hanging: HangingPool) -> DesiredVolume:
    """A volume whose making waits for the pool, with its file there already."""
    desired = volume(Blank(), disk_format=DiskFormat.QCOW2)
    await storage.create(pool_on(hanging), desired)
    async with asyncio.timeout(10):
        while not list(hanging.behind.glob("*.partial")):
            await asyncio.sleep(0)
    await asyncio.to_thread(hanging.hang)
    return desired


async def silent(ask: object) -> bool:
    try:
        await ask  # type: ignore[misc]
    except Unavailable as unavailable:
        return unavailable.reason == Reason.POOL_SILENT
    return False


async def test_it_is_a_pool_like_any_other_while_it_answers(directory: DirectoryHost, hanging: HangingPool) -> None:
    async with opened(directory) as storage:
        for disk_format in DiskFormat:
            desired = volume(Blank(), disk_format=disk_format)
            assert (await made(storage, pool_on(hanging), desired)).state is VolumeState.READY
            await storage.delete(pool_on(hanging), desired.uid)
            assert await storage.observe(pool_on(hanging), desired.uid) == NO_VOLUME
    assert list(hanging.behind.iterdir()) == []


async def test_a_job_that_hangs_is_told_of_holds_up_no_other_pool_and_goes_on_when_its_pool_answers(
    directory: DirectoryHost, hanging: HangingPool
) -> None:
    async with opened(directory) as storage:
        desired = await stuck_job(storage, hanging)
        assert await silent(storage.observe(pool_on(hanging), desired.uid))
        assert await silent(storage.probe(pool_on(hanging)))
        assert (await made(storage, directory.pool, volume(Blank()))).state is VolumeState.READY
        await asyncio.to_thread(hanging.answer)
        async with asyncio.timeout(10):
            while await silent(storage.observe(pool_on(hanging), desired.uid)):
                await asyncio.sleep(0.02)
        assert (await settled(storage, pool_on(hanging), desired.uid)).state is VolumeState.READY


async def test_a_child_that_waits_to_close_the_pool_s_files_does_not_stop_the_agent(
    directory: DirectoryHost, tmp_path: Path
) -> None:
    """A fork waits for its child, which first closes what it inherits: here the files of a pool that hangs."""
    with hanging_pool(tmp_path, flushes=True) as hanging:
        async with opened(directory) as storage:
            await stuck_job(storage, hanging)
            await storage.create(directory.pool, volume(Blank()))
            async with asyncio.timeout(5):
                assert (await storage.probe(directory.pool)).capacity_bytes > 0
            await asyncio.to_thread(hanging.answer)


async def test_a_volume_whose_job_hangs_is_deleted_once_its_pool_answers(
    directory: DirectoryHost, hanging: HangingPool
) -> None:
    async with opened(directory) as storage:
        desired = await stuck_job(storage, hanging)
        for _ in range(3):
            assert await silent(storage.delete(pool_on(hanging), desired.uid))
        await asyncio.to_thread(hanging.answer)
        async with asyncio.timeout(10):
            while await silent(storage.delete(pool_on(hanging), desired.uid)):
                await asyncio.sleep(0.02)
        assert await storage.observe(pool_on(hanging), desired.uid) == NO_VOLUME
        assert list(hanging.behind.iterdir()) == []


async def test_a_driver_is_left_while_a_job_hangs_and_the_next_one_makes_the_volume(
    directory: DirectoryHost, hanging: HangingPool
) -> None:
    async with opened(directory) as storage:
        desired = await stuck_job(storage, hanging)
        async with asyncio.timeout(5):
            await storage.__aexit__(None, None, None)
    await asyncio.to_thread(hanging.answer)
    async with opened(directory) as storage:
        assert (await made(storage, pool_on(hanging), desired)).state is VolumeState.READY
