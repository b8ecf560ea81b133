"""What every storage driver keeps, tried on each of them. The directory driver's files are real."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import MIB, made, settled, volume
from tests.drivers.storage.pools import HOSTS, Host
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.storage.contract import NO_VOLUME, Blank, StorageDriver, VolumeState


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    with HOSTS[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture
async def driver(host: Host) -> AsyncIterator[StorageDriver]:
    async with host.open() as opened:
        yield opened


async def test_a_volume_that_nobody_asked_for_is_absent(host: Host, driver: StorageDriver) -> None:
    assert await driver.observe(host.pool, "nobody") == NO_VOLUME
    await driver.delete(host.pool, "nobody")
    await driver.delete(host.pool, "nobody")
    assert await driver.observe(host.pool, "nobody") == NO_VOLUME


@pytest.mark.parametrize("disk_format", DiskFormat)
async def test_a_made_volume_has_the_size_and_the_format_that_were_asked_for(
    host: Host, driver: StorageDriver, disk_format: DiskFormat
) -> None:
    desired = volume(Blank(), size_bytes=3 * MIB + 512, disk_format=disk_format)
    seen = await made(driver, host.pool, desired)
    assert (seen.state, seen.size_bytes, seen.format) == (VolumeState.READY, 3 * MIB + 512, disk_format)
    assert seen.attachment is not None
    assert seen.failure is None


async def test_create_leaves_a_made_volume_as_it_is(host: Host, driver: StorageDriver) -> None:
    desired = volume(Blank())
    before = await made(driver, host.pool, desired)
    other_format = replace(desired, size_bytes=desired.size_bytes * 2, format=DiskFormat.QCOW2)
    assert await made(driver, host.pool, desired) == before
    assert await made(driver, host.pool, other_format) == before


async def test_a_volume_is_creating_until_its_job_ends_also_when_asked_for_again(
    host: Host, driver: StorageDriver
) -> None:
    with host.held():
        desired = host.slow_volume()
        await driver.create(host.pool, desired)
        for _ in range(3):
            seen = await driver.observe(host.pool, desired.uid)
            assert (seen.state, seen.attachment, seen.failure) == (VolumeState.CREATING, None, None)
            await driver.create(host.pool, desired)


async def test_deleting_a_volume_in_the_making_leaves_nothing_of_it(host: Host, driver: StorageDriver) -> None:
    with host.held():
        desired = host.slow_volume()
        await driver.create(host.pool, desired)
        await host.begun()
        await driver.delete(host.pool, desired.uid)
        assert await driver.observe(host.pool, desired.uid) == NO_VOLUME
    assert (await made(driver, host.pool, desired)).state is VolumeState.READY


async def test_deleting_a_volume_before_its_job_took_a_step_leaves_nothing_of_it(
    host: Host, driver: StorageDriver
) -> None:
    desired = volume(Blank())
    await driver.create(host.pool, desired)
    await driver.delete(host.pool, desired.uid)
    assert await driver.observe(host.pool, desired.uid) == NO_VOLUME
    assert (await made(driver, host.pool, desired)).state is VolumeState.READY


async def test_a_deleted_volume_is_absent_and_can_be_made_again_under_its_uid(
    host: Host, driver: StorageDriver
) -> None:
    desired = volume(Blank())
    for size_bytes in (MIB, 2 * MIB):
        seen = await made(driver, host.pool, replace(desired, size_bytes=size_bytes))
        assert (seen.state, seen.size_bytes) == (VolumeState.READY, size_bytes)
        await driver.delete(host.pool, desired.uid)
        await driver.delete(host.pool, desired.uid)
        assert await driver.observe(host.pool, desired.uid) == NO_VOLUME


async def test_a_volume_that_failed_says_why_and_begins_anew_when_asked_again(
    host: Host, driver: StorageDriver
) -> None:
    desired = host.broken_volume()
    seen = await made(driver, host.pool, desired)
    assert (seen.state, seen.attachment) == (VolumeState.FAILED, None)
    assert seen.failure is not None
    assert seen.failure.reason == "SourceNotFound"
    assert seen.failure.message
    assert seen.failure.retry_after_s == 60.0
    host.mend(desired)
    assert (await driver.observe(host.pool, desired.uid)).state is VolumeState.FAILED
    assert (await made(driver, host.pool, desired)).state is VolumeState.READY


async def test_a_volume_that_failed_is_absent_once_deleted(host: Host, driver: StorageDriver) -> None:
    desired = host.broken_volume()
    assert (await made(driver, host.pool, desired)).state is VolumeState.FAILED
    await driver.delete(host.pool, desired.uid)
    assert await driver.observe(host.pool, desired.uid) == NO_VOLUME


async def test_the_next_driver_finds_what_is_made(host: Host) -> None:
    desired = volume(Blank(), disk_format=DiskFormat.QCOW2)
    async with host.open() as driver:
        before = await made(driver, host.pool, desired)
        assert before.state is VolumeState.READY
    async with host.open() as driver:
        assert await driver.observe(host.pool, desired.uid) == before
        assert await made(driver, host.pool, desired) == before


async def test_the_next_driver_goes_on_when_asked_with_what_was_being_made(host: Host) -> None:
    with host.held():
        desired = host.slow_volume()
        async with host.open() as driver:
            await driver.create(host.pool, desired)
            await host.begun()
            assert (await driver.observe(host.pool, desired.uid)).state is VolumeState.CREATING
    async with host.open() as driver:
        assert (await driver.observe(host.pool, desired.uid)).state in (None, VolumeState.FAILED)
        assert (await made(driver, host.pool, desired)).state is VolumeState.READY


async def test_the_end_of_a_job_is_hinted_at_whether_it_failed_or_not(host: Host, driver: StorageDriver) -> None:
    good, broken = volume(Blank()), host.broken_volume()
    waiting = {good.uid: VolumeState.READY, broken.uid: VolumeState.FAILED}
    hints = driver.events()
    for desired in (good, broken):
        await driver.create(host.pool, desired)
    async with asyncio.timeout(10):
        async for uid in hints:
            if (await driver.observe(host.pool, uid)).state is waiting[uid]:
                del waiting[uid]
            if not waiting:
                break


async def test_nothing_is_said_of_a_pool_that_cannot_be_reached(host: Host, driver: StorageDriver) -> None:
    desired = volume(Blank())
    before = await made(driver, host.pool, desired)
    with host.unreachable():
        for ask in (
            driver.probe(host.pool),
            driver.observe(host.pool, desired.uid),
            driver.create(host.pool, volume(Blank())),
            driver.delete(host.pool, desired.uid),
        ):
            with pytest.raises(Unavailable) as unavailable:
                await ask
            assert str(unavailable.value)
            assert unavailable.value.retry_after_s > 0
    assert await driver.observe(host.pool, desired.uid) == before


async def test_verbs_of_two_volumes_do_not_meet(host: Host, driver: StorageDriver) -> None:
    volumes = [volume(Blank(), size_bytes=(n + 1) * MIB) for n in range(4)]
    await asyncio.gather(*(driver.create(host.pool, desired) for desired in volumes))
    await asyncio.gather(*(driver.delete(host.pool, desired.uid) for desired in volumes[:2]))
    seen = [await settled(driver, host.pool, desired.uid) for desired in volumes]
    assert [(one.state, one.size_bytes) for one in seen] == [
        (None, None),
        (None, None),
        (VolumeState.READY, 3 * MIB),
        (VolumeState.READY, 4 * MIB),
    ]


async def test_one_uid_in_two_pools_is_two_volumes(host: Host, driver: StorageDriver) -> None:
    desired = volume(Blank())
    await made(driver, host.pool, desired)
    assert await driver.observe(host.other_pool, desired.uid) == NO_VOLUME
    await made(driver, host.other_pool, replace(desired, size_bytes=MIB))
    await driver.delete(host.pool, desired.uid)
    seen = await driver.observe(host.other_pool, desired.uid)
    assert (seen.state, seen.size_bytes) == (VolumeState.READY, MIB)


async def test_a_pool_has_room(host: Host, driver: StorageDriver) -> None:
    facts = await driver.probe(host.pool)
    assert 0 < facts.available_bytes <= facts.capacity_bytes
    assert driver.name == host.pool.type
