"""The client against Debian's qemu-ga, which here serves a socket instead of a guest's serial port.

It runs on this host, so whatever could change the host is switched off on its command line.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.cluster.system_packages import SEARCH_PATH
from virtplane_drivers.hypervisor.qemu.guest_agent import AgentGarbage, AgentRefused, AgentSilent, GuestAgent, connect
from virtplane_drivers.hypervisor.qemu.monitor.connecting import connected_socket

T = TypeVar("T")

QEMU_GA = shutil.which("qemu-ga", path=SEARCH_PATH)

pytestmark = pytest.mark.skipif(QEMU_GA is None, reason="Debian's qemu-guest-agent is not installed")

SWITCHED_OFF = [
    *(f"guest-suspend-{kind}" for kind in ("disk", "ram", "hybrid")),
    *(f"guest-fsfreeze-{act}" for act in ("freeze", "freeze-list", "thaw")),
    *("guest-shutdown", "guest-fstrim", "guest-set-time", "guest-set-user-password", "guest-set-vcpus"),
    *("guest-set-memory-blocks", "guest-ssh-add-authorized-keys", "guest-ssh-remove-authorized-keys"),
]


@asynccontextmanager
async def real_agent(folder: Path) -> AsyncIterator[Path]:
    assert QEMU_GA is not None
    path = folder / "agent"
    argv = [QEMU_GA, "-m", "unix-listen", "-p", str(path), "-t", str(folder), "-b", ",".join(SWITCHED_OFF)]
    process = await asyncio.create_subprocess_exec(*argv, "-f", str(folder / "pid"), "-l", str(folder / "log"))
    try:
        yield path
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    async with real_agent(tmp_path) as socket_path:
        yield socket_path


async def listening(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` gives once the agent listens, which it also begins anew after each client."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await attempt()
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[GuestAgent]:
    agent = await listening(lambda: connect(path))
    try:
        yield agent
    finally:
        agent.close()


async def test_a_real_agent_answers(path: Path) -> None:
    async with client(path) as agent:
        assert await agent.execute("guest-ping") == {}
        info = await agent.execute("guest-info")
        assert "guest-sync-delimited" in {command["name"] for command in info["supported_commands"]}
        assert (await agent.execute("guest-get-osinfo"))["kernel-release"] == os.uname().release


async def test_a_real_agent_refuses_in_its_words(path: Path) -> None:
    async with client(path) as agent:
        with pytest.raises(AgentRefused, match="has not been found") as refused:
            await agent.execute("nonsense")
        assert refused.value.error_class == "CommandNotFound"
        with pytest.raises(AgentRefused, match="disabled"):
            await agent.tell("guest-shutdown")
        assert await agent.execute("guest-ping") == {}


async def test_many_at_once_are_answered_one_after_the_other(path: Path) -> None:
    async with client(path) as agent:
        asked = [agent.execute("guest-exec-status", {"pid": -number}) for number in range(1, 51)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(result, AgentRefused) for result in results)


async def test_h39_a_half_request_of_a_former_client_and_its_garbage_are_skipped(path: Path) -> None:
    with await listening(lambda: connected_socket(path)) as former:
        former.settimeout(20)
        former.sendall(b'garbage\n{"execute": "guest-get-osinfo"}\n{"execute": "guest-pi')
        answers = b""
        while b"kernel-release" not in answers:  # it does not survive an answer that it cannot write
            answers += await asyncio.to_thread(former.recv, 1 << 16)
    async with client(path) as agent:
        assert await agent.execute("guest-ping") == {}


async def test_h39_late_replies_of_a_real_agent_answer_nobody_else(path: Path) -> None:
    async with client(path) as agent:
        for _ in range(20):
            with pytest.raises(AgentSilent):
                await agent.execute("guest-get-osinfo", timeout_s=0.0)
            asked = asyncio.create_task(agent.execute("guest-get-osinfo"))
            await asyncio.sleep(0.001)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            assert await agent.execute("guest-ping") == {}


async def test_h39_a_real_reply_of_more_than_the_cap_is_garbage_and_the_next_request_is_good(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(bytes(6 << 20))
    async with client(path) as agent:
        handle = await agent.execute("guest-file-open", {"path": str(tmp_path / "big"), "mode": "r"})
        small = await agent.execute("guest-file-read", {"handle": handle, "count": 3000})
        assert small["count"] == 3000
        with pytest.raises(AgentGarbage, match="a reply longer than"):
            await agent.execute("guest-file-read", {"handle": handle, "count": 5 << 20})
        assert await agent.execute("guest-ping") == {}
