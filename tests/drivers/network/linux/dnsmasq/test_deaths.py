"""A dnsmasq that dies, hangs, or cannot serve."""

import asyncio
import os
import shutil
import signal
import socket

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.dnsmasq import dhcp_client as dhcp
from tests.drivers.network.linux.dnsmasq.networks import DB, MAC, WEB
from tests.drivers.network.linux.dnsmasq.served import Served, lease, told
from virtplane_drivers.errors import Unavailable


async def test_a_death_is_told_and_the_next_apply_starts_another(served: Served) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router)
    one = served.network(WEB)
    await names.apply(router.path, one)
    os.kill(served.pid(), signal.SIGKILL)
    await told(served, one.uid)
    assert served.pids() == []
    await names.apply(router.path, one)
    assert str(lease(guest).address) == "10.20.0.9"
    assert served.deaths == [one.uid]


async def test_an_end_that_was_wanted_is_not_told(served: Served) -> None:
    router, names = served.router(), served.names()
    await names.apply(router.path, served.network(WEB, DB))
    await names.apply(router.path, served.network(WEB))
    await names.remove(served.network().uid)
    await asyncio.sleep(0)
    assert served.pids() == []
    assert served.deaths == []


async def test_a_connection_that_a_guest_keeps_open_holds_up_no_restart(served: Served) -> None:
    """dnsmasq has a child for it, with all its listening sockets."""
    router, names = served.router(), served.names()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    await names.apply(router.path, served.network(WEB, DB))
    with guest.inside(lambda: socket.create_connection(("10.20.0.1", 53), timeout=5.0)):
        eventually(lambda: len(served.pids()) == 2)
        await names.apply(router.path, served.network(WEB))
        assert str(lease(guest).address) == "10.20.0.9"
        assert len(served.pids()) == 1


@pytest.fixture
def silence_is_never_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer is waited for: what is replaced all the same was known for what it is."""
    monkeypatch.setattr("virtplane_drivers.network.linux.dnsmasq.server.ANSWER_TIMEOUT_S", 1000.0)


@pytest.mark.usefixtures("silence_is_never_over")
async def test_a_connection_that_outlived_its_server_holds_up_no_start(served: Served) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    await names.apply(router.path, served.network(WEB))
    server = served.pid()
    with guest.inside(lambda: socket.create_connection(("10.20.0.1", 53), timeout=5.0)):
        eventually(lambda: len(served.pids()) == 2)
        os.kill(server, signal.SIGKILL)
        await told(served, served.network().uid)
        assert len(served.pids()) == 1
        await served.names().apply(router.path, served.network(WEB))
        assert str(lease(guest).address) == "10.20.0.9"
        assert len(served.pids()) == 1


async def test_one_that_hangs_is_replaced(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtplane_drivers.network.linux.dnsmasq.server.ANSWER_TIMEOUT_S", 0.3)
    router, names = served.router(), served.names()
    guest = served.guest(router)
    await names.apply(router.path, served.network(WEB))
    pid = served.pid()
    os.kill(pid, signal.SIGSTOP)
    await names.apply(router.path, served.network(WEB))
    assert served.pid() != pid
    assert str(lease(guest).address) == "10.20.0.9"


async def test_one_whose_bridge_was_made_anew_is_started_anew(served: Served) -> None:
    router, names = served.router(), served.names()
    await names.apply(router.path, served.network(WEB))
    pid = served.pid()
    router.ip("link", "delete", "br0")
    served.make_bridge(router)
    guest = served.guest(router)
    await names.apply(router.path, served.network(WEB))
    assert served.pid() != pid
    reply = guest.inside(lambda: dhcp.exchange6(MAC))
    assert reply is not None
    assert reply.addresses == ("fd00:20::9",)


@pytest.mark.usefixtures("silence_is_never_over")
async def test_one_in_a_namespace_of_before_is_replaced(served: Served) -> None:
    names = served.names()
    await names.apply(served.router().path, served.network(WEB))
    pid, router = served.pid(), served.router()
    guest = served.guest(router)
    await names.apply(router.path, served.network(WEB))
    assert served.pid() != pid
    assert str(lease(guest).address) == "10.20.0.9"


async def test_what_keeps_it_from_serving_is_said_and_nothing_is_left_running(served: Served) -> None:
    router = served.router()
    with router.inside(lambda: socket.create_server(("0.0.0.0", 53))):  # noqa: S104
        with pytest.raises(
            Unavailable, match=r"network: failed to create listening socket for port 53: Address already in use$"
        ):
            await served.names().apply(router.path, served.network(WEB))
        assert served.pids() == []
    await served.names().apply(router.path, served.network(WEB))
    assert len(served.pids()) == 1


async def test_a_folder_that_lets_nobody_through_is_named(served: Served) -> None:
    closed = served.folder / "closed"
    closed.mkdir(mode=0o700)
    served.folder = closed
    with pytest.raises(Unavailable, match=f"chmod o[+]x {closed}$"):
        await served.names().apply(served.router().path, served.network(WEB))
    assert served.pids() == []


async def test_a_router_without_a_bridge_is_said(served: Served) -> None:
    with pytest.raises(Unavailable, match="DHCP and DNS"):
        await served.names().apply(served.host.new_namespace().path, served.network(WEB))
    assert served.pids() == []


async def test_a_host_without_dnsmasq_is_told_what_to_install(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(command: str, **how: str) -> str | None:
        return None if command == "dnsmasq" else real(command, **how)  # type: ignore[call-overload]

    real = shutil.which
    monkeypatch.setattr(shutil, "which", without)
    with pytest.raises(Unavailable, match="dnsmasq-base"):
        await served.names().apply(served.router().path, served.network(WEB))
