"""What is compared, one a process: `python -m tests.bench.monitor.contestants NAME COMMANDS SOCKET...`.

Each socket gets one loop that sends its next command when the reply to the last is there. Prints what it took, as JSON,
from the moment at which all are connected.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path

from qemu.qmp import QMPClient

from virtplane_drivers.hypervisor.qemu.monitor import connect

COMMAND = "query-status"

Took = dict[str, float]


async def ours(paths: list[str], count: int) -> Took:
    """Virtplane's monitor."""
    monitors = [await connect(Path(path), on_event=lambda _event: None, on_close=lambda _end: None) for path in paths]

    async def loop(index: int) -> None:
        monitor = monitors[index]
        for _ in range(count // len(paths)):
            await monitor.execute(COMMAND)

    took = await _timed(len(paths), loop)
    for monitor in monitors:
        monitor.close()
    return took


async def qemu_qmp(paths: list[str], count: int) -> Took:
    """PyPI's qemu.qmp."""
    clients = [QMPClient(str(index)) for index in range(len(paths))]
    for client, path in zip(clients, paths, strict=True):
        await client.connect(path)

    async def loop(index: int) -> None:
        client = clients[index]
        for _ in range(count // len(paths)):
            await client.execute(COMMAND)

    took = await _timed(len(paths), loop)
    for client in clients:
        await client.disconnect()
    return took


async def bare(paths: list[str], count: int) -> Took:
    """A blocking socket and nothing else, with the bytes that ours sends: what QEMU itself can do."""
    [path] = paths
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.connect(path)
        lines = connection.makefile("rb")
        lines.readline()
        connection.sendall(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}\n')
        lines.readline()
        began, cpu = time.perf_counter(), time.process_time()
        for number in range(1, count + 1):
            connection.sendall(b'{"execute":"%b","id":%d}\n' % (COMMAND.encode(), number))
            while not connection.recv(65536).endswith(b"\n"):
                pass
        return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


async def events(paths: list[str], count: int) -> Took:
    """Virtplane's monitor in a flood of so many events of `event_server`, with a handler that only counts."""
    [path] = paths
    heard = 0

    def hear(_event: object) -> None:
        nonlocal heard
        heard += 1

    monitor = await connect(Path(path), on_event=hear, on_close=lambda _end: None)
    began, cpu = time.perf_counter(), time.process_time()
    await monitor.execute("flood", {"events": count}, timeout_s=120.0)
    took = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    monitor.close()
    assert heard == count
    return took


async def _timed(loops: int, loop: Callable[[int], Awaitable[None]]) -> Took:
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(loop(index) for index in range(loops)))
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


CONTESTANTS: Mapping[str, Callable[[list[str], int], Awaitable[Took]]] = {
    "ours": ours,
    "qemu.qmp": qemu_qmp,
    "bare": bare,
    "events": events,
}


async def main(name: str, count: str, *paths: str) -> None:
    """Run one and print."""
    print(json.dumps(await CONTESTANTS[name](list(paths), int(count))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
