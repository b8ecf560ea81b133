"""The agent's HTTP server, by HTTP: what it answers, when it is ready, and how it begins and ends."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.metrics.subjects import LeaseDouble, work_of
from virtplane_agent import main as agent_main
from virtplane_agent.metrics import server, snapshot
from virtplane_agent.metrics.address import AddressUnusable, ListenAddress
from virtplane_agent.metrics.server import serving
from virtplane_agent.metrics.subject import Subject

ANY = ListenAddress("127.0.0.1", 0)


@asynccontextmanager
async def served(subject: Subject) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """Its URL, and somebody who asks."""
    async with serving(ANY, subject) as [address], aiohttp.ClientSession() as session:
        yield f"http://{address}", session


async def ready(url: str, session: aiohttp.ClientSession) -> tuple[int, str]:
    async with session.get(f"{url}/readyz") as answer:
        return answer.status, await answer.text()


async def test_an_agent_is_ready_once_it_has_its_lease_and_its_listings_and_says_until_then_what_is_missing(
    agent: AgentInMemory,
) -> None:
    subject = Subject()
    async with served(subject) as (url, session):
        assert await ready(url, session) == (
            503, "its Lease is not held\nits drivers are not open, or its Hypervisors not registered\n",
        )  # fmt: skip
        subject.lease = LeaseDouble(held=True)
        subject.work = work_of(agent)
        assert await ready(url, session) == (503, "not listed yet: virtualmachines, volumes\n")
        agent.machines.informer.synced.set()
        agent.volumes.informer.synced.set()
        assert await ready(url, session) == (200, "ok\n")
        subject.lease = LeaseDouble(held=False)
        assert await ready(url, session) == (503, "its Lease agent-host-a is not held\n")


async def test_metrics_and_health_are_there_from_the_start() -> None:
    async with served(Subject()) as (url, session):
        async with session.get(f"{url}/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            text = await answer.text()
        assert "virtplane_agent_lease_held 0.0\n" in text
        assert "\nprocess_resident_memory_bytes " in text
        assert "python_" not in text
        async with session.get(f"{url}/debug") as answer:
            assert answer.status == 404


async def test_many_scrapes_at_once_are_all_answered(agent: AgentInMemory) -> None:
    async with served(Subject(work=work_of(agent))) as (url, session):

        async def scrape() -> int:
            async with session.get(f"{url}/metrics") as answer:
                await answer.read()
                return answer.status

        assert await asyncio.gather(*(scrape() for _ in range(20))) == [200] * 20


async def test_the_end_waits_neither_for_who_stays_connected_nor_for_a_scrape_that_hangs(
    agent: AgentInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(agent.fake_networks, "counters", hang)
    monkeypatch.setattr(snapshot, "COUNTERS_TIMEOUT_S", 3600)
    monkeypatch.setattr(server, "GOODBYE_S", 0.01)
    async with asyncio.timeout(20):
        async with serving(ANY, Subject(work=work_of(agent))) as [address]:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: agent\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            _silent, half = await asyncio.open_connection(*address)
            half.write(b"GET /metr")
            _hanging, scrape = await asyncio.open_connection(*address)
            scrape.write(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n")
            await begun.wait()
        assert (await reader.read()).endswith(b"ok\n")
        for connection in (writer, half, scrape):
            connection.close()


async def test_an_address_that_is_taken_cannot_be_listened_at() -> None:
    async with serving(ANY, Subject()) as [address]:
        with pytest.raises(AddressUnusable, match=f"cannot listen at {address}"):
            async with serving(address, Subject()):
                pass
    async with serving(address, Subject()) as again:  # at once
        assert again == [address]


async def test_a_name_that_cannot_be_looked_up_cannot_be_listened_at() -> None:
    with pytest.raises(AddressUnusable, match=r"cannot listen at a+:0: "):
        async with serving(ListenAddress("a" * 64, 0), Subject()):
            pass


@pytest.mark.parametrize("request_line", [b"GET /metrics HTTP/9.9", b"\x16\x03\x01\x02\x00", b"GET " + b"/" * 100_000])
async def test_a_request_that_is_none_is_refused_and_fills_no_log(
    request_line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(ANY, Subject()) as [address]:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request_line + b"\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.0 400 ")
        writer.close()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_an_agent_that_cannot_listen_does_not_start_and_names_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        argv = ["--state-dir", str(tmp_path), "--runtime-dir", str(tmp_path), "--metrics-address", at]
        assert agent_main.main([*argv, "--kubeconfig", str(tmp_path / "none")]) == 1
    assert f"virtplane-agent: --metrics-address: cannot listen at {at}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9480", "127.0.0.1", 9480), ("[::1]:0", "::1", 0), ("localhost:65535", "localhost", 65535)],
)
def test_an_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    assert ListenAddress.parse(text) == (host, port)
    assert str(ListenAddress.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9480", "HOST:PORT"),
        (":9480", "HOST:PORT"),
        ("127.0.0.1:", "HOST:PORT"),
        ("127.0.0.1:x", "HOST:PORT"),
        ("127.0.0.1:65536", "HOST:PORT"),
        ("127.0.0.1:\u00b2", "HOST:PORT"),
        ("::1:9480", "in brackets"),
        ("[one]:9480", "IPv4 or IPv6"),
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        agent_main.main(["--metrics-address", text])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--metrics-address" in said
    assert why in said


def test_an_agent_without_the_flag_loads_neither_server_nor_library() -> None:
    program = (
        "import sys, virtplane_agent.main; "
        "sys.exit(str({'aiohttp.web', 'prometheus_client'} & set(sys.modules) or '') or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], check=False, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
