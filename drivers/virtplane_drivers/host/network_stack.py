"""The network stack of one namespace: its links, addresses and routes by rtnetlink, and its settings by /proc/sys/net.

Blocking, and for one thread, which enters the namespace. Nothing is remembered: each question is put to the kernel.
pyroute2 is imported at the first use: it takes 7 MiB, which an agent without networks of ours saves.
"""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Any, Self

from virtplane_drivers.host import netns

MAIN_TABLE = 254
LOCAL_TABLE = 255
"""The kernel's own: addresses of this host, broadcasts."""
BY_ROUTER_ADVERTISEMENT = 9
"""Protocol of a route (rtnetlink(7), RTPROT_RA)."""

_SYSCTLS = Path("/proc/sys")
_UP = 1
_PERMANENT, _NO_DUPLICATE_DETECTION = 0x80, 0x02
_UNICAST = 1
_EVERY_FAMILY = 255
"""Of AF_UNSPEC the kernel tells IPv4's alone."""
_TBF = "tbf"
_BUCKET_HANDLE = 0x10000
_INGRESS = 0xFFFF0000
_EVERY_PROTOCOL = 0x0003
_STATIC = 4


@dataclass(frozen=True, slots=True)
class Link:
    """A network device."""

    index: int
    name: str
    kind: str
    """`bridge`, `veth`, `tun` ...; empty of hardware and of `lo`."""
    mac: str
    mtu: int
    up: bool
    """As asked for; whether it has a carrier is another thing."""
    alias: str = ""
    master: int | None = None
    """Index of the bridge that it is a port of."""
    peer: int | None = None
    """Of a veth: index of its other end, in that one's namespace. Of a VLAN device: of what it is on."""
    plain_bridge: bool = False
    """Of a bridge: no spanning tree, and multicast goes to all ports."""
    is_limited: bool = False
    """What it sends passes a token bucket."""
    knows_vlans: bool = False
    """Of a bridge: this kernel lets it filter its ports by VLAN, whether it does now or not."""
    vlan: int | None = None
    """Of a VLAN device."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link."""

    link: int
    interface: IPv4Interface | IPv6Interface
    permanent: bool = True
    """False: it ends unless a router or a server renews it."""


