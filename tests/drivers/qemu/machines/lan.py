"""A network for real machines: a namespace with a bridge, and on it whoever listens and answers."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.cluster.guests.boot_sector import BootSectorKind, boot_sector
from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Namespace, new_host
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.hypervisor.contract import Nic

ALL_PROTOCOLS = 0x0003
DHCP_TO_SERVER = b"\x00\x44\x00\x43"
"""UDP from port 68 to 67."""


@dataclass(frozen=True)
class Lan:
    """A bridge in a namespace that nothing else is in."""

    namespace: Namespace

    def nic(self, name: str = "lan", *, number: int = 1, mtu: int = 1500, **changes: Any) -> Nic:
        """An adapter joined to it, by a tap of a name of its own."""
        tap = TapAttachment(self.namespace.path, f"t{uuid4().hex[:13]}", "br0", mtu, f"virtplane/test/{name}")
        return Nic(name, f"52:54:00:00:00:{number:02x}", tap, mtu, **changes)

    def taps(self) -> set[str]:
        """Names of all taps, whoever holds them."""
        links = self.namespace.links().values()
        return {str(link["ifname"]) for link in links if link.get("linkinfo", {}).get("info_kind") == "tun"}

    def port_of(self, mac: str) -> str:
        """Where the bridge has heard that address."""
        [port] = self.ports_of(mac)
        return port

    def ports_of(self, mac: str) -> list[str]:
        """Where the bridge has heard that address, if it has."""
        entries = json.loads(self.namespace.run("bridge", "-json", "fdb", "show", "br", "br0"))
        return [str(entry["ifname"]) for entry in entries if entry["mac"] == mac and entry.get("state") != "permanent"]

    def listener(self) -> socket.socket:
        """Hears every frame that passes its bridge."""

        def opened() -> socket.socket:
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
            packets.bind(("br0", 0))
            return packets

        return self.namespace.inside(opened)

    @contextmanager
    def boot_server(self, folder: Path) -> Iterator[None]:
        """Gives addresses and, as what to boot, a boot sector: the firmware loads it to where a disk's would be."""
        folder.mkdir()
        (folder / "sector").write_bytes(boot_sector(BootSectorKind.DEAF, ticks=3))
        self.namespace.ip("address", "add", "192.0.2.1/24", "dev", "br0")
        self.namespace.ip("address", "add", "2001:db8::1/64", "dev", "br0", "nodad")
        # pdeathsig: it ends with us, also when we are killed.
        argv = ["nsenter", f"--net={self.namespace.path}", "setpriv", "--pdeathsig=KILL", "dnsmasq", "--no-daemon"]
        argv += ["--conf-file=/dev/null", "--user=root", "--pid-file=", "--leasefile-ro", "--port=0", "--no-ping"]
        argv += ["--interface=br0", "--bind-interfaces", "--enable-tftp", f"--tftp-root={folder}"]
        argv += ["--dhcp-range=192.0.2.10,192.0.2.99", "--dhcp-boot=sector"]
        # iPXE waits 13 s for a router's advertisement before it goes on without.
        argv += ["--enable-ra", "--dhcp-range=2001:db8::,ra-only"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            eventually(lambda: b"started" in (folder / "log").read_bytes() and process.poll() is None)
            yield
        finally:
            process.kill()
            process.wait()


@contextmanager
def new_lan(folder: Path) -> Iterator[Lan]:
    """A network whose namespace ends with the test, however that ends."""
    with new_host(folder) as host:
        yield lan_in(host.new_namespace())


def lan_in(namespace: Namespace) -> Lan:
    namespace.ip("link", "add", "br0", "type", "bridge")
    namespace.ip("link", "set", "br0", "up")
    return Lan(namespace)


def has_lans() -> bool:
    """Whether this process can make networks, and serve them."""
    return os.geteuid() == 0 and shutil.which("dnsmasq") is not None


def asks_for_address(frame: bytes) -> bool:
    """Whether it is a client's DHCP message."""
    return frame[12:14] == b"\x08\x00" and frame[34:38] == DHCP_TO_SERVER
