"""Volumes and downloads on file systems that are too small, or read-only, and what is left there.

Prints, for each case, how it ended and the names of the files that were left.
"""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.drivers.storage.directory_host import MIB, DirectoryHost, made, pool_folder, served_images, volume
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.storage.contract import Blank, DesiredVolume
from virtplane_drivers.storage.directory import DirectoryStorage

CONTENT = random.Random(1).randbytes(8 * MIB)


async def main(folder: Path) -> None:
    """The whole program."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: ASYNC221
    with served_images(folder) as server:
        host = DirectoryHost(folder, server)
        source = host.publish("image", CONTENT)
        volumes = {
            "raw": volume(source, size_bytes=8 * MIB),
            "qcow2": volume(source, size_bytes=8 * MIB, disk_format=DiskFormat.QCOW2),
            "blank qcow2": volume(Blank(), disk_format=DiskFormat.QCOW2),
        }
        found: dict[str, object] = {}
        pool = pool_folder(host.pool)
        async with host.open() as storage:
            with mounted(pool, "size=3m"):
                for name in ("raw", "qcow2"):
                    found[f"{name} in a small pool"] = [await outcome(host, storage, volumes[name]), host.files()]
                (pool / "ballast").write_bytes(bytes(3 * MIB - 3 * 4096))
                found["blank qcow2 in a full pool"] = [
                    await outcome(host, storage, volumes["blank qcow2"]),
                    host.files(),
                ]
                (pool / "ballast").unlink()
                remount(pool, "size=64m")
                found["after the pool was made larger"] = [
                    await outcome(host, storage, one) for one in volumes.values()
                ]
                made_file = pool / f"{volumes['raw'].uid}.raw"
                found["its content"] = made_file.read_bytes() == CONTENT
                remount(pool, "ro")
                found["a read-only pool"] = [await probed(host, storage), await outcome(host, storage, volume(source))]
        host.cache.rename(folder / "cache-before")
        host.cache.mkdir()
        with mounted(host.cache, "size=3m"):
            async with host.open() as storage:
                found["a small cache"] = [await outcome(host, storage, volume(source)), host.cached()]
                found["a small image after that"] = await outcome(host, storage, volume(host.publish("small", b"x")))
                remount(host.cache, "size=12m")
                found["a cache large enough for one"] = await outcome(host, storage, volume(source, size_bytes=8 * MIB))
                other = volume(host.publish("other", CONTENT[::-1]), size_bytes=8 * MIB)
                found["another, and once more"] = [await outcome(host, storage, other) for _ in range(2)]
    print(json.dumps(found))


async def outcome(host: DirectoryHost, storage: DirectoryStorage, desired: DesiredVolume) -> str:
    """The state of a volume, or the reason of its failure."""
    seen = await made(storage, host.pool, desired)
    return seen.failure.reason if seen.failure is not None else str(seen.state)


async def probed(host: DirectoryHost, storage: DirectoryStorage) -> str:
    """Why the pool cannot be used."""
    try:
        await storage.probe(host.pool)
    except Unavailable as unavailable:
        return unavailable.reason
    return ""


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory on a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, uuid4().hex, str(folder)], check=True)
    yield
    subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """The same file system with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


if __name__ == "__main__":
    asyncio.run(main(Path(json.loads(sys.argv[1])["folder"])))
