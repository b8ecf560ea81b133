"""A host of its own for a test: a network namespace with a way out, and an outside that it reaches.

::

    outside                      eth0: 203.0.113.1, 2001:db8:f::1
       │ veth
    machine                      eth0: 203.0.113.2, 2001:db8:f::2, default routes to the outside
    folder / "netns" / UID       the routers' namespaces, as the driver makes them
       │ veth
    guest(router, ...)           eth0: a namespace that stands in for a guest, joined to the router's br0

Nothing of the machine's own namespace is touched. Namespaces are held by processes that end, and mounts below the
host's folder by one that unmounts them, when the test's process ends, however it ends.
"""

import ctypes
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.waiting import eventually

T = TypeVar("T")

OUTSIDE_IPV4, OUTSIDE_IPV6 = "203.0.113.1", "2001:db8:f::1"
HOST_IPV4, HOST_IPV6 = "203.0.113.2", "2001:db8:f::2"
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Namespace:
    """A network namespace, by a file that holds it."""

    path: Path

    def run(self, *argv: str, stdin: str | None = None) -> str:
        """What a command prints in it; fails with what it said."""
        full = ["nsenter", f"--net={self.path}", "--", *argv]
        done = subprocess.run(full, input=stdin, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout

    def ip(self, *arguments: str) -> Any:
        """`ip -details -json`, parsed; None where it says nothing."""
        said = self.run("ip", "-details", "-json", *arguments)
        return json.loads(said) if said.strip() else None

    def links(self) -> dict[str, dict[str, Any]]:
        """The links by name."""
        return {link["ifname"]: link for link in self.ip("link", "show")}

    def sysctl(self, name: str) -> str:
        """By its path below /proc/sys."""
        return self.run("cat", f"/proc/sys/{name}").strip()

    def set_sysctl(self, name: str, value: object) -> None:
        """By its path below /proc/sys."""
        self.run("sh", "-c", 'echo "$1" > "/proc/sys/$0"', name, str(value))

    def inside(self, function: Callable[[], T]) -> T:
        """What a function returns or raises in a thread that entered the namespace and ends after it."""
        answer: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                _enter(self.path)
                answer.append(function())
            except BaseException as error:  # noqa: BLE001  # it is the caller's
                failure.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return answer[0]

    def pings(self, address: str, timeout_s: float = 0.5) -> bool:
        """Whether one echo request is answered within the time; each call sends another."""
        return self.inside(lambda: _pinged(address, timeout_s))

    def reaches(self, address: str) -> None:
        """Waits until it is answered: neighbours and duplicate addresses are looked up first."""
        eventually(lambda: self.pings(address), interval_s=0)


def _enter(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(descriptor)


def _pinged(address: str, timeout_s: float) -> bool:
    ipv4 = ip_address(address).version == 4
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if ipv4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    request, reply = (8, 0) if ipv4 else (128, 129)
    mark = os.urandom(4)
    packet = bytearray(struct.pack("!BBH", request, 0, 0) + mark)
    if ipv4:  # of ICMPv6 the kernel fills it in
        total = sum(struct.unpack("!4H", packet))
        struct.pack_into("!H", packet, 2, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        deadline = time.monotonic() + timeout_s
        try:
            raw.sendto(packet, (address, 0))
            while (left_s := deadline - time.monotonic()) > 0:
                raw.settimeout(left_s)
                received = raw.recv(2048)[20 if ipv4 else 0 :]
                if received[0] == reply and received[4:8] == mark:
                    return True
        except TimeoutError:
            return False
        except OSError:  # no route, or unreachable by ICMP
            time.sleep(0.02)
    return False


@dataclass
class Host:
    """A host and its surroundings, for one test."""

    folder: Path
    machine: Namespace
    """Of the host itself: what the driver is given as `host_namespace`."""
    outside: Namespace
    new_namespace: Callable[[], Namespace] = field(repr=False)
    """Another one, until the host ends."""

    def guest(
        self,
        router: Path,
        mac: str,
        *addresses: str,
        gateways: tuple[str, ...] = (),
        port: str = "",
        bridge: str = "br0",
    ) -> Namespace:
        """A stand-in for a guest, joined to the router's bridge by a port of that name.

        `addresses` with their prefix lengths (`10.0.0.5/24`); a default route for each gateway.
        """
        guest, at_router = self.new_namespace(), Namespace(router)
        port = port or f"t{mac.replace(':', '')}"
        guest.ip("link", "add", "eth0", "address", mac, "type", "veth", "peer", "name", port, "netns", str(router))
        at_router.ip("link", "set", port, "master", bridge, "up")
        guest.ip("link", "set", "lo", "up")
        guest.ip("link", "set", "eth0", "up")
        for address in addresses:
            guest.ip("address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        for gateway in gateways:
            # A router's advertisement may have brought that of IPv6 already.
            guest.ip("-6" if ":" in gateway else "-4", "route", "replace", "default", "via", gateway)
        return guest


@contextmanager
def new_host(folder: Path) -> Iterator[Host]:
    """A host whose namespaces, processes and mounts are gone at the end, and also when the process is killed in it."""
    with _until_we_end(folder) as new_namespace:
        host = Host(folder, new_namespace(), new_namespace(), new_namespace)
        host.machine.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(host.outside.path))
        for namespace, own, other in (
            (host.machine, (HOST_IPV4, HOST_IPV6), (OUTSIDE_IPV4, OUTSIDE_IPV6)),
            (host.outside, (OUTSIDE_IPV4, OUTSIDE_IPV6), ()),
        ):
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("link", "set", "eth0", "up")
            namespace.ip("address", "add", f"{own[0]}/24", "dev", "eth0")
            namespace.ip("address", "add", f"{own[1]}/64", "dev", "eth0", "nodad")
            for address in other:
                namespace.ip("-6" if ":" in address else "-4", "route", "add", "default", "via", address)
        yield host


@contextmanager
def _until_we_end(folder: Path) -> Iterator[Callable[[], Namespace]]:
    """Makes namespaces. All that waits for us to end has the reading end of one pipe as its standard input."""
    reading, writing = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C is ours, they end with the pipe.
        process = subprocess.Popen(argv, stdin=reading, stdout=subprocess.DEVNULL, start_new_session=True)
        processes.append(process)
        return process

    def new_namespace() -> Namespace:
        path = Path(f"/proc/{start('unshare', '--net', 'cat').pid}/ns/net")
        ours = Path("/proc/self/ns/net").stat().st_ino
        eventually(lambda: path.stat().st_ino != ours, interval_s=0.001)
        return Namespace(path)

    unmount = 'cat; cut -d" " -f5 /proc/self/mountinfo | grep -F "$0/" | xargs -r -n1 umount --lazy'
    try:
        start("sh", "-c", unmount, str(folder))
        yield new_namespace
    finally:
        os.close(writing)
        os.close(reading)
        for process in processes:
            process.wait()
