"""One network over several hosts, by frames that the kernel carries between them."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from uuid import uuid4

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.dnsmasq.dhcp_client import exchange
from tests.drivers.network.linux.dnsmasq.served import asked
from tests.drivers.network.linux.host import Namespace
from tests.drivers.network.linux.networks import GATEWAY_IPV4, GATEWAY_IPV6
from tests.drivers.network.linux.overlay.hosts import (
    MTU,
    VNI,
    OverlayHost,
    hosts,
    new_driver,
    on,
    overlay_network,
    port,
    spread,
    underlay,
)
from tests.drivers.network.linux.rules import frames as f
from tests.drivers.network.linux.rules.capture import capture, send
from tests.drivers.network.linux.rules.services import PORT, reaches, service
from tests.drivers.network.linux.seen import holding
from virtplane_api.reasons import Reason
from virtplane_drivers.network.contract import IpAddress, Network, NetworkState
from virtplane_drivers.network.linux.names import TUNNEL, router_mac
from virtplane_drivers.network.linux.records import Records

_IP_MTU_DISCOVER, _ALWAYS = 10, 2
"""ip(7); IP_PMTUDISC_DO."""
ONE, TWO, THREE = port(11), port(12), port(13)


@dataclass
class Pair:
    """Two hosts with a guest each, on one network, and a third host that has nothing of it."""

    hosts: list[OverlayHost]
    network: Network
    guests: tuple[Namespace, Namespace]

    @property
    def macs(self) -> tuple[str, str]:
        return ONE.mac, TWO.mac


@pytest.fixture
async def pair(root: None) -> AsyncIterator[Pair]:
    async with hosts(3) as three:
        one = overlay_network(str(uuid4()))
        await spread(one, three, {1: [ONE], 2: [TWO]})
        guests = three[0].guest(one, ONE), three[1].guest(one, TWO)
        yield Pair(three, one, guests)


def flooded_to(host: OverlayHost, one: Network) -> set[str]:
    """To whom a frame for everybody goes."""
    return {entry["dst"] for entry in fdb(host, one) if entry["mac"] == "00:00:00:00:00:00"}


def fdb(host: OverlayHost, one: Network) -> list[dict[str, str]]:
    said = json.loads(host.router(one).run("bridge", "-json", "fdb", "show", "dev", TUNNEL))
    return [entry for entry in said if "dst" in entry]


async def test_guests_of_two_hosts_reach_each_other_in_both_families(pair: Pair) -> None:
    first, second = pair.guests
    with service(second):
        for address in map(str, TWO.addresses):
            first.reaches(address)
            assert reaches(first, address) == str(ONE.addresses[":" in address])
    for host in pair.hosts[:2]:
        assert (await host.driver.observe(pair.network.uid)).state is NetworkState.READY


def passes(guest: Namespace, address: str, size: int) -> bool:
    """Whether an IPv4 packet of that many bytes, which nobody may break up, is answered."""

    def asked() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _ALWAYS)
            client.settimeout(0.7)
            client.connect((address, PORT))
            try:
                client.send(bytes(size - 28))
                return bool(client.recv(99))
            except OSError:
                return False

    return guest.inside(asked)


async def test_packets_up_to_the_network_s_mtu_pass_whole_and_no_larger_one_does(pair: Pair) -> None:
    first, second = pair.guests
    with service(second):
        first.reaches(str(TWO.addresses[0]))
        assert [passes(first, str(TWO.addresses[0]), size) for size in (MTU, MTU + 1)] == [True, False]
    links = pair.hosts[0].router(pair.network).links()
    assert {name: links[name]["mtu"] for name in ("br0", TUNNEL)} == {"br0": MTU, TUNNEL: MTU}
    assert second.links()["eth0"]["mtu"] == MTU


async def test_a_network_over_ipv6_carries_what_its_mtu_says(root: None) -> None:
    async with hosts(2, version=6) as two:
        one = overlay_network(str(uuid4()), mtu=1430)
        await spread(one, two, {1: [ONE], 2: [TWO]}, version=6)
        first, second = two[0].guest(one, ONE), two[1].guest(one, TWO)
        with service(second):
            first.reaches(str(TWO.addresses[0]))
            assert passes(first, str(TWO.addresses[0]), 1430)


async def test_each_guest_has_the_gateway_of_its_own_host_and_no_other(pair: Pair) -> None:
    first, second = pair.guests
    for gateway in (GATEWAY_IPV4, GATEWAY_IPV6):
        first.reaches(gateway)
        second.reaches(gateway)
    with capture(pair.hosts[1].router(pair.network), TUNNEL) as crossing:
        for host in pair.hosts[:2]:
            # The router of one is gone: nobody else answers in its place.
            router = host.router(pair.network)
            router.ip("address", "flush", "dev", "br0")
        first.ip("neigh", "flush", "dev", "eth0")
        assert not first.pings(GATEWAY_IPV4)
        probe = f.frame(ONE.mac, f.ARP, f.arp(ONE.mac, str(ONE.addresses[0]), str(TWO.addresses[0])))
        send(first, probe)
        crossing.wait_for(probe)
    await spread(pair.network, pair.hosts, {1: [ONE], 2: [TWO]})
    first.reaches(GATEWAY_IPV4)
    # Learnt from the router's own port, and not from the other host's.
    mac = router_mac(pair.network.uid)
    assert [entry for entry in fdb(pair.hosts[0], pair.network) if entry["mac"] == mac] == []


def forbidden(one: Network) -> dict[str, bytes]:
    """Frames of guest 1 that its host lets onto the bridge, or not; and must not carry to another one."""
    gateway_mac, (own4, own6) = router_mac(one.uid), map(str, ONE.addresses)
    discover = f.ipv4("0.0.0.0", "255.255.255.255", f.UDP, f.udp(68, 67, f.dhcp(ONE.mac)))  # noqa: S104  # no binding
    wanted_router = f.ipv6(own6, f.ALL_ROUTERS, f.ICMPV6, f.icmpv6(f.ROUTER_SOLICIT))
    solicit = f.icmpv6(f.SOLICIT, bytes(4) + IPv6Address(GATEWAY_IPV6).packed + bytes([1, 1]) + f.mac_bytes(ONE.mac))
    return {
        "ARP for the gateway": f.frame(ONE.mac, f.ARP, f.arp(ONE.mac, own4, GATEWAY_IPV4)),
        "ND for the gateway": f.frame(ONE.mac, f.IPV6, f.ipv6(own6, "ff02::1:ff00:1", f.ICMPV6, solicit)),
        "router solicitation": f.frame(ONE.mac, f.IPV6, wanted_router),
        "DHCP": f.frame(ONE.mac, f.IPV4, discover),
        "DHCPv6": f.frame(ONE.mac, f.IPV6, f.ipv6(own6, "ff02::1:2", f.UDP, f.udp(546, 547, b"solicit"))),
        "to the gateway's MAC": f.frame(ONE.mac, f.IPV4, f.datagram(own4, "203.0.113.9"), gateway_mac),
    }


async def test_nothing_that_is_the_gateway_s_business_crosses(pair: Pair) -> None:
    first, _second = pair.guests
    there = pair.hosts[1].router(pair.network)
    allowed = f.frame(ONE.mac, f.ARP, f.arp(ONE.mac, str(ONE.addresses[0]), str(TWO.addresses[0])))
    with capture(there, TUNNEL) as crossing:
        bad = forbidden(pair.network)
        send(first, *bad.values(), allowed)
        crossing.wait_for(allowed)
        assert [name for name, frame in bad.items() if crossing.saw(frame)] == []


async def test_what_a_peer_should_not_have_sent_is_not_taken(pair: Pair) -> None:
    """Each side guards by itself: the other one may be of an older version, or broken into."""
    here = pair.hosts[0].router(pair.network)
    here.run("nft", "flush", "ruleset")
    gateway_mac = router_mac(pair.network.uid)
    advert = f.icmpv6(f.ROUTER_ADVERT, bytes(12))
    bad = forbidden(pair.network) | {
        "from the gateway's MAC": f.frame(gateway_mac, f.IPV4, f.datagram(GATEWAY_IPV4, str(TWO.addresses[0]))),
        "router advertisement": f.frame(ONE.mac, f.IPV6, f.ipv6("fe80::5", f.ALL_NODES, f.ICMPV6, advert)),
        "DHCP from a port that is no client's": f.frame(
            ONE.mac, f.IPV4, f.datagram("10.77.0.9", "10.77.0.255", 5000, 67)
        ),
        "DHCP offer": f.frame(ONE.mac, f.IPV4, f.datagram("10.77.0.9", "255.255.255.255", 67, 68)),
    }
    kinds, gateways = (f.IPV4, f.IPV6), (GATEWAY_IPV4, GATEWAY_IPV6)
    for kind, gateway, own, to in zip(kinds, gateways, ONE.addresses, TWO.addresses, strict=True):
        bad[f"TCP to {to} from the gateway's MAC"] = f.frame(gateway_mac, kind, f.segment(str(own), str(to)))
        bad[f"TCP to {to} from the gateway's address"] = f.frame(ONE.mac, kind, f.segment(gateway, str(to)))
    allowed = f.frame(ONE.mac, f.ARP, f.arp(ONE.mac, str(ONE.addresses[0]), str(TWO.addresses[0])))
    with capture(pair.guests[1]) as received:
        send(here, *bad.values(), allowed, link=TUNNEL)
        received.wait_for(allowed)
        assert [name for name, frame in bad.items() if received.saw(frame)] == []


async def test_the_router_neither_hears_nor_speaks_by_the_tunnel(pair: Pair) -> None:
    here, there = (host.router(pair.network) for host in pair.hosts[:2])
    for_all, from_router = (
        f.frame(mac, f.IPV4, f.datagram("10.77.0.12", "255.255.255.255")) for mac in (TWO.mac, ONE.mac)
    )
    with capture(here, "br0") as heard, capture(pair.guests[0]) as received, capture(there, TUNNEL) as crossing:
        send(there, for_all, link=TUNNEL)
        received.wait_for(for_all)
        assert not heard.saw(for_all)
        send(here, from_router, link="br0")
        received.wait_for(from_router)
        last = f.frame(ONE.mac, f.ARP, f.arp(ONE.mac, str(ONE.addresses[0]), str(TWO.addresses[0])))
        send(here, last, link=TUNNEL)
        crossing.wait_for(last)
        assert not crossing.saw(from_router)


async def test_only_the_host_of_a_guest_tells_it_its_address(pair: Pair) -> None:
    first, second = pair.guests
    for guest, own in ((first, ONE), (second, TWO)):
        reply = guest.inside(lambda own=own: exchange(own.mac))  # type: ignore[misc]
        assert reply is not None
        assert reply.address == own.addresses[0]
        assert reply.number(26) == MTU  # option interface-mtu
    # Its own host does not know this one, and checks nothing any more: no other host answers in its place.
    pair.hosts[0].router(pair.network).run("nft", "flush", "ruleset")
    assert first.inside(lambda: exchange(TWO.mac, timeout_s=1.0)) is None


async def test_names_of_machines_elsewhere_are_known_on_each_host(pair: Pair) -> None:
    first, second = pair.guests
    domain = pair.network.domain
    assert first.inside(lambda: asked(GATEWAY_IPV4, f"vm12.{domain}")).answers == (str(TWO.addresses[0]),)
    assert second.inside(lambda: asked(GATEWAY_IPV4, f"vm11.{domain}")).answers == (str(ONE.addresses[0]),)
    # One that went is forgotten, one that came is known.
    await pair.hosts[0].driver.apply(on(pair.network, pair.hosts[0], {1: [ONE], 2: [THREE]}))
    assert first.inside(lambda: asked(GATEWAY_IPV4, f"vm13.{domain}")).answers == (str(THREE.addresses[0]),)
    assert first.inside(lambda: asked(GATEWAY_IPV4, f"vm12.{domain}")).answers == ()


async def test_where_machines_are_is_learnt_anew_when_another_host_has_the_network(pair: Pair) -> None:
    first, second = pair.guests
    first.reaches(str(TWO.addresses[0]))

    def learnt() -> set[str]:
        return {one["mac"] for one in fdb(pair.hosts[0], pair.network)} - {"00:00:00:00:00:00"}

    assert TWO.mac in learnt()
    await pair.hosts[0].driver.apply(on(pair.network, pair.hosts[0], {1: [ONE], 2: [TWO]}))
    assert TWO.mac in learnt()
    second.ip("link", "set", "eth0", "down")  # it says nothing in the meantime
    await pair.hosts[0].driver.apply(on(pair.network, pair.hosts[0], {1: [ONE], 2: [TWO], 3: [THREE]}))
    assert learnt() == set()
    assert flooded_to(pair.hosts[0], pair.network) == {str(underlay(2)), str(underlay(3))}
    second.ip("link", "set", "eth0", "up")
    first.reaches(str(TWO.addresses[0]))


async def test_a_peer_that_is_gone_gets_nothing_and_is_not_heard(pair: Pair) -> None:
    first, second = pair.guests
    first.reaches(str(TWO.addresses[0]))
    assert flooded_to(pair.hosts[0], pair.network) == {str(underlay(2))}
    assert str(underlay(2)) in {one["dst"] for one in fdb(pair.hosts[0], pair.network) if one["mac"] == TWO.mac}
    await pair.hosts[0].driver.apply(on(pair.network, pair.hosts[0], {1: [ONE], 3: [THREE]}))
    assert {one["dst"] for one in fdb(pair.hosts[0], pair.network)} == {str(underlay(3))}
    assert not first.pings(str(TWO.addresses[0]))
    with capture(first) as received:
        told = f.frame(TWO.mac, f.ARP, f.arp(TWO.mac, str(TWO.addresses[0]), str(ONE.addresses[0])))
        send(second, told)
        assert not received.saw(told)


def vxlan(vni: int, inner: bytes) -> bytes:
    """RFC 7348, 5."""
    return bytes([8, 0, 0, 0]) + vni.to_bytes(3) + b"\0" + inner


def told_by(host: OverlayHost, *inner: bytes, vni: int = VNI) -> None:
    """To host 1, as anybody with a socket could."""

    def sent() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for frame in inner:
                udp.sendto(vxlan(vni, frame), (str(underlay(1)), 4790))

    host.machine.inside(sent)


@pytest.mark.parametrize("flushed", [False, True], ids=["", "after the host's rules were flushed and repaired"])
async def test_a_host_that_is_no_peer_cannot_inject(pair: Pair, *, flushed: bool) -> None:
    first, _second = pair.guests
    if flushed:
        pair.hosts[0].machine.run("nft", "flush", "ruleset")
        machine = pair.hosts[0].machine
        await asyncio.to_thread(eventually, lambda: "chain tunnels" in machine.run("nft", "list", "ruleset"))
    wrong, right = (
        f.frame(mac, f.ARP, f.arp(mac, str(TWO.addresses[0]), str(ONE.addresses[0]))) for mac in (THREE.mac, TWO.mac)
    )
    with capture(first) as received:
        told_by(pair.hosts[2], wrong)
        told_by(pair.hosts[1], right)
        received.wait_for(right)
        assert not received.saw(wrong)


async def test_what_a_guest_or_a_program_of_a_host_forges_is_not_taken_for_that_host_s(pair: Pair) -> None:
    """A peer's address is not a peer: guests of any network are masqueraded behind it, and passt speaks under it."""
    first, second = pair.hosts[0], pair.hosts[1]
    theirs = overlay_network(str(uuid4()))
    await second.driver.apply(on(theirs, second, {2: [THREE]}, vni=VNI + 7))
    tenant = second.guest(theirs, THREE)
    tenant.reaches(GATEWAY_IPV4)
    by_guest, by_program, right = (
        f.frame(TWO.mac, f.ARP, f.arp(TWO.mac, str(TWO.addresses[0]), str(ONE.addresses[0]))) for _ in range(3)
    )

    def tells(frame: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(vxlan(VNI, frame), (str(underlay(1)), 4790))

    with capture(pair.guests[0]) as received:
        tenant.inside(lambda: tells(by_guest))
        tell = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            f"s.sendto(bytes.fromhex('{vxlan(VNI, by_program).hex()}'), ('{underlay(1)}', 4790))"
        )
        with pytest.raises(AssertionError, match="Operation not permitted"):
            second.machine.run("setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", tell)
        told_by(second, right)
        received.wait_for(right)
        assert not received.saw(by_guest)
        assert not received.saw(by_program)
    assert first.router(pair.network).links()[TUNNEL]


