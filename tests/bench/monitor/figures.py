"""The monitor beside its peer and beside QEMU's own limit, each pair in turns on the same QEMU processes.

Ratios are medians of the rounds: whatever else runs on the machine disturbs both of a pair.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.monitor.contestants import Took
from tests.drivers.qemu.monitor.real_qemu import real_qemu

ROOT = Path(__file__).parents[3]
ROUNDS = 5
COMMANDS = 8_000
"""Of each contestant in each round; fewer in all than 20,000 read wrong."""
EVENTS = 100_000

GOALS: Mapping[str, str] = {
    "monitor.share_of_limit": ">= 0.85",
    "monitor.cpu_ratio": "<= 0.35",
    "monitor.throughput_50": ">= 1.4",
    "monitor.event_cpu_us": "",
}


async def figures() -> dict[str, float]:
    """All figures of the monitor."""
    with tempfile.TemporaryDirectory(prefix="virtplane-bench-") as folder:
        async with AsyncExitStack() as stack:
            fleet = [await stack.enter_async_context(real_qemu(Path(folder))) for _ in range(50)]
            sockets = [str(qemu.paths[0]) for qemu in fleet]
            alone = await _pairs("ours", "bare", sockets[:1])
            twenty = await _pairs("ours", "qemu.qmp", sockets[:20])
            fifty = await _pairs("ours", "qemu.qmp", sockets)
        return {
            "monitor.share_of_limit": statistics.median(bare["wall_s"] / ours["wall_s"] for ours, bare in alone),
            "monitor.cpu_ratio": statistics.median(ours["cpu_s"] / peer["cpu_s"] for ours, peer in twenty),
            "monitor.throughput_50": statistics.median(peer["wall_s"] / ours["wall_s"] for ours, peer in fifty),
            "monitor.event_cpu_us": await _event_cpu_us(str(Path(folder, "events"))),
        }


async def _pairs(one: str, other: str, sockets: Sequence[str]) -> list[tuple[Took, Took]]:
    return [(await _run(one, COMMANDS, sockets), await _run(other, COMMANDS, sockets)) for _ in range(ROUNDS)]


async def _event_cpu_us(path: str) -> float:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.monitor.event_server", path, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        await server.stdout.readline()
        took = [await _run("events", EVENTS, [path]) for _ in range(3)]
    finally:
        server.kill()
        await server.wait()
    return statistics.median(t["cpu_s"] for t in took) / EVENTS * 1e6


async def _run(name: str, count: int, sockets: Sequence[str]) -> Took:
    """What a contestant took, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.monitor.contestants", name, str(count), *sockets),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _errors = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{name} on {len(sockets)} sockets ended with {process.returncode}")
    took = json.loads(output)
    return {str(key): float(value) for key, value in took.items()}
