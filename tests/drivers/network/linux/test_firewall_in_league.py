"""Two who are in league, one of them behind a firewall that lets nobody in or out: what one begins opens no way back.

Each sends what the other one's rules would take for an answer to it, if a packet that was dropped left a flow behind.
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.drivers.network.linux.firewalled import (
    ALLOW,
    DENY,
    INGRESS,
    UDP,
    Walled,
    firewall,
    network,
    rule,
    walled_host,
)
from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, Namespace
from tests.drivers.network.linux.rules import frames as f
from tests.drivers.network.linux.rules.capture import send
from tests.drivers.network.numbered import port
from virtplane_api.overlay import UDP_PORT
from virtplane_api.vocabulary import ForwardProtocol, NetworkMode
from virtplane_drivers.network.contract import Firewall, PortForward

OWN_PORT, THEIR_PORT = 5001, 5000
SHUT = firewall(ingress=DENY, egress=DENY)
OPEN = firewall(ingress=ALLOW, egress=ALLOW)
SILENCE_S, PATIENCE_S = 0.5, 10.0
"""Until nothing is taken to come, and until what is to come has to be there."""


@pytest.fixture
async def walled(root: None) -> AsyncIterator[Walled]:
    async with walled_host() as one:
        yield one


@contextlib.contextmanager
def speaks(at: Namespace, address: str, number: int) -> Iterator[socket.socket]:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, number))
        return made

    with at.inside(opened) as own:
        yield own


def hears(one: socket.socket, word: bytes, *, is_expected: bool = False) -> bool:
    one.settimeout(PATIENCE_S if is_expected else SILENCE_S)
    with contextlib.suppress(TimeoutError):
        while True:
            if one.recv(99) == word:
                return True
    return False


@pytest.mark.parametrize(("shut", "passes"), [(SHUT, False), (OPEN, True)], ids=["shut", "open"])
async def test_what_comes_by_a_route_and_is_dropped_is_no_flow_to_answer(
    walled: Walled, *, shut: Firewall, passes: bool
) -> None:
    await walled.driver.apply(network(port(2, "f1"), firewalls=(shut,), mode=NetworkMode.ROUTED))
    guest, outside = walled.guest(port(2, "f1")), walled.host.outside
    outside.ip("route", "add", "10.0.0.0/24", "via", HOST_IPV4)
    outside.ip("-6", "route", "add", "fd00::/64", "via", HOST_IPV6)
    for own, other in (("10.0.0.2", OUTSIDE_IPV4), ("fd00::2", OUTSIDE_IPV6)):
        with speaks(guest, own, OWN_PORT) as inside, speaks(outside, other, THEIR_PORT) as beyond:
            for word in (b"1", b"2"):
                beyond.sendto(word, (own, OWN_PORT))
                assert hears(inside, word, is_expected=passes) is passes
                inside.sendto(word, (other, THEIR_PORT))
                assert hears(beyond, word, is_expected=passes) is passes


async def test_what_comes_by_a_forwarded_port_and_is_dropped_is_no_flow_to_answer(walled: Walled) -> None:
    others = firewall(rule(INGRESS, ALLOW, "192.0.2.0/24", protocol=UDP), ingress=DENY, egress=DENY)
    forward = PortForward(ForwardProtocol.UDP, 8080, OWN_PORT)
    own = port(2, "f1", forwards=(forward,))
    await walled.driver.apply(network(own, firewalls=(others,)))
    guest = walled.guest(own)
    with (
        speaks(guest, "10.0.0.2", OWN_PORT) as inside,
        speaks(walled.host.outside, OUTSIDE_IPV4, THEIR_PORT) as beyond,
    ):
        for word in (b"1", b"2"):
            beyond.sendto(word, (HOST_IPV4, 8080))
            assert not hears(inside, word)
            inside.sendto(word, (OUTSIDE_IPV4, THEIR_PORT))
            assert not hears(beyond, word)
    await walled.driver.apply(network(own, firewalls=(OPEN,)))
    with (
        speaks(guest, "10.0.0.2", OWN_PORT) as inside,
        speaks(walled.host.outside, OUTSIDE_IPV4, THEIR_PORT) as beyond,
    ):
        beyond.sendto(b"3", (HOST_IPV4, 8080))
        assert hears(inside, b"3", is_expected=True)


async def test_what_is_sent_to_another_one_s_adapter_is_no_flow_to_answer(walled: Walled) -> None:
    await walled.driver.apply(network(port(2, "f1"), port(3), port(4), firewalls=(SHUT,)))
    shut, third, fourth = (walled.guest(one) for one in (port(2, "f1"), port(3), port(4)))
    third.reaches("10.0.0.4")
    shut.ip("neighbour", "replace", "10.0.0.3", "lladdr", port(3).mac, "dev", "eth0")
    astray = f.frame(port(3).mac, f.IPV4, f.datagram("10.0.0.3", "10.0.0.2", THEIR_PORT, OWN_PORT), port(4).mac)
    with (
        speaks(shut, "10.0.0.2", OWN_PORT) as inside,
        speaks(third, "10.0.0.3", THEIR_PORT) as other,
        speaks(fourth, "10.0.0.4", OWN_PORT) as beside,
    ):
        send(third, astray)
        other.sendto(b"1", ("10.0.0.4", OWN_PORT))
        assert hears(beside, b"1", is_expected=True)
        inside.sendto(b"2", ("10.0.0.3", THEIR_PORT))
        assert not hears(other, b"2")


@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.ROUTED])
async def test_messages_of_one_link_are_forwarded_to_no_other(walled: Walled, mode: NetworkMode) -> None:
    await walled.driver.apply(network(port(2, "f1"), port(3), firewalls=(SHUT,), mode=mode))
    guest = walled.guest(port(3))
    guest.reaches("fd00::1")

    def icmpv6() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        made.settimeout(5)
        return made

    with guest.inside(icmpv6) as own, walled.host.outside.inside(icmpv6) as beyond:
        for kind in (131, 132, 135, 136, 143, 128):
            own.sendto(f.icmpv6(kind, bytes(4) + b"sixteen letters."), (OUTSIDE_IPV6, 0))
        kinds = set()
        while 128 not in kinds:
            received = beyond.recv(2000)
            if b"sixteen letters." in received:
                kinds.add(received[0])
    assert kinds == {128}


async def test_no_guest_speaks_to_the_tunnels_of_another_host(walled: Walled) -> None:
    await walled.driver.apply(network(port(3)))
    third = walled.guest(port(3))
    with (
        speaks(walled.host.outside, OUTSIDE_IPV4, UDP_PORT) as tunnel,
        speaks(walled.host.outside, OUTSIDE_IPV4, UDP_PORT + 1) as beside,
        speaks(third, "10.0.0.3", OWN_PORT) as own,
    ):
        own.sendto(b"1", (OUTSIDE_IPV4, UDP_PORT))
        own.sendto(b"2", (OUTSIDE_IPV4, UDP_PORT + 1))
        assert hears(beside, b"2", is_expected=True)
        assert not hears(tunnel, b"1")