async def test_tunnels_whose_record_cannot_be_read_take_nothing_from_anybody_before_they_are_looked_at(
    pair: Pair,
) -> None:
    host, other = pair.hosts[0], overlay_network(str(uuid4()))
    await host.driver.__aexit__(None, None, None)
    for record in (host.folder / "run" / "networks").glob("*.json"):
        record.write_text("{")
    wrong, right = (
        f.frame(mac, f.ARP, f.arp(mac, str(TWO.addresses[0]), str(ONE.addresses[0]))) for mac in (THREE.mac, TWO.mac)
    )
    async with new_driver(host) as anew:
        await anew.apply(on(other, host, {1: [THREE]}, vni=VNI + 9))
        with capture(pair.guests[0]) as received:
            told_by(pair.hosts[2], wrong)
            await anew.apply(on(pair.network, host, {1: [ONE], 2: [TWO]}))
            told_by(pair.hosts[1], right)
            received.wait_for(right)
            assert not received.saw(wrong)
        await anew.remove(other.uid)


async def test_a_peer_of_one_network_is_none_of_another(pair: Pair) -> None:
    other = overlay_network(str(uuid4()))
    await pair.hosts[0].driver.apply(on(other, pair.hosts[0], {1: [THREE], 3: []}, vni=VNI + 1))
    guest = pair.hosts[0].guest(other, THREE)
    frame = f.frame(TWO.mac, f.ARP, f.arp(TWO.mac, str(TWO.addresses[0]), str(THREE.addresses[0])))
    right = f.frame(ONE.mac, f.ARP, f.arp(ONE.mac, str(ONE.addresses[0]), str(THREE.addresses[0])))
    with capture(guest) as received:
        told_by(pair.hosts[1], frame, vni=VNI + 1)
        told_by(pair.hosts[2], right, vni=VNI + 1)
        received.wait_for(right)
        assert not received.saw(frame)


