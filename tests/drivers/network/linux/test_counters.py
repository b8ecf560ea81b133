"""Counters of ports: what the guest receives is what its tap sends, and nobody reads one for the other."""

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.networks import network, port
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.host.link_statistics import LinkStatistics, parsed
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import PortCounters, Traffic
from virtplane_drivers.network.linux.counters import as_the_guest_sees, read_counters
from virtplane_drivers.network.linux.links import apply_router
from virtplane_drivers.network.linux.names import BRIDGE, namespace_path, tap_alias, tap_name
from virtplane_drivers.network.linux.namespace import ensure_namespace, remove_namespace

PORT = port()
NETWORK = network(ipv6=None, ports=(PORT,))  # by IPv6 a router speaks unasked
FRAME = b"\xff" * 6 + bytes.fromhex("525400770005") + b"\x88\xb5" + bytes(86)  # 88b5: for experiments (IEEE 802)
NOTHING = Traffic(0, 0, 0, 0)
MORE_THAN_A_QUEUE = 1050
"""Frames; a tap keeps about 1,000 for a guest that does not read."""

DEVICES = """\
Inter-|   Receive                                      |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:    0       0    0    0    0     0          0     0        0       0    0    0    0     0       0          0
tabcdef0123456:18446744073709551615 2 3 4 5 6 7 8 11 12 13 14 15 16 17 18
"""


def test_a_line_of_a_device_is_read_column_by_column() -> None:
    assert parsed(DEVICES) == {
        "lo": LinkStatistics(*[0] * 9),
        "tabcdef0123456": LinkStatistics(
            rx_bytes=(1 << 64) - 1, rx_packets=2, rx_errors=3, rx_dropped=4, rx_frame_errors=6,
            tx_bytes=11, tx_packets=12, tx_errors=13, tx_dropped=14,
        ),
    }  # fmt: skip


def test_the_guest_received_what_its_tap_has_sent() -> None:
    tap = LinkStatistics(
        rx_bytes=1, rx_packets=2, rx_errors=3, rx_dropped=4, rx_frame_errors=40,
        tx_bytes=5, tx_packets=6, tx_errors=7, tx_dropped=8,
    )  # fmt: skip
    assert as_the_guest_sees(tap) == PortCounters(
        received=Traffic(bytes=5, packets=6, dropped=8, errors=7),
        transmitted=Traffic(bytes=1, packets=2, dropped=4, errors=43),
    )


@contextmanager
def guest(host: Host) -> Iterator[int]:
    """The descriptor of a guest's tap."""
    router = namespace_path(host.folder, NETWORK.uid)
    attachment = TapAttachment(router, tap_name(PORT), BRIDGE, mtu=1500, alias=tap_alias(PORT))
    (descriptor,) = open_tap(attachment, 1, vnet_header=False)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
async def router(host: Host) -> Namespace:
    """Of NETWORK, whose folder is the host's."""
    path = namespace_path(host.folder, NETWORK.uid)
    await ensure_namespace(path)
    await apply_router(path, NETWORK)
    return Namespace(path)


def send(router: Namespace, *frames: bytes) -> None:
    """By the bridge, to all of its ports."""
    with router.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
        raw.bind((BRIDGE, 0))
        for frame in frames:
            raw.send(frame)


def taken(descriptor: int) -> int:
    """How many frames wait for the guest; it takes them."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            count += 1
    return count


def reached(router: Namespace, descriptor: int) -> None:
    """Returns once the bridge leads to the guest: the kernel hears some time later that a tap has a carrier."""

    def arrives() -> bool:
        send(router, FRAME)
        return taken(descriptor) > 0

    eventually(arrives, interval_s=0.005)


async def counted(host: Host) -> PortCounters:
    return (await read_counters(host.folder, [NETWORK]))[NETWORK.uid][PORT.key]


async def test_what_a_guest_sends_and_what_it_is_sent_are_told_apart(host: Host, router: Namespace) -> None:
    with guest(host) as descriptor:
        assert await counted(host) == PortCounters(NOTHING, NOTHING)
        for _ in range(3):
            os.write(descriptor, FRAME)
        sent = Traffic(3 * len(FRAME), 3, 0, 0)
        assert await counted(host) == PortCounters(NOTHING, sent)
        reached(router, descriptor)
        before = (await counted(host)).received
        send(router, FRAME, FRAME)
        assert taken(descriptor) == 2  # and counted when the guest takes them
        now = Traffic(before.bytes + 2 * len(FRAME), before.packets + 2, 0, 0)
        assert await counted(host) == PortCounters(now, sent)


async def test_what_a_guest_does_not_take_is_what_it_would_have_received(host: Host, router: Namespace) -> None:
    with guest(host) as descriptor:
        reached(router, descriptor)
        before = (await counted(host)).received
        send(router, *[FRAME] * MORE_THAN_A_QUEUE)
        after = await counted(host)
        dropped = MORE_THAN_A_QUEUE - taken(descriptor)
        assert dropped > 0
        assert after == PortCounters(replace(before, dropped=dropped), NOTHING)


async def test_what_a_guest_sends_and_its_tap_does_not_take_is_dropped_on_its_way_out(
    host: Host, router: Namespace
) -> None:
    with guest(host) as descriptor:
        router.ip("link", "set", tap_name(PORT), "down")
        with pytest.raises(OSError, match="Input/output error"):
            os.write(descriptor, FRAME)
        assert await counted(host) == PortCounters(NOTHING, Traffic(0, 0, 1, 0))


async def test_a_port_that_was_let_go_is_told_no_more_and_begins_at_nothing(host: Host, router: Namespace) -> None:
    with guest(host) as descriptor:
        os.write(descriptor, FRAME)
        assert (await counted(host)).transmitted.packets == 1
    assert await read_counters(host.folder, [NETWORK]) == {NETWORK.uid: {}}
    with guest(host):
        assert await counted(host) == PortCounters(NOTHING, NOTHING)


async def test_a_network_that_goes_meanwhile_is_left_out_and_the_others_are_told(host: Host, router: Namespace) -> None:
    gone, half_gone = network(), network()
    await ensure_namespace(namespace_path(host.folder, half_gone.uid))
    await remove_namespace(namespace_path(host.folder, half_gone.uid))
    namespace_path(host.folder, half_gone.uid).touch()  # as between the two steps of `remove_namespace`
    with guest(host):
        told = await read_counters(host.folder, [gone, half_gone, NETWORK])
    assert told == {NETWORK.uid: {PORT.key: PortCounters(NOTHING, NOTHING)}}
