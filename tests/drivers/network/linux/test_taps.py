"""Taps: what a hypervisor is given, seen from the bridge that they are ports of."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.networks import network, port
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.blocking import in_thread
from virtplane_drivers.network.linux.links import apply_router, ports_held
from virtplane_drivers.network.linux.names import BRIDGE, tap_alias, tap_name
from virtplane_drivers.tap import open_tap

PORT = port()
VNET_HEADER = bytes(10)
SENDER = bytes.fromhex("525400770005")
FRAME = b"\xff" * 6 + SENDER + b"\x88\xb5" + b"from a guest".ljust(46, b".")  # 88b5: for experiments (IEEE 802)


@pytest.fixture
async def attachment(router: Path) -> TapAttachment:
    """Of a port whose network's router is there."""
    await apply_router(router, network(ports=(PORT,), mtu=1400))
    return TapAttachment(router, tap_name(PORT), BRIDGE, mtu=1400, alias=tap_alias(PORT))


@contextmanager
def opened(attachment: TapAttachment, queues: int = 1, *, vnet_header: bool = True) -> Iterator[list[int]]:
    descriptors = open_tap(attachment, queues, vnet_header=vnet_header)
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def listening(namespace: Namespace, device: str) -> Iterator[socket.socket]:
    """All frames that a device receives, from now on."""
    with namespace.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))) as raw:
        raw.bind((device, 0x88B5))
        raw.settimeout(10)
        yield raw


async def test_a_tap_is_a_port_of_the_bridge_with_mtu_and_alias_and_up(attachment: TapAttachment) -> None:
    with opened(attachment):
        links = Namespace(attachment.namespace).links()
        tap = links[attachment.name]
        assert (tap["master"], tap["mtu"], tap["ifalias"]) == (BRIDGE, 1400, f"virtplane/{PORT.machine_uid}/default")
        assert "UP" in tap["flags"]
        assert not tap["linkinfo"]["info_data"]["persist"]
        assert links[BRIDGE]["mtu"] == 1400
        assert await ports_held(attachment.namespace) == {attachment.name}


async def test_a_tap_is_gone_with_its_last_descriptor(attachment: TapAttachment) -> None:
    first, last = open_tap(attachment, 2)
    try:
        os.close(first)
        assert await ports_held(attachment.namespace) == {attachment.name}
    finally:
        os.close(last)
    assert await ports_held(attachment.namespace) == frozenset()


async def test_a_tap_is_gone_when_its_holder_is_killed(attachment: TapAttachment) -> None:
    with opened(attachment) as descriptors:
        holder = subprocess.Popen(["sleep", "60"], pass_fds=descriptors)
    try:
        assert await ports_held(attachment.namespace) == {attachment.name}
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert await ports_held(attachment.namespace) == frozenset()


@pytest.mark.parametrize("queues", [1, 4])
@pytest.mark.parametrize("header", [VNET_HEADER, b""], ids=["with header", "without header"])
async def test_what_is_written_into_any_queue_comes_out_of_the_bridge(
    attachment: TapAttachment, host: Host, queues: int, header: bytes
) -> None:
    other = host.guest(attachment.namespace, "52:54:00:77:00:06")
    with opened(attachment, queues, vnet_header=bool(header)) as descriptors, listening(other, "eth0") as raw:
        assert len(descriptors) == queues
        for number, descriptor in enumerate(descriptors):
            frame = FRAME[:-1] + bytes([number])
            os.write(descriptor, header + frame)
            assert raw.recv(2048) == frame


async def test_what_the_bridge_sends_to_a_guest_comes_out_of_a_descriptor(
    attachment: TapAttachment, host: Host
) -> None:
    other = host.guest(attachment.namespace, "52:54:00:77:00:06")
    with opened(attachment) as (descriptor,), listening(other, "eth0") as raw:
        os.write(descriptor, VNET_HEADER + FRAME)  # and the bridge has learnt where its sender is
        raw.recv(2048)
        answer = SENDER + bytes.fromhex("525400770006") + FRAME[12:]
        raw.send(answer)
        received: list[bytes] = []

        def answered() -> bool:
            try:
                received.append(os.read(descriptor, 4096)[len(VNET_HEADER) :])
            except BlockingIOError:
                return False
            return answer in received

        eventually(answered, interval_s=0.001)


async def test_a_tap_says_nothing_of_its_own(attachment: TapAttachment) -> None:
    with opened(attachment):
        assert Namespace(attachment.namespace).sysctl(f"net/ipv6/conf/{attachment.name}/disable_ipv6") == "1"
        assert not Namespace(attachment.namespace).ip("address", "show", "dev", attachment.name)[0]["addr_info"]


@pytest.mark.parametrize("queues", [1, 2])
async def test_a_tap_that_a_hypervisor_holds_still_is_not_shared(attachment: TapAttachment, queues: int) -> None:
    with opened(attachment, queues):
        with pytest.raises(OSError, match="busy") as raised:
            open_tap(attachment, queues)
        assert raised.value.errno == errno.EBUSY
        assert await ports_held(attachment.namespace) == {attachment.name}
    with opened(attachment, queues):
        pass


@pytest.mark.parametrize("mistake", [{"bridge": "br9"}, {"mtu": 20}, {"namespace": Path("/proc/self/ns/absent")}])
async def test_a_tap_that_cannot_be_had_is_an_os_error_and_leaves_nothing(
    attachment: TapAttachment, mistake: dict[str, object]
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match=r"br9|change|absent"):
        open_tap(replace(attachment, **mistake), 2)  # type: ignore[arg-type]
    assert await ports_held(attachment.namespace) == frozenset()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_descriptors_are_not_left_to_other_programs(attachment: TapAttachment) -> None:
    with opened(attachment, 2) as descriptors:
        assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)


async def test_the_caller_stays_in_its_namespace(attachment: TapAttachment) -> None:
    own = Path("/proc/thread-self/ns/net").stat().st_ino

    def call() -> int:
        with opened(attachment):
            return Path("/proc/thread-self/ns/net").stat().st_ino

    assert call() == own
    assert await in_thread(call) == own


def test_a_program_that_only_knows_of_taps_does_not_load_what_opens_them() -> None:
    program = "import sys, virtplane_drivers.tap; sys.exit('pyroute2' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0
