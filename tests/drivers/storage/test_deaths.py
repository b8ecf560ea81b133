"""Drivers that are killed or told to stop in the middle, and what is left of their work and of their children."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.drivers.storage.child_processes import children_at, end_children, own_children, until_child, until_no_child
from tests.drivers.storage.directory_host import DirectoryHost, made, pool_folder, volume
from tests.drivers.storage.programs.running import start
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.storage.contract import NO_VOLUME, DesiredVolume, HttpImage, VolumeState
from virtplane_drivers.storage.directory import DirectoryStorage
from virtplane_drivers.storage.directory.processes import KEPT_OUTPUT_BYTES, Limits, OutOfTime, run

CONTENT = bytes(range(256)) * 4096
HALF = len(CONTENT) // 2
QUARTER_S = Limits(wall_s=0.25, cpu_s=10)


@pytest.fixture(autouse=True)
def _no_child_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    end_children(tmp_path)


@asynccontextmanager
async def another_agent(directory: DirectoryHost, desired: DesiredVolume) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that makes the volume; killed at the end of the block, if it still runs."""
    assert isinstance(desired.source, HttpImage)
    process = await start(
        "maker",
        pool=directory.pool.directory,
        cache=directory.cache,
        url=desired.source.url,
        sha256=desired.source.sha256,
        uid=desired.uid,
        allowed_source=directory.server.address,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def stuck_image(directory: DirectoryHost) -> Path:
    """A FIFO where the cache has the image: who opens it waits for a writer."""
    source = directory.publish("image", CONTENT)
    directory.cache.mkdir()
    fifo = directory.cache / f"{source.sha256}.image"
    os.mkfifo(fifo)
    return fifo


async def until_stuck(fifo: Path, program: str) -> None:
    """Returns once that program waits for the image; the inspector before it is shown some."""
    await until_child(fifo.parent, "inspector")
    if program != "inspector":
        await asyncio.to_thread(_feed, fifo)
        await until_child(fifo.parent, program)


def _feed(fifo: Path) -> None:
    try:
        with fifo.open("wb") as file:
            file.write(CONTENT)
    except BrokenPipeError:
        return  # it has seen enough


async def check_made_by_the_next(directory: DirectoryHost, desired: DesiredVolume) -> None:
    async with directory.open() as storage:
        assert await storage.observe(directory.pool, desired.uid) == NO_VOLUME
        seen = await made(storage, directory.pool, desired)
        assert isinstance(seen.attachment, FileAttachment), seen
        assert seen.attachment.path.read_bytes()[: len(CONTENT)] == CONTENT
    assert directory.files() == [f"{desired.uid}.raw"]


async def test_the_program_makes_a_volume_when_left_alone(directory: DirectoryHost) -> None:
    desired = volume(directory.publish("image", CONTENT))
    async with another_agent(directory, desired) as process:
        stdout, _ = await process.communicate()
    assert stdout.decode().strip() == VolumeState.READY
    assert directory.files() == [f"{desired.uid}.raw"]


@pytest.mark.parametrize("received_bytes", [100, HALF])
async def test_what_a_driver_killed_in_its_download_left_is_cleared_away_and_gone_on_with(
    directory: DirectoryHost, received_bytes: int
) -> None:
    desired = volume(directory.publish("image", CONTENT))
    directory.server.faults.stall = stall = threading.Event()
    directory.server.faults.stall_after_bytes = received_bytes
    async with another_agent(directory, desired) as process, asyncio.timeout(20):
        while received_bytes not in [path.stat().st_size for path in directory.cache.glob("*.partial")]:
            await asyncio.sleep(0.01)
        process.kill()
        await process.wait()
    left = [name.rpartition(".")[2] for name in directory.files()]
    assert left == ["lock", "partial"]
    directory.server.faults.stall = None
    stall.set()
    await check_made_by_the_next(directory, desired)
    assert [request.range for request in directory.server.requests] == ["", f"bytes={received_bytes}-"]


@pytest.mark.parametrize("program", ["inspector", "qemu-img"])
async def test_children_die_with_a_killed_driver_and_the_next_one_finishes(
    directory: DirectoryHost, program: str
) -> None:
    fifo = stuck_image(directory)
    desired = volume(directory.publish("image", CONTENT))
    async with another_agent(directory, desired) as process:
        await until_stuck(fifo, program)
        process.kill()
        await process.wait()
    await until_no_child(directory.folder)
    assert directory.files() != []
    fifo.unlink()
    await check_made_by_the_next(directory, desired)


@pytest.mark.parametrize("program", ["inspector", "qemu-img"])
async def test_no_child_outlives_a_deleted_volume(
    directory: DirectoryHost, storage: DirectoryStorage, program: str
) -> None:
    before = own_children()
    fifo = stuck_image(directory)
    desired = volume(directory.publish("image", CONTENT))
    await storage.create(directory.pool, desired)
    await until_stuck(fifo, program)
    await storage.delete(directory.pool, desired.uid)
    assert children_at(directory.folder) == []
    assert own_children() == before
    assert directory.files() == []
    assert await storage.observe(directory.pool, desired.uid) == NO_VOLUME


async def test_no_child_outlives_its_driver(directory: DirectoryHost) -> None:
    before = own_children()
    fifo = stuck_image(directory)
    desired = volume(directory.publish("image", CONTENT))
    async with directory.open() as storage:
        await storage.create(directory.pool, desired)
        await until_stuck(fifo, "qemu-img")
    assert children_at(directory.folder) == []
    assert own_children() == before
    assert directory.files() == []


async def test_a_child_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    before = own_children()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OutOfTime, match="took longer"):
        await run(["cat", str(tmp_path / "fifo")], QUARTER_S)
    assert own_children() == before


