"""Limits of ports, measured: what a tap's holder gets and gives, while its bridge could do a thousand times as much."""

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.drivers.network.linux.host import Namespace
from tests.drivers.network.linux.networks import network, port
from tests.drivers.network.linux.seen import holding, monitored
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.network.contract import UNLIMITED, Bandwidth, Network
from virtplane_drivers.network.linux.links import apply_router, ports_held
from virtplane_drivers.network.linux.names import BRIDGE, ifb_name, tap_alias, tap_name
from virtplane_drivers.network.linux.shaping import bucket_for

PORT = port()
ETHERTYPE = 0x88B5
"""For experiments (IEEE 802)."""
FRAME = b"\xff" * 6 + bytes.fromhex("525400770005") + ETHERTYPE.to_bytes(2, "big") + bytes(1400)
VNET_HEADER = bytes(10)
FLOOD_S = 1.0
OTHER = ("tbf", "rate", "1gbit", "burst", "1m", "limit", "2m")


def limited(bandwidth: Bandwidth, uid: str = "net-1") -> Network:
    return replace(network(ports=(replace(PORT, bandwidth=bandwidth),)), uid=uid)


def attachment(router: Path) -> TapAttachment:
    return TapAttachment(router, tap_name(PORT), BRIDGE, 1500, tap_alias(PORT))


@contextmanager
def on_bridge(router: Path) -> Iterator[socket.socket]:
    """The other side."""
    with Namespace(router).inside(
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    ) as raw:
        raw.bind((BRIDGE, ETHERTYPE))
        yield raw


def to_guest_bps(router: Path, tap: int) -> float:
    """What arrives in the guest while the bridge sends without end."""
    received = 0
    with contextlib.suppress(BlockingIOError):
        while True:  # of the flood before
            os.read(tap, 65536)
    with on_bridge(router) as raw:
        until = time.monotonic() + FLOOD_S

        def flood() -> None:
            while time.monotonic() < until:
                raw.send(FRAME)

        sender = threading.Thread(target=flood)
        sender.start()
        while time.monotonic() < until:
            try:
                received += len(os.read(tap, 65536)) - len(VNET_HEADER)
            except BlockingIOError:
                time.sleep(0.001)
        sender.join()
    return received * 8 / FLOOD_S


def from_guest_bps(router: Path, tap: int) -> float:
    """What arrives at the bridge while the guest sends without end."""
    received = 0
    with on_bridge(router) as raw:
        raw.setblocking(False)  # noqa: FBT003
        until = time.monotonic() + FLOOD_S
        while time.monotonic() < until:
            os.write(tap, VNET_HEADER + FRAME)
            with contextlib.suppress(BlockingIOError):
                while True:
                    received += len(raw.recv(65536))
    return received * 8 / FLOOD_S


async def test_what_passes_is_no_more_than_the_limit_and_close_to_it(router: Path) -> None:
    """Bursts and what waits at the end are some percent of a second's worth."""
    await apply_router(router, limited(UNLIMITED))
    with holding(attachment(router)) as tap:
        for bandwidth, low, high in (
            (UNLIMITED, 30e6, 1e12),
            (Bandwidth(20_000_000, 10_000_000), 0.8, 1.15),
            (Bandwidth(5_000_000, 15_000_000), 0.8, 1.15),
            (UNLIMITED, 30e6, 1e12),
        ):
            await apply_router(router, limited(bandwidth))
            to_guest, from_guest = to_guest_bps(router, tap), from_guest_bps(router, tap)
            assert low <= to_guest / (bandwidth.ingress_bps or 1) <= high
            assert low <= from_guest / (bandwidth.egress_bps or 1) <= high


async def test_one_way_may_be_limited_alone(router: Path) -> None:
    await apply_router(router, limited(UNLIMITED))
    with holding(attachment(router)) as tap:
        await apply_router(router, limited(Bandwidth(egress_bps=5_000_000)))
        assert to_guest_bps(router, tap) > 8e6
        assert from_guest_bps(router, tap) < 6e6
        await apply_router(router, limited(Bandwidth(ingress_bps=5_000_000)))
        assert to_guest_bps(router, tap) < 6e6
        assert from_guest_bps(router, tap) > 8e6


async def test_limits_that_are_so_are_not_touched_and_what_somebody_changed_is_repaired(router: Path) -> None:
    wanted = limited(Bandwidth(20_000_000, 10_000_000))
    await apply_router(router, wanted)
    namespace = Namespace(router)
    with holding(attachment(router)):
        await apply_router(router, wanted)
        with monitored(router) as changes:
            await apply_router(router, wanted)
        assert changes == []
        before = queues(namespace)
        for damage in (
            ("tc", "qdisc", "del", "dev", tap_name(PORT), "root"),
            ("tc", "qdisc", "del", "dev", tap_name(PORT), "ingress"),
            ("tc", "qdisc", "replace", "dev", ifb_name(PORT), "root", *OTHER),
            ("ip", "link", "del", ifb_name(PORT)),
            ("ip", "link", "set", ifb_name(PORT), "down"),
        ):  # fmt: skip
            namespace.run(*damage)
            await apply_router(router, wanted)
            assert queues(namespace) == before, damage


def queues(namespace: Namespace) -> list[str]:
    """All that limits the port, but for handles, which the kernel may choose."""
    shown = namespace.run("tc", "qdisc", "show")
    buckets = [re.sub(r"tbf \w+: ", "", line) for line in shown.splitlines() if " tbf " in line]
    filters = namespace.run("tc", "filter", "show", "dev", tap_name(PORT), "parent", "ffff:")
    leads_there, up = f"device {ifb_name(PORT)}" in filters, "UP" in namespace.links()[ifb_name(PORT)]["flags"]
    return [*sorted(buckets), f"redirected: {leads_there}", f"up: {up}"]


async def test_what_limited_a_port_goes_with_it_and_with_its_limit(router: Path) -> None:
    namespace, wanted = Namespace(router), limited(Bandwidth(20_000_000, 10_000_000))
    await apply_router(router, wanted)
    assert ifb_name(PORT) not in namespace.links()
    with holding(attachment(router)):
        await apply_router(router, wanted)
        assert ifb_name(PORT) in namespace.links()
        assert await ports_held(router) == {tap_name(PORT)}
        await apply_router(router, limited(UNLIMITED))
        assert ifb_name(PORT) not in namespace.links()
        await apply_router(router, wanted)
    await apply_router(router, wanted)
    assert ifb_name(PORT) not in namespace.links()


@pytest.mark.parametrize("bits_per_s", [64_000, 10_000_000, 32_000_000_000])
def test_a_bucket_holds_at_least_some_frames_and_the_kernel_s_numbers(bits_per_s: int) -> None:
    bucket = bucket_for(bits_per_s, 9000)
    assert bucket.bytes_per_s == bits_per_s // 8
    assert 4 * 9000 < bucket.burst_bytes < bucket.limit_bytes < 1 << 32
    assert bucket.bytes_per_s < 1 << 32
