"""What guests of mode User reach: the outside, and nothing of the host that their passt runs on."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6
from tests.drivers.network.linux.rules.services import reaches, service
from tests.drivers.network.passt.flows import NOT_ANSWERED_S, Guest
from tests.drivers.network.passt.test_passt import GATEWAY, GUEST, MAC, UserHost, host
from tests.drivers.network.passt.test_passt import network as ipv4_network
from virtplane_api.vocabulary import ForwardProtocol
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import IpAddress, Network, Port, PortForward, Subnet
from virtplane_drivers.network.linux.rules.owned import OwnedTable
from virtplane_drivers.network.passt import PasstNetworks, host_rules

__all__ = ["host"]

GUEST_IPV6, GATEWAY_IPV6 = "fd00:20::9", "fd00:20::1"
PORT, FORWARDED = 7001, 8088
OUTSIDE, OWN = (OUTSIDE_IPV4, OUTSIDE_IPV6), (HOST_IPV4, HOST_IPV6)
LOOPBACK = ("127.0.0.1", "::1")
FORWARDS = tuple(PortForward(protocol, FORWARDED, 80) for protocol in ForwardProtocol)


def port(*forwards: PortForward, machine: str = "vm-1") -> Port:
    return Port(machine, machine, "lan", MAC, (ip_address(GUEST), ip_address(GUEST_IPV6)), forwards)


def network(*ports: Port, forwarders: tuple[IpAddress, ...] = (), uid: str = "net-1") -> Network:
    ipv6 = Subnet(ip_network("fd00:20::/64"), ip_address(GATEWAY_IPV6))
    return replace(ipv4_network(*ports), uid=uid, ipv6=ipv6, forwarders=forwarders)


@contextmanager
def guest_of(host: UserHost, path: Path) -> Iterator[Guest]:
    """At a passt's socket, with both families; passt knows its hardware address."""
    with closing(host.host.machine.inside(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))) as stream:
        stream.connect(str(path))
        stream.settimeout(5.0)
        guest = Guest(stream, MAC, (GUEST, GUEST_IPV6), GATEWAY)
        guest.introduce()
        yield guest


@pytest.fixture
def services(host: UserHost) -> Iterator[None]:
    """The same services outside and on the host."""
    with ExitStack() as stack:
        for at in (host.host.outside, host.host.machine):
            stack.enter_context(service(at, PORT))
            stack.enter_context(service(at, 53))
        for outside in OUTSIDE:
            reaches(host.host.machine, outside, PORT)
        yield


@pytest.fixture
async def guest(host: UserHost, services: None) -> AsyncIterator[Guest]:
    async with host.open() as driver:
        await driver.apply(network(port()))
        with guest_of(host, (await driver.attachment(network(), port())).socket) as guest:
            yield guest


@pytest.mark.parametrize("address", OUTSIDE)
def test_a_guest_reaches_a_server_outside(guest: Guest, address: str) -> None:
    assert guest.opens(address, PORT)
    assert guest.asks(address, PORT)


@pytest.mark.parametrize("address", [*OWN, "127.0.0.1", "127.5.5.5", "0.0.0.0", "::1"])  # noqa: S104
def test_a_guest_does_not_reach_the_hosts_own_services(guest: Guest, address: str) -> None:
    for at in (PORT, 53):
        assert not guest.opens(address, at)
        assert not guest.asks(address, at)


def test_nor_by_link_local_addresses(host: UserHost, guest: Guest) -> None:
    found = [one["local"] for link in host.host.machine.ip("address", "show") for one in link["addr_info"]]
    (own,) = [address for address in found if ip_address(address).is_link_local]
    eventually(lambda: "tentative" not in host.host.machine.run("ip", "address", "show", "dev", "eth0"))
    guest.addresses = (GUEST, "fe80::5054:ff:fe00:1")
    assert not guest.opens(own, PORT)
    assert not guest.asks(own, PORT)
    assert not guest.asks("ff02::1", PORT)