async def test_of_a_childs_output_only_the_end_is_kept() -> None:
    script = f"import sys; sys.stdout.write('x' * {KEPT_OUTPUT_BYTES * 5} + 'the end'); sys.exit(3)"
    done = await run(["python3", "-c", script], Limits(wall_s=20.0, cpu_s=10))
    assert done.exit_status == 3
    assert len(done.stdout) == KEPT_OUTPUT_BYTES
    assert done.stdout.endswith("the end")


async def test_a_child_that_takes_too_much_is_ended_by_the_kernel(tmp_path: Path) -> None:
    greedy = await run(["python3", "-c", "bytes(1 << 30)"], Limits(wall_s=20.0, cpu_s=10, address_space_bytes=1 << 28))
    assert greedy.exit_status == 1
    assert "MemoryError" in greedy.stderr
    busy = await run(["python3", "-c", "while True: pass"], Limits(wall_s=20.0, cpu_s=1))
    assert busy.exit_status < 0


MOMENTS: Mapping[str, Callable[[list[Path]], bool]] = {
    "the lock is there": bool,
    "the file is there": lambda files: any(path.suffix == ".partial" for path in files),
    "the file has bytes": lambda files: any(path.suffix == ".partial" and path.stat().st_size for path in files),
    "the file has its name": lambda files: any(path.suffix == ".raw" for path in files),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_what_bears_a_volumes_name_is_whole_whenever_its_maker_was_killed(
    directory: DirectoryHost, moment: str
) -> None:
    desired = volume(directory.publish("image", CONTENT))
    folder = pool_folder(directory.pool)
    async with another_agent(directory, desired) as process, asyncio.timeout(20):
        while not _holds(MOMENTS[moment], folder):
            await asyncio.sleep(0)
        process.kill()
        await process.wait()
    path = folder / f"{desired.uid}.raw"
    if path.exists():
        assert path.read_bytes() == CONTENT.ljust(desired.size_bytes, b"\0")
        path.unlink()
    await check_made_by_the_next(directory, desired)


def _holds(condition: Callable[[list[Path]], bool], folder: Path) -> bool:
    try:
        return condition(list(folder.iterdir()))
    except FileNotFoundError:  # gone between the listing and the look
        return False