@dataclass(frozen=True, slots=True)
class StackRoute:
    """A route to elsewhere, by one link."""

    link: int
    destination: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None
    table: int = MAIN_TABLE
    protocol: int = _STATIC
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket (tc-tbf(8)): how much passes at most."""

    bytes_per_s: int
    burst_bytes: int = field(compare=False)
    """At once, after a pause. The kernel keeps it as a time, and tells no exact number of bytes."""
    limit_bytes: int
    """Of that and what may wait."""


class NetworkStack:
    """Entered by a thread that ends soon: it stays in the namespace (see `netns`)."""

    def __init__(self, namespace: Path = netns.OWN) -> None:
        self.namespace = namespace
        self._netlink: Any = None

    def __enter__(self) -> Self:
        """Raises OSError: there is no such namespace."""
        from pyroute2 import IPRoute  # noqa: PLC0415  # see above

        netns.enter(self.namespace)
        self._netlink = IPRoute(strict_check=True)  # what is asked of one link is not told of all
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    # --- what is there ---

    def links(self) -> dict[str, Link]:
        """All, by name."""
        links = [_link(message) for message in self._all_of("links", "get_links")]
        return {link.name: link for link in links}

    def link(self, name: str) -> Link | None:
        """The one of that name. Cheap, as `links` is not where there are hundreds (0.3 ms each)."""
        return self._one_link(ifname=name)

    def links_at(self, indices: Iterable[int]) -> dict[int, Link]:
        """Those of them that are there still."""
        found = (self._one_link(index=index) for index in indices)
        return {link.index: link for link in found if link is not None}

    def addresses(self, link: int | None = None) -> list[Address]:
        """Of one link, or of all."""
        filters = {} if link is None else {"index": link}
        return [_address(message) for message in self._all_of("addresses", "get_addr", **filters)]

    def port_vlans(self, port: Link) -> dict[int, int]:
        """The VLANs that a port of a bridge is in, with their flags (linux/if_bridge.h, BRIDGE_VLAN_INFO_*)."""
        found: dict[int, int] = {}
        for message in self._all_of(f"vlans of {port.name}", "get_vlans", index=port.index):
            spec = message.get_attr("IFLA_AF_SPEC")
            for info in spec.get_attrs("IFLA_BRIDGE_VLAN_INFO") if spec else ():
                found[info["vid"]] = info["flags"]
        return found

    def routes(self) -> list[StackRoute]:
        """Those to elsewhere, of all tables; one with several ways is here once for each."""
        return [
            route
            # The type is looked at by the kernel already: for each address it has two to four routes of its own.
            for message in self._all_of("routes", "route", "dump", family=_EVERY_FAMILY, type=_UNICAST)
            if message["type"] == _UNICAST and message.get_attr("RTA_TABLE") != LOCAL_TABLE
            for route in _routes(message)
        ]

    # --- what changes it; each is one step for the kernel ---

    def make_bridge(self, name: str, mac: str) -> Link:
        """Without spanning tree and multicast snooping, and down."""
        self._change("make bridge", name, "link", "add", ifname=name, kind="bridge", address=mac)
        return self._made(name)

    def make_plain(self, bridge: Link) -> None:
        """See `Link.plain_bridge`: a port forwards at once, and no multicast waits for somebody who asks for it."""
        options = {"br_stp_state": 0, "br_mcast_snooping": 0}
        self._change("change bridge", bridge.name, "link", "set", index=bridge.index, kind="bridge", **options)

    def make_veth(self, name: str, mtu: int, peer_name: str, peer_namespace: Path) -> Link:
        """Both ends at once, each in its namespace, both down."""
        with peer_namespace.open("rb") as held:
            peer = {"ifname": peer_name, "net_ns_fd": held.fileno(), "mtu": mtu}
            self._change("make veth", name, "link", "add", ifname=name, kind="veth", mtu=mtu, peer=peer)
        return self._made(name)

    def make_vlan(self, name: str, below: Link, vlan: int) -> Link:
        """A device whose frames carry the VLAN's tag on the link below it; down, and of that one's MTU."""
        self._change("make vlan", name, "link", "add", ifname=name, kind="vlan", link=below.index, vlan_id=vlan)
        return self._made(name)

    def add_port_vlan(self, port: Link, vlan: int) -> None:
        """A port of a bridge is in that VLAN, and its frames carry the tag. One that it is in already: the same."""
        self._change(f"add vlan {vlan} to", port.name, "vlan_filter", "add", index=port.index, vlan_info={"vid": vlan})

    def delete_port_vlan(self, port: Link, vlan: int) -> None:
        """The port of a bridge is in it no more."""
        self._change(
            f"take vlan {vlan} from", port.name, "vlan_filter", "del", index=port.index, vlan_info={"vid": vlan}
        )

    def change_link(self, link: Link, **changes: object) -> None:
        """`mtu`, `ifalias`, `address`, `master` (an index; 0 for none), `state` (`up`, `down`): all in one message."""
        self._change(f"change {sorted(changes)} of", link.name, "link", "set", index=link.index, **changes)

    def delete_link(self, link: Link) -> None:
        """With its other end, its addresses and its routes."""
        self._change("delete", link.name, "link", "del", index=link.index)

    def add_address(self, link: Link, interface: IPv4Interface | IPv6Interface) -> None:
        """Of IPv6: usable at once, without asking whether somebody else has it."""
        flags = {"flags": _NO_DUPLICATE_DETECTION} if interface.version == 6 else {}
        what = {"address": str(interface.ip), "prefixlen": interface.network.prefixlen}
        self._change(f"add {interface} to", link.name, "addr", "add", index=link.index, **what, **flags)

    def delete_address(self, link: Link, interface: IPv4Interface | IPv6Interface) -> None:
        """Routes that need it go with it."""
        what = {"address": str(interface.ip), "prefixlen": interface.network.prefixlen}
        self._change(f"take {interface} from", link.name, "addr", "del", index=link.index, **what)

    def add_route(self, route: StackRoute) -> None:
        """Nobody else's route is replaced: one to the same destination with the same metric is an OSError."""
        self._change("add route to", str(route.destination), "route", "add", **_described(route))

    def delete_route(self, route: StackRoute) -> None:
        """Exactly that one."""
        self._change("delete route to", str(route.destination), "route", "del", **_described(route))

    # --- limits ---

    def bucket(self, link: Link) -> Bucket | None:
        """What limits that which the link sends."""
        for message in self._all_of(f"limits of {link.name}", "get_qdiscs", index=link.index):
            if message["index"] == link.index and message.get_attr("TCA_KIND") == _TBF:
                parameters = message.get_nested("TCA_OPTIONS", "TCA_TBF_PARMS")
                return Bucket(parameters["rate"], 0, parameters["limit"])
        return None

    def set_bucket(self, link: Link, bucket: Bucket | None) -> None:
        """In the place of the one that is there."""
        if bucket is None:
            self._change("stop limiting", link.name, "tc", "del", index=link.index, root=True)
            return
        sizes = {"rate": bucket.bytes_per_s, "burst": bucket.burst_bytes, "limit": bucket.limit_bytes}
        what = {"kind": _TBF, "index": link.index, "handle": _BUCKET_HANDLE}
        self._change("limit", link.name, "tc", "replace", **what, **sizes)

    def make_ifb(self, name: str) -> Link:
        """What is sent by it is received by the link that it was redirected from. Down."""
        self._change("make ifb", name, "link", "add", ifname=name, kind="ifb")
        return self._made(name)

    def redirect(self, link: Link, to: Link) -> None:
        """All that the link receives is sent by another one first. Of one that is redirected nothing is done."""
        kinds = [
            message.get_attr("TCA_KIND")
            for message in self._all_of(f"limits of {link.name}", "get_qdiscs", index=link.index)
            if message["index"] == link.index
        ]
        if "ingress" not in kinds:
            self._change("redirect", link.name, "tc", "add", kind="ingress", index=link.index, handle=_INGRESS)
        if not self._all_of(f"filters of {link.name}", "get_filters", index=link.index, parent=_INGRESS):
            action = {"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": to.index}
            match = {"kind": "u32", "keys": ["0x0/0x0+0"], "target": 0x10001, "action": action}
            where = {"index": link.index, "parent": _INGRESS, "prio": 1, "protocol": _EVERY_PROTOCOL}
            self._change("redirect", link.name, "tc", "add-filter", **where, **match)

    def stop_redirecting(self, link: Link) -> None:
        """It receives what comes."""
        try:
            self._change("stop redirecting", link.name, "tc", "del", kind="ingress", index=link.index, handle=_INGRESS)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # there is none
                raise

    def set_sysctl(self, name: str, value: str) -> bool:
        """Whether it had to be changed; `name` is a path below /proc/sys.

        Raises:
            OSError: there is no such setting, or it may not be written.
        """
        netns.enter(self.namespace)  # another stack of the same thread may have been used meanwhile
        path = _SYSCTLS / name
        if path.read_text().strip() == value:
            return False
        self._write_sysctl(path, value)
        return True

    def sysctl(self, name: str) -> str | None:
        """None: this kernel has no such setting, or nothing is of that name."""
        netns.enter(self.namespace)
        try:
            return (_SYSCTLS / name).read_text().strip()
        except FileNotFoundError:
            return None

    def has_sysctls(self, folder: str) -> bool:
        """Whether this kernel has any of that folder below /proc/sys."""
        netns.enter(self.namespace)
        return (_SYSCTLS / folder).is_dir()

    def _write_sysctl(self, path: Path, value: str) -> None:
        path.write_text(value)

    def _all_of(self, what: str, question: str, /, *arguments: object, **filters: object) -> list[Any]:
        """The one way to have things listed. To its end: the kernel may break off in the middle."""
        from pyroute2 import NetlinkError  # noqa: PLC0415

        try:
            return list(getattr(self._netlink, question)(*arguments, **filters))
        except NetlinkError as error:
            raise OSError(error.code, f"list {what}: {os.strerror(error.code)}") from error

    def _one_link(self, **key: object) -> Link | None:
        from pyroute2 import NetlinkError  # noqa: PLC0415

        try:
            return _link(next(iter(self._netlink.link("get", **key))))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise OSError(error.code, os.strerror(error.code), str(key)) from error

    def _made(self, name: str) -> Link:
        made = self.link(name)
        if made is None:  # somebody deleted it at once
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
        return made

    def _change(self, what: str, name: str, noun: str, verb: str, /, **arguments: object) -> None:
        """The one way to change anything by netlink."""
        from pyroute2 import NetlinkError  # noqa: PLC0415

        try:
            getattr(self._netlink, noun)(verb, **arguments)
        except NetlinkError as error:
            raise OSError(error.code, f"{what} {name}: {os.strerror(error.code)}") from error