def test_nor_by_an_address_that_somebody_leads_to_the_host(host: UserHost, guest: Guest) -> None:
    led = "add table ip nat\nadd chain ip nat led { type nat hook output priority -100; }\n"
    host.host.machine.run("nft", "-f", "-", stdin=f"{led}add rule ip nat led ip daddr 192.0.2.77 dnat to {HOST_IPV4}\n")
    assert reaches(host.host.machine, "192.0.2.77", PORT)
    assert not guest.opens("192.0.2.77", PORT)
    assert not guest.asks("192.0.2.77", PORT)


def test_nor_what_an_address_of_the_host_leads_to(host: UserHost, guest: Guest) -> None:
    led = "add table ip nat\nadd chain ip nat led { type nat hook output priority -100; }\n"
    rule = f"add rule ip nat led ip daddr {HOST_IPV4} tcp dport 8080 dnat to {OUTSIDE_IPV4}:{PORT}\n"
    machine = host.host.machine
    machine.run("nft", "-f", "-", stdin=led + rule)
    # By a program in its place: this passt does not get there without rules either.
    (passt,) = host.pids()
    user = Path(f"/proc/{passt}").stat().st_uid

    def connects(user: int) -> bool:
        connect = f"timeout 1 bash -c '< /dev/tcp/{HOST_IPV4}/8080' && echo connected || echo not"
        return machine.run("setpriv", f"--reuid={user}", "--clear-groups", "sh", "-c", connect) == "connected\n"

    assert connects(user - 1_000_000_000)
    assert not connects(user)


def test_nor_by_what_is_sent_to_all_hosts_of_a_link(host: UserHost, guest: Guest) -> None:
    with closing(host.host.machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))) as listening:
        listening.bind(("", 5353))
        listening.settimeout(NOT_ANSWERED_S)
        guest.asks("224.0.0.1", 5353)
        with pytest.raises(TimeoutError):
            listening.recv(99)


async def test_a_guest_asks_for_names_those_servers_of_the_host_that_its_network_names(
    host: UserHost, services: None
) -> None:
    named, unnamed = network(port(), forwarders=tuple(map(ip_address, OWN))), network(port(machine="vm-2"), uid="net-2")
    async with host.open() as driver:
        for one in (named, unnamed):
            await driver.apply(one)
        with guest_of(host, (await driver.attachment(named, named.ports[0])).socket) as guest:
            for address in OWN:
                assert guest.asks(address, 53)
                assert guest.opens(address, 53)
                assert not guest.opens(address, PORT)
        with guest_of(host, (await driver.attachment(unnamed, unnamed.ports[0])).socket) as other:
            assert not other.asks(HOST_IPV4, 53)


