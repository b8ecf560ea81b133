"""A pool whose file system hangs is told of, and others are served. The hang is a double: a FIFO is read instead."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.blocking import Questions
from virtplane_drivers.storage.contract import Blank, DesiredVolume, Pool, VolumeState
from virtplane_drivers.storage.directory import DirectoryStorage
from virtplane_drivers.storage.directory import driver as directory_driver


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that no look into it comes back from, until its FIFO is written to."""
    folder, fifo = tmp_path / "silent", tmp_path / "fifo"
    folder.mkdir()
    os.mkfifo(fifo)
    real = {name: getattr(directory_driver, name) for name in ("_probe", "_made", "_remove")}

    def hung(name: str) -> Any:
        def look(path: Path, *more: str) -> Any:
            if path == folder and fifo.exists():
                fifo.read_bytes()
            return real[name](path, *more)

        return look

    for name in real:
        monkeypatch.setattr(directory_driver, name, hung(name))
    return folder


def pool(folder: Path) -> Pool:
    return Pool(f"{folder.name}-uid", folder.name, "directory", directory=folder)


async def test_a_silent_pool_is_told_of_the_others_are_served_and_it_heals(silent: Path, tmp_path: Path) -> None:
    (tmp_path / "well").mkdir()
    well, hung = pool(tmp_path / "well"), pool(silent)
    wanted = DesiredVolume("vol-1", 1 << 20, DiskFormat.RAW, Blank())
    async with DirectoryStorage(cache_folder=tmp_path / "cache") as storage:
        storage._questions = Questions(timeout_s=0.1)
        questions = (
            lambda: storage.probe(hung),
            lambda: storage.observe(hung, "vol-1"),
            lambda: storage.create(hung, wanted),
            lambda: storage.delete(hung, "vol-1"),
        )
        for ask in questions:
            with pytest.raises(Unavailable) as told:
                await ask()
            assert told.value.reason == Reason.POOL_SILENT
        await storage.create(well, wanted)
        async with asyncio.timeout(10):
            while (await storage.observe(well, "vol-1")).state is not VolumeState.READY:
                await asyncio.sleep(0.02)
        fifo = tmp_path / "fifo"
        writer = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)
        fifo.unlink()
        os.close(writer)
        async with asyncio.timeout(10):
            while True:
                try:
                    await storage.create(hung, wanted)
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)
            while (await storage.observe(hung, "vol-1")).state is not VolumeState.READY:
                await asyncio.sleep(0.02)