def _link(message: Any) -> Link:
    kind = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    options = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA") if kind in ("bridge", "vlan") else None
    bridge, vlan = (options if kind == one else None for one in ("bridge", "vlan"))
    quiet = [bridge.get_attr(name) for name in ("IFLA_BR_STP_STATE", "IFLA_BR_MCAST_SNOOPING")] if bridge else None
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & _UP),
        alias=message.get_attr("IFLA_IFALIAS") or "",
        master=message.get_attr("IFLA_MASTER"),
        peer=message.get_attr("IFLA_LINK"),
        plain_bridge=quiet == [0, 0],
        is_limited=message.get_attr("IFLA_QDISC") == _TBF,
        knows_vlans=bridge is not None and bridge.get_attr("IFLA_BR_VLAN_FILTERING") is not None,
        vlan=vlan.get_attr("IFLA_VLAN_ID") if vlan else None,
    )


def _address(message: Any) -> Address:
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    interface = ip_interface(f"{address}/{message['prefixlen']}")
    return Address(message["index"], interface, permanent=bool(flags & _PERMANENT))


def _routes(message: Any) -> Iterable[StackRoute]:
    everything = "0.0.0.0" if message["family"] == 2 else "::"  # noqa: S104  # AF_INET
    destination = ip_network(f"{message.get_attr('RTA_DST') or everything}/{message['dst_len']}")
    common = {
        "table": message.get_attr("RTA_TABLE"),
        "protocol": message["proto"],
        "metric": message.get_attr("RTA_PRIORITY") or 0,
    }
    for way in message.get_attr("RTA_MULTIPATH") or [message]:
        gateway = way.get_attr("RTA_GATEWAY")
        link = way.get_attr("RTA_OIF") if way is message else way["oif"]
        if link is not None:
            yield StackRoute(link, destination, ip_address(gateway) if gateway else None, **common)


def _described(route: StackRoute) -> dict[str, object]:
    gateway = {"gateway": str(route.gateway)} if route.gateway is not None else {}
    metric = {"priority": route.metric} if route.metric else {}
    what = {"dst": str(route.destination), "oif": route.link, "table": route.table, "proto": route.protocol}
    return {**what, **gateway, **metric}
