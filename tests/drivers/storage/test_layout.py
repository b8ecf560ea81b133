"""The files of a pool: named by UIDs alone, followed nowhere, and gone when nobody works on them."""

import asyncio
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import MIB, DirectoryHost, failure_of, made, pool_folder, volume
from tests.drivers.storage.image_files import qemu_img
from tests.unix_sockets import bound
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.storage.contract import NO_VOLUME, Blank, Pool, VolumeState
from virtplane_drivers.storage.directory import DirectoryStorage
from virtplane_drivers.storage.directory.layout import begin_work

UID = "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"
NO_UIDS = ("", ".", "..", "../victim", "/etc/passwd", "a/b", "a.raw", ".a", "-a", "a b", "a\n", "a\0b", "ä", "a" * 64)


@pytest.mark.parametrize("uid", NO_UIDS, ids=[repr(uid[:20]) for uid in NO_UIDS])
async def test_what_could_be_a_path_names_no_volume(
    directory: DirectoryHost, storage: DirectoryStorage, uid: str
) -> None:
    victim = directory.folder / "victim.raw"
    victim.write_bytes(b"kept")
    with pytest.raises(Refused, match="cannot name"):
        await storage.observe(directory.pool, uid)
    with pytest.raises(Refused, match="cannot name"):
        await storage.create(directory.pool, volume(Blank(), uid=uid))
    with pytest.raises(Refused, match="cannot name"):
        await storage.delete(directory.pool, uid)
    assert victim.read_bytes() == b"kept"
    assert directory.files() == []


def _socket(path: Path) -> None:
    with bound(path):
        pass


def _over_a_backing_file(path: Path) -> None:
    victim = path.parent.parent / "victim.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-b", victim, "-F", "raw", path, str(MIB))


ODD_FILES: Mapping[str, Callable[[Path], object]] = {
    "a symbolic link": lambda path: path.symlink_to(path.parent.parent / "victim.raw"),
    "a symbolic link to nothing": lambda path: path.symlink_to("nothing"),
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "an empty file": Path.touch,
    "a file of another format": lambda path: path.write_bytes(b"no qcow2" * 100),
    "an image over a backing file": _over_a_backing_file,
}


@pytest.mark.parametrize("name", ODD_FILES)
async def test_an_odd_file_under_a_volumes_name_is_damage_is_not_followed_and_can_be_deleted(
    directory: DirectoryHost, storage: DirectoryStorage, name: str
) -> None:
    victim = directory.folder / "victim.raw"
    qemu_img("create", "-q", "-f", "qcow2", victim, str(MIB))
    before = victim.read_bytes()
    desired = volume(Blank(), disk_format=DiskFormat.QCOW2, uid=UID)
    ODD_FILES[name](pool_folder(directory.pool) / f"{UID}.qcow2")
    async with asyncio.timeout(5):
        seen = await made(storage, directory.pool, desired)
    assert failure_of(seen) == "Damaged"
    assert seen.failure is not None
    assert seen.failure.retry_after_s is None
    assert directory.files() == [f"{UID}.qcow2"]
    await storage.delete(directory.pool, UID)
    assert directory.files() == []
    assert victim.read_bytes() == before