async def test_other_software_s_tunnels_on_the_same_port_are_left_alone(pair: Pair) -> None:
    """A number that is no network's of this agent: another agent of the host may have it."""
    machine = pair.hosts[0].machine
    machine.ip("link", "add", "theirs", "type", "vxlan", "id", "77", "local", str(underlay(1)), "dstport", "4790")
    machine.ip("link", "set", "theirs", "up")
    frame = f.frame(THREE.mac, f.LOCAL_EXPERIMENT, b"theirs")
    with capture(machine, "theirs") as received:
        told_by(pair.hosts[2], frame, vni=77)
        received.wait_for(frame)


async def test_what_somebody_breaks_is_repaired_and_what_is_whole_is_not_touched(pair: Pair) -> None:
    router = pair.hosts[0].router(pair.network)
    first = pair.guests[0]
    before = router.links()[TUNNEL]
    await spread(pair.network, pair.hosts[:1], {1: [ONE], 2: [TWO]})
    assert router.links()[TUNNEL]["ifindex"] == before["ifindex"]
    router.run("bridge", "fdb", "del", "00:00:00:00:00:00", "dev", TUNNEL, "dst", str(underlay(2)))
    router.ip("link", "set", TUNNEL, "nomaster", "mtu", "1400")
    await spread(pair.network, pair.hosts[:1], {1: [ONE], 2: [TWO]})
    first.reaches(str(TWO.addresses[0]))
    assert router.links()[TUNNEL]["mtu"] == MTU
    router.ip("link", "del", TUNNEL)
    await spread(pair.network, pair.hosts[:1], {1: [ONE], 2: [TWO]})
    first.reaches(str(TWO.addresses[0]))
    assert router.links()[TUNNEL]["mtu"] == MTU


