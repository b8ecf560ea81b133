"""The hosts that the storage contract is tried on: one per driver, with volumes that are held up or fail when told."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from tests.drivers.storage.directory_host import DirectoryHost, pool_folder, served_images, volume
from virtplane_drivers.storage.contract import Blank, DesiredVolume, Failure, Pool, StorageDriver
from virtplane_drivers.storage.fake import FakeStorage, Faults

_HELD_S = 3600.0


class Host(Protocol):
    """A host with two pools, which outlives its driver."""

    pool: Pool
    other_pool: Pool

    def open(self) -> AbstractAsyncContextManager[StorageDriver]:
        """A driver of this host, not yet entered."""
        ...

    def slow_volume(self) -> DesiredVolume:
        """One whose making lasts as long as `held`, when it begins within."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """While it lasts no slow volume gets ready."""
        ...

    async def begun(self) -> None:
        """Returns once work on a held volume is under way."""
        ...

    def broken_volume(self) -> DesiredVolume:
        """One that cannot be made before `mend`."""
        ...

    def mend(self, desired: DesiredVolume) -> None:
        """A broken volume can be made from now on."""
        ...

    def unreachable(self) -> AbstractContextManager[None]:
        """While it lasts the first pool cannot be reached."""
        ...


class FakeHost:
    """Volumes in memory, in a state file between drivers."""

    def __init__(self, folder: Path) -> None:
        self.pool = Pool(uid="pool-1", name="fast", type="fake")
        self.other_pool = Pool(uid="pool-2", name="slow", type="fake")
        self._state_file = folder / "volumes.json"
        self._faults = Faults()
        self._create_s = 0.0
        self._drivers: list[FakeStorage] = []

    def open(self) -> FakeStorage:
        self._drivers.append(FakeStorage(create_s=self._create_s, faults=self._faults, state_file=self._state_file))
        return self._drivers[-1]

    def slow_volume(self) -> DesiredVolume:
        return volume(Blank())

    @contextmanager
    def held(self) -> Iterator[None]:
        self._set_create_s(_HELD_S)
        yield
        self._set_create_s(0.0)

    async def begun(self) -> None:
        """The timer runs from the call on."""

    def _set_create_s(self, create_s: float) -> None:
        self._create_s = create_s
        for driver in self._drivers:
            driver.create_s = create_s

    def broken_volume(self) -> DesiredVolume:
        desired = volume(Blank())
        self._faults.fail_create(desired.uid, Failure("SourceNotFound", "the image is not there", 60.0), times=1)
        return desired

    def mend(self, desired: DesiredVolume) -> None:
        """It failed once, as planned."""

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self._faults.unreachable = "the array is off"
        yield
        self._faults.unreachable = None


class FolderHost(DirectoryHost):
    """Real files, copied from a real web server by a real qemu-img."""

    def slow_volume(self) -> DesiredVolume:
        return volume(self.publish("slow.img", b"slow" * 1024))

    @contextmanager
    def held(self) -> Iterator[None]:
        self.server.faults.stall = stall = threading.Event()
        yield
        self.server.faults.stall = None
        stall.set()

    async def begun(self) -> None:
        async with asyncio.timeout(10):
            while not self.server.requests:
                await asyncio.sleep(0.005)

    def broken_volume(self) -> DesiredVolume:
        source = self.publish("late.img", b"late" * 1024)
        (self.server.folder / "late.img").rename(self.server.folder / "not-yet.img")
        return volume(source)

    def mend(self, desired: DesiredVolume) -> None:
        (self.server.folder / "not-yet.img").rename(self.server.folder / "late.img")

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        folder = pool_folder(self.pool)
        away = folder.rename(folder.with_name("away"))
        folder.write_bytes(b"no folder")
        yield
        folder.unlink()
        away.rename(folder)


@contextmanager
def _fake(folder: Path) -> Iterator[FakeHost]:
    yield FakeHost(folder)


@contextmanager
def _directory(folder: Path) -> Iterator[FolderHost]:
    with served_images(folder) as server:
        yield FolderHost(folder, server)


HOSTS: dict[str, Callable[[Path], AbstractContextManager[Host]]] = {"fake": _fake, "directory": _directory}
