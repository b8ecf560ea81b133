"""What is seen of a namespace by iproute2, and not by the driver's own eyes."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Namespace
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.network.linux.names import BRIDGE

_SETTINGS = ("rp_filter", "forwarding", "arp_ignore", "arp_announce", "accept_redirects", "send_redirects")
_IPV6_SETTINGS = ("disable_ipv6", "forwarding", "accept_ra", "addr_gen_mode", "accept_redirects", "force_forwarding")


def addresses(path: Path, device: str) -> set[str]:
    """Of one device, with their prefix lengths."""
    (link,) = Namespace(path).ip("address", "show", "dev", device)
    return {f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"]}


def routes(path: Path, device: str = "") -> set[str]:
    """Of both families, but for the kernel's own to multicast and link-local."""
    found: set[str] = set()
    for family in ("-4", "-6"):
        for one in Namespace(path).ip(family, "route", "show", "table", "all") or ():
            if one.get("type", "unicast") == "unicast" and not one["dst"].startswith(("fe80::", "ff00::")):
                what = f"{family} {one['dst']} via {one.get('gateway')} dev {one['dev']}"
                found |= {what} if device in ("", one["dev"]) else set()
    return found


def state(path: Path) -> set[str]:
    """All that makes a namespace what it is, a line for each, without the numbers that the kernel chooses."""
    namespace = Namespace(path)
    found = routes(path) | set(settings(namespace))
    for link in namespace.ip("address", "show"):
        name, data = link["ifname"], link.get("linkinfo", {}).get("info_data", {})
        told = {key: link.get(key) for key in ("mtu", "ifalias", "master")}
        told |= {key: data.get(key) for key in ("stp_state", "mcast_snooping", "vlan_filtering", "id")}
        told |= {"kind": link.get("linkinfo", {}).get("info_kind"), "up": "UP" in link["flags"]}
        told |= {"mac": link["address"]} if name == BRIDGE else {}
        found |= {f"{name} {key} {value}" for key, value in told.items()}
        found |= {f"{name} address {one['local']}/{one['prefixlen']}" for one in link["addr_info"]}
    return found


def settings(namespace: Namespace) -> list[str]:
    """Those of all devices that the driver has to do with."""
    patterns = [f"net/ipv4/conf/*/{name}" for name in _SETTINGS]
    patterns += [f"net/ipv6/conf/*/{name}" for name in _IPV6_SETTINGS]
    # Not each kernel has all of them.
    return namespace.run("sh", "-c", f"cd /proc/sys; grep -s . {' '.join(patterns)}; true").splitlines()


def settled(path: Path, *devices: str) -> None:
    """Waits until the kernel has noticed who has a carrier, which it tells up to a second later."""
    eventually(lambda: all(Namespace(path).links()[device]["operstate"] != "UNKNOWN" for device in devices))


@contextmanager
def monitored(path: Path) -> Iterator[list[str]]:
    """What the kernel tells of changes while the block runs; the list is filled when it ends."""
    namespace, changes = Namespace(path), list[str]()
    argv = ["nsenter", f"--net={path}", "ip", "monitor", "link", "address", "route", "netconf"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            said = b""

            def told(mark: str) -> bool:
                nonlocal said
                assert process.stdout is not None
                with contextlib.suppress(BlockingIOError):
                    said += process.stdout.read() or b""
                if mark.encode() not in said:
                    for verb in ("add", "del"):
                        namespace.ip("address", verb, f"{mark}/32", "dev", "lo")
                    return False
                return True

            eventually(lambda: told("127.9.0.1"))
            said = b""
            yield changes
            eventually(lambda: told("127.9.0.2"))
            lines = said.decode().splitlines()
            changes += [line for line in lines if not line.startswith(" ") and "127.9.0." not in line]
        finally:
            process.kill()


@contextmanager
def holding(attachment: TapAttachment) -> Iterator[int]:
    """A tap, as a hypervisor holds it."""
    (descriptor,) = open_tap(attachment, 1)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
