"""What the contract suite runs on: a host for each driver of networks, kept while drivers come and go."""

import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Protocol

from tests.cluster.network_leftovers import end_networks
from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import new_host
from tests.drivers.network.linux.networks import TRANSIT_CIDR
from tests.unix_sockets import address_of
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import FakeNicAttachment, NicAttachment, StreamAttachment, TapAttachment
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.contract import NetworkDriver
from virtplane_drivers.network.fake import FakeNetworks
from virtplane_drivers.network.passt.process import socket_state


class NetworkHost(Protocol):
    """A host, and the hypervisors on it."""

    mode: NetworkMode
    """One that its driver has."""

    def open(self) -> NetworkDriver:
        """A driver of what is on the host now, not entered yet."""
        ...

    @contextmanager
    def joined(self, attachment: NicAttachment) -> Iterator[None]:
        """A hypervisor holds that port for the length of the block."""
        ...


class FakeHost:
    """Its state file is the host."""

    mode = NetworkMode.NAT

    def __init__(self, folder: Path) -> None:
        self._state_file = folder / "networks.json"
        self._joined: set[tuple[str, str]] = set()

    def open(self) -> NetworkDriver:
        driver = FakeNetworks(state_file=self._state_file)
        driver.joined = self._joined
        return driver

    @contextmanager
    def joined(self, attachment: NicAttachment) -> Iterator[None]:
        assert isinstance(attachment, FakeNicAttachment)
        self._joined.add(attachment.port)
        yield
        self._joined.discard(attachment.port)


class LinuxHost:
    """A network namespace stands for the host."""

    mode = NetworkMode.NAT

    def __init__(self, folder: Path, namespace: Path) -> None:
        self._folder = folder
        self._namespace = namespace

    def open(self) -> NetworkDriver:
        from virtplane_drivers.network.linux.allowances import Allowances  # noqa: PLC0415
        from virtplane_drivers.network.linux.driver import LinuxNetworks  # noqa: PLC0415  # as an agent does

        return LinuxNetworks(
            self._folder / "state",
            self._folder / "run",
            transit_cidr=TRANSIT_CIDR,
            host_namespace=self._namespace,
            allowances=Allowances(routed=(IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8"))),
        )

    @contextmanager
    def joined(self, attachment: NicAttachment) -> Iterator[None]:
        assert isinstance(attachment, TapAttachment)
        descriptors = open_tap(attachment, 1)
        yield
        for descriptor in descriptors:
            os.close(descriptor)


class PasstHost:
    """A network namespace stands for the host; a stream stands for a hypervisor."""

    mode = NetworkMode.USER

    def __init__(self, folder: Path, namespace: Path) -> None:
        self._folder = folder
        self._namespace = namespace

    def open(self) -> NetworkDriver:
        from virtplane_drivers.network.passt.driver import PasstNetworks  # noqa: PLC0415  # as an agent does

        return PasstNetworks(self._folder / "run", host_namespace=self._namespace)

    @contextmanager
    def joined(self, attachment: NicAttachment) -> Iterator[None]:
        assert isinstance(attachment, StreamAttachment)
        with socket.socket(socket.AF_UNIX) as hypervisor:
            with address_of(attachment.socket) as address:
                hypervisor.connect(address)
            # passt takes it a moment later.
            eventually(lambda: socket_state(attachment.socket).joined, interval_s=0.001)
            yield


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """Not below pytest's own: the users of name servers get through it. Nothing that was started with it is left."""
    folder = Path(tempfile.mkdtemp(prefix="virtplane-networks-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        end_networks(folder)
        shutil.rmtree(folder)


@asynccontextmanager
async def host_of(kind: str, folder: Path) -> AsyncIterator[NetworkHost]:
    """`fake`, `linux` or `passt`; nothing of it is left at the end."""
    if kind == "fake":
        yield FakeHost(folder)
        return
    with reachable_folder() as reachable, new_host(reachable) as host:
        made = (LinuxHost if kind == "linux" else PasstHost)(reachable, host.machine.path)
        try:
            yield made
        finally:
            async with made.open() as driver:
                for uid in await driver.inventory():
                    await driver.remove(uid)