async def test_a_folder_under_a_volumes_name_is_never_removed(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    folder = pool_folder(directory.pool) / f"{UID}.raw"
    folder.mkdir()
    (folder / "kept").touch()
    assert failure_of(await storage.observe(directory.pool, UID)) == "Damaged"
    with pytest.raises(Unavailable, match="directory"):
        await storage.delete(directory.pool, UID)
    assert (folder / "kept").exists()


async def test_links_under_the_names_of_unfinished_work_are_not_followed(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    victim = directory.folder / "victim.raw"
    victim.write_bytes(b"kept")
    folder = pool_folder(directory.pool)
    (folder / f".{UID}.aa.partial").symlink_to(victim)
    assert (await made(storage, directory.pool, volume(Blank(), uid=UID))).state is VolumeState.READY
    assert directory.files() == [f"{UID}.raw"]
    (folder / f".{UID}.bb.lock").symlink_to(victim)
    await storage.delete(directory.pool, UID)
    assert directory.files() == []
    assert victim.read_bytes() == b"kept"


async def test_a_job_clears_away_what_killed_jobs_left_and_nothing_else(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    folder = pool_folder(directory.pool)
    others = [f".{UID}x.aa.partial", f"{UID}0.raw", "notes.txt", f".{UID}"]
    for name in [f".{UID}.aa.partial", f".{UID}.aa.lock", f".{UID}.bb.lock", f".{UID}.cc.partial", *others]:
        (folder / name).write_bytes(b"x")
    assert (await made(storage, directory.pool, volume(Blank(), uid=UID))).state is VolumeState.READY
    assert directory.files() == sorted([f"{UID}.raw", *others])
    await storage.delete(directory.pool, UID)
    assert directory.files() == sorted(others)


async def test_a_job_leaves_alone_what_another_agent_works_on(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    elsewhere = begin_work(pool_folder(directory.pool), UID)
    elsewhere.path.write_bytes(b"half")
    assert (await made(storage, directory.pool, volume(Blank(), uid=UID))).state is VolumeState.READY
    assert elsewhere.path.read_bytes() == b"half"
    elsewhere.publish(DiskFormat.RAW)  # came second: the volume stays what it is
    elsewhere.discard()
    assert directory.files() == [f"{UID}.raw"]
    assert (await storage.observe(directory.pool, UID)).size_bytes == 4 * MIB


async def test_a_volume_deleted_while_its_job_begins_leaves_nothing(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    folder = pool_folder(directory.pool)
    for n in range(3000):  # so much to clear away that the job is still at it when the delete comes
        (folder / f".{UID}.{n:04}.partial").touch()
    await storage.create(directory.pool, volume(Blank(), uid=UID))
    async with asyncio.timeout(10):
        while len(os.listdir(folder)) == 3000:  # noqa: PTH208  # one call, and the job runs on
            await asyncio.sleep(0)
    await storage.delete(directory.pool, UID)
    assert directory.files() == []
    assert await storage.observe(directory.pool, UID) == NO_VOLUME
    assert (await made(storage, directory.pool, volume(Blank(), uid=UID))).state is VolumeState.READY
    assert directory.files() == [f"{UID}.raw"]


async def test_a_second_delete_does_not_disturb_the_clearing_away_of_the_first(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    folder = pool_folder(directory.pool)
    for n in range(3000):
        (folder / f".{UID}.{n:04}.partial").touch()
    await storage.create(directory.pool, volume(Blank(), uid=UID))
    async with asyncio.timeout(10):
        while len(os.listdir(folder)) == 3000:  # noqa: PTH208  # one call, and the job runs on
            await asyncio.sleep(0)
    first = asyncio.create_task(storage.delete(directory.pool, UID))
    for _ in range(5):  # until the job has heard of it, and waits for its thread
        await asyncio.sleep(0)
    await asyncio.gather(first, storage.delete(directory.pool, UID))
    assert directory.files() == []
    assert await storage.observe(directory.pool, UID) == NO_VOLUME


async def test_a_volume_whose_file_was_taken_away_is_absent_whatever_was_before(
    directory: DirectoryHost, storage: DirectoryStorage
) -> None:
    wrong = volume(replace(directory.publish("image", b"x"), sha256="0" * 64), uid=UID)
    assert failure_of(await made(storage, directory.pool, wrong)) == "ChecksumMismatch"
    assert (await made(storage, directory.pool, volume(Blank(), uid=UID))).state is VolumeState.READY
    (pool_folder(directory.pool) / f"{UID}.raw").unlink()
    assert await storage.observe(directory.pool, UID) == NO_VOLUME


def open_files() -> list[str]:
    """What this process has open, but for the look at it."""
    with os.scandir("/proc/self/fd") as entries:
        return sorted(os.readlink(entry) for entry in entries if entry.is_symlink() and entry.name.isdigit())  # noqa: PTH115


async def test_jobs_keep_no_descriptor(directory: DirectoryHost, storage: DirectoryStorage) -> None:
    broken = volume(replace(directory.publish("image", b"x"), sha256="0" * 64))
    await made(storage, directory.pool, broken)
    before = open_files()
    for _ in range(3):
        desired = volume(Blank())
        await made(storage, directory.pool, desired)
        await storage.delete(directory.pool, desired.uid)
        assert failure_of(await made(storage, directory.pool, broken)) == "ChecksumMismatch"
    assert open_files() == before


async def test_a_pools_folder_is_made_for_its_owner_alone(directory: DirectoryHost, storage: DirectoryStorage) -> None:
    folder = directory.folder / "new" / "pool"
    pool = Pool(uid="pool-3", name="new", type="directory", directory=folder)
    with pytest.raises(Unavailable, match="No such file"):
        await storage.observe(pool, UID)
    await storage.probe(pool)
    await storage.probe(pool)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (await made(storage, pool, volume(Blank(), uid=UID))).state is VolumeState.READY


async def test_a_pool_that_names_no_folder_is_unavailable(storage: DirectoryStorage) -> None:
    pool = Pool(uid="pool-3", name="new", type="directory")
    with pytest.raises(Unavailable, match="names no folder"):
        await storage.probe(pool)