async def test_a_guest_asks_for_names_the_hosts_servers_where_its_network_names_none(
    host: UserHost, services: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolv_conf = host.folder / "resolv.conf"
    resolv_conf.write_text(f"nameserver {HOST_IPV4}\nnameserver 127.0.0.53\n")
    monkeypatch.setattr(host_rules, "RESOLV_CONF", resolv_conf)
    async with host.open() as driver:
        await driver.apply(network(port()))
        with guest_of(host, (await driver.attachment(network(), port())).socket) as guest:
            assert guest.asks(HOST_IPV4, 53)
            assert not guest.asks("127.0.0.53", 53)
            assert not guest.asks(HOST_IPV4, PORT)


@pytest.mark.parametrize(
    ("kind", "address"),
    # Of UDP this passt gives nothing on that comes from loopback.
    [*((socket.SOCK_STREAM, one) for one in (*OWN, *LOOPBACK)), *((socket.SOCK_DGRAM, one) for one in OWN)],
)
async def test_a_forwarded_port_answers_the_host_itself(host: UserHost, address: str, kind: socket.SocketKind) -> None:
    one = port(*FORWARDS)
    async with host.open() as driver:
        await driver.apply(network(one))
        with guest_of(host, (await driver.attachment(network(), one)).socket) as guest:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with closing(host.host.machine.inside(lambda: socket.socket(family, kind))) as client:
                client.settimeout(5.0)
                client.connect((address, FORWARDED))
                client.send(b"hello")
                answer = guest.accepts if kind is socket.SOCK_STREAM else guest.answers
                await asyncio.to_thread(answer, 80, b"welcome")
                assert client.recv(99) == b"welcome"


async def test_a_guest_does_not_reach_another_one_by_a_forwarded_port_of_their_host(host: UserHost) -> None:
    mine, other = network(port()), network(port(*FORWARDS, machine="vm-2"), uid="net-2")
    async with host.open() as driver:
        for one in (mine, other):
            await driver.apply(one)
        assert await asyncio.to_thread(host.host.machine.inside, lambda: _connects(HOST_IPV4))
        with guest_of(host, (await driver.attachment(mine, mine.ports[0])).socket) as guest:
            for address in (*OWN, *LOOPBACK):
                assert not guest.opens(address, FORWARDED)


async def test_a_flush_of_the_hosts_rules_opens_nothing_while_an_agent_is_there(host: UserHost, services: None) -> None:
    async with host.open() as driver:  # which looks 10 s later
        await driver.apply(network(port()))
        with guest_of(host, (await driver.attachment(network(), port())).socket) as guest:
            host.host.machine.run("nft", "flush", "ruleset")
            assert not guest.opens(HOST_IPV4, PORT)
            assert guest.opens(OUTSIDE_IPV4, PORT)


async def test_what_was_flushed_is_put_back_where_no_table_can_be_owned(
    host: UserHost, services: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cannot(*_: object) -> None:
        raise Unavailable("an old kernel")

    monkeypatch.setattr(OwnedTable, "ensure", cannot)
    async with PasstNetworks(host.folder / "run", host_namespace=host.host.machine.path, check_every_s=1.0) as driver:
        await driver.apply(network(port()))
        with guest_of(host, (await driver.attachment(network(), port())).socket) as guest:
            host.host.machine.run("nft", "flush", "ruleset")
            assert guest.opens(HOST_IPV4, PORT)
            await asyncio.to_thread(eventually, lambda: not guest.opens(HOST_IPV4, PORT))


async def test_what_was_flushed_while_no_agent_was_there_is_put_back_by_the_next_one(
    host: UserHost, services: None
) -> None:
    async with host.open() as driver:
        await driver.apply(network(port()))
        path = (await driver.attachment(network(), port())).socket
    with guest_of(host, path) as guest:
        assert not guest.opens(HOST_IPV4, PORT)
        host.host.machine.run("nft", "flush", "ruleset")
        assert guest.opens(HOST_IPV4, PORT)
        async with host.open():
            assert not guest.opens(HOST_IPV4, PORT)


async def test_the_table_goes_with_the_last_network(host: UserHost) -> None:
    async with host.open() as driver:
        for uid in ("net-1", "net-2"):
            await driver.apply(network(port(), uid=uid))
        await driver.remove("net-1")
        assert "virtplane-user-" in host.host.machine.run("nft", "list", "tables")
        await driver.remove("net-2")
        assert host.host.machine.run("nft", "list", "tables") == ""


async def test_a_host_that_could_keep_guests_from_itself_and_lacks_nft_has_no_such_networks(
    host: UserHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "nft" else found(program))
    async with host.open() as driver:
        facts = await driver.probe()
        assert (facts.modes, list(facts.missing)) == (frozenset(), ["NetworkUser"])
        assert "not installed: nft (package nftables)" in facts.missing["NetworkUser"]
        with pytest.raises(Unavailable, match="not installed: nft"):
            await driver.apply(network(port()))
        assert host.pids() == []
        await driver.remove("net-1")


def _connects(address: str) -> bool:
    with socket.create_connection((address, FORWARDED), timeout=5.0):
        return True
