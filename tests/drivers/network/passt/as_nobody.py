"""An agent's life without root, run as a program: `python -m tests.drivers.network.passt.as_nobody FOLDER`.

It prints what it saw, a word a line.
"""

import asyncio
import sys
from pathlib import Path

from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.passt import PasstNetworks


async def main(folder: Path) -> None:
    from tests.drivers.network.passt.test_passt import (  # noqa: PLC0415
        discover,
        forwarded,
        frames,
        joined,
        network,
        send,
    )

    one = network(forwarded())
    async with PasstNetworks(folder) as driver:
        await driver.apply(one)
        print((await driver.observe("net-1")).state)
        with joined(None, (await driver.attachment(one, forwarded())).socket) as client:
            send(client, discover())
            print("offer" if next(frames(client))[34:36] == b"\0\x43" else "?")
            try:
                await driver.remove("net-1")
            except Unavailable as error:
                print(error.reason)
    async with PasstNetworks(folder) as driver:
        print((await driver.observe("net-1")).state)
        await driver.remove("net-1")
        print("removed" if await driver.inventory() == () else "left")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