async def test_a_network_that_goes_and_comes_back_has_its_number_at_once(pair: Pair) -> None:
    host = pair.hosts[0]
    for _ in range(3):
        await host.driver.remove(pair.network.uid)
        await host.driver.apply(on(pair.network, host, {1: [ONE], 2: [TWO]}))
    await host.driver.remove(pair.network.uid)
    assert host.machine.run("ss", "-Hlun", "sport", "=", "4790") == ""
    assert "virtplane" not in host.machine.run("nft", "list", "tables")


async def test_a_machine_that_came_to_another_host_is_found_there_before_it_says_a_word(pair: Pair) -> None:
    third = pair.hosts[2]
    await spread(pair.network, pair.hosts, {1: [ONE], 2: [THREE], 3: [TWO]})

    def found_at() -> set[str]:
        return {one["dst"] for one in fdb(pair.hosts[0], pair.network) if one["mac"] == TWO.mac}

    # Learnt where it was, by a frame that was late.
    told_by(pair.hosts[1], f.frame(TWO.mac, f.ARP, f.arp(TWO.mac, str(TWO.addresses[0]), str(ONE.addresses[0]))))
    await asyncio.to_thread(eventually, lambda: found_at() == {str(underlay(2))})
    value = on(pair.network, third, {1: [ONE], 2: [THREE], 3: [TWO]})
    with holding(await third.driver.attachment(value, TWO)):
        await asyncio.to_thread(eventually, lambda: found_at() == {str(underlay(3))})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (underlay(2, 6), "no tunnel leads from 198.51.100.1 to 2001:db8:5::2"),
        (underlay(1), "another host has 198.51.100.1 too"),
    ],
    ids=["of another family", "with the same address"],
)
async def test_a_host_that_cannot_be_reached_is_a_finding_and_the_others_are_reached(
    pair: Pair, other: IpAddress, message: str
) -> None:
    host, first = pair.hosts[0], pair.guests[0]
    value = on(pair.network, host, {1: [ONE], 2: [TWO]})
    assert value.overlay is not None
    overlay = replace(value.overlay, peers=(*value.overlay.peers, other))
    await host.driver.apply(replace(value, overlay=overlay))
    seen = await host.driver.observe(pair.network.uid)
    assert (seen.state, seen.reason) == (NetworkState.FAILED, Reason.NETWORK_ERROR)
    assert message in seen.message
    first.reaches(str(TWO.addresses[0]))


async def test_an_agent_that_starts_anew_knows_the_tunnels_that_it_has_not_looked_at_yet(pair: Pair) -> None:
    host = pair.hosts[0]
    recorded = Records(host.folder / "run" / "networks").read_all()
    assert recorded[pair.network.uid].network == on(pair.network, host, {1: [ONE], 2: [TWO]})
    await host.driver.__aexit__(None, None, None)
    host.machine.run("nft", "flush", "ruleset")
    async with new_driver(host) as again:
        # Nobody has told it of the network; its host's rules are those of all that were applied.
        await asyncio.to_thread(eventually, lambda: "chain tunnels" in host.machine.run("nft", "list", "ruleset"))
        assert pair.network.uid in await again.inventory()
    pair.guests[0].reaches(str(TWO.addresses[0]))
