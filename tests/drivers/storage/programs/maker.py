"""An agent's storage and nothing else of it: makes one volume, and prints the state that it ended in."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.drivers.storage.directory_host import QUICK, made, volume
from virtplane_drivers.storage.contract import HttpImage, Pool
from virtplane_drivers.storage.directory import DirectoryStorage


async def main(request: dict[str, Any]) -> None:
    """The whole program."""
    pool = Pool(uid="pool-1", name="fast", type="directory", directory=Path(request["pool"]))
    desired = volume(HttpImage(request["url"], request["sha256"]), uid=request["uid"])
    cache, allowed = Path(request["cache"]), [request["allowed_source"]]
    async with DirectoryStorage(cache_folder=cache, allowed_sources=allowed, limits=QUICK) as storage:
        print((await made(storage, pool, desired)).state)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
