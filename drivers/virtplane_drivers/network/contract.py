"""What a host's networks can be asked, as a small protocol that a Linux host, a vSphere or a Hyper-V switch can keep.

A network is known by its UID (metadata.uid of the VirtualNetwork); names of the host (bridges, port groups) never leave
a driver but inside an attachment, and those that it gives to networks in its facts. A driver holds no truth: what it
says in `observe` it has just looked up, so one that was killed at any point and opened again says the same, and `apply`
goes on where it was.

`apply` says how a network is to be as a whole, with a port for each interface of the machines of this host, and is
asked again after every change and from time to time: what is so already is not touched, what somebody else changed is
repaired. A machine is started after an `apply` that had its ports. One network's verbs are never called at the same
time by two tasks; those of different networks are.

::

                 apply                      apply (repairs, changes)
      absent ─────────────► READY ◄──────────────────────────────────► FAILED (in part; `reason` and `message` say why)
        ▲                     │
        └────── remove ───────┘  refused while a hypervisor holds a port of it
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol, Self, runtime_checkable

from virtplane_api.host_networks import GivenNetwork
from virtplane_api.vocabulary import (
    Addressing,
    FirewallAction,
    FirewallDirection,
    FirewallProtocol,
    ForwardProtocol,
    NetworkMode,
)
from virtplane_drivers.attachment import NicAttachment
from virtplane_drivers.network.overlay import Overlay, Underlay

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Subnet:
    """The addresses of one family."""

    cidr: IpNetwork
    gateway: IpAddress | None
    """The router's own address in it; None: the network has no router."""
    addressing: Addressing = Addressing.DHCP


@dataclass(frozen=True, slots=True)
class Route:
    """A network behind a machine of this one."""

    destination: IpNetwork
    via: IpAddress


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of the host that leads to a machine."""

    protocol: ForwardProtocol
    host_port: int
    port: int


@dataclass(frozen=True, slots=True)
class FirewallRule:
    """Flows, by who begins them and where to, and whether they are let through."""

    direction: FirewallDirection
    """As the guest sees it."""
    action: FirewallAction
    protocol: FirewallProtocol = FirewallProtocol.ANY
    ports: tuple[tuple[int, int], ...] = ()
    """Ranges of ports that the flow is to, first and last; empty: all."""
    is_of_everybody: bool = True
    """Else the other end is in `cidrs` or in one of `groups`."""
    cidrs: tuple[IpNetwork, ...] = ()
    groups: tuple[str, ...] = ()
    """Names of groups of the network."""


@dataclass(frozen=True, slots=True)
class Firewall:
    """What the ports that name it let through: the first rule that matches decides, else the default."""

    name: str
    """Within its network: a DNS label that names the same rules for ever, for example a digest of them."""
    ingress: FirewallAction
    egress: FirewallAction
    rules: tuple[FirewallRule, ...] = ()


@dataclass(frozen=True, slots=True)
class AddressGroup:
    """Addresses that rules name: one machine more or less changes no rule."""

    name: str
    """Within its network: a DNS label, whatever is in it."""
    addresses: tuple[IpAddress, ...]
    macs: tuple[str, ...] = ()
    """Of the same machines: a rule that denies them holds for whatever they send from one link to another."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """How much passes at most, in bits per second, as the guest sees it. None: no limit."""

    ingress_bps: int | None = None
    """To the guest."""
    egress_bps: int | None = None
    """From the guest."""

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self != UNLIMITED


UNLIMITED = Bandwidth()


@dataclass(frozen=True, slots=True)
class Port:
    """One interface of a machine of this host, with all that it may send as."""

    machine_uid: str
    machine_name: str
    """By which it is found in the network's DNS."""
    interface: str
    """Name of the interface within the machine."""
    mac: str
    """Lower-case, with colons."""
    addresses: tuple[IpAddress, ...] = ()
    """At most one of each family. Of a family that the network does not manage, or of SLAAC: none."""
    forwards: tuple[PortForward, ...] = ()
    firewall: str = ""
    """Name of a firewall of the network; empty: all flows pass."""
    bandwidth: Bandwidth = UNLIMITED
    """In force from the first `apply` on after a hypervisor joined the port."""

    @property
    def key(self) -> tuple[str, str]:
        """By which a port is told from all others of a host."""
        return self.machine_uid, self.interface


@dataclass(frozen=True, slots=True)
class Network:
    """A network as it is to be on this host."""

    uid: str
    namespace: str
    name: str
    mode: NetworkMode
    ipv4: Subnet | None = None
    ipv6: Subnet | None = None
    mtu: int = 1500
    domain: str = ""
    """DNS suffix of its machines' names; never empty where there is an `ipv4` or an `ipv6`."""
    forwarders: tuple[IpAddress, ...] = ()
    """Servers for all other names; empty: those of the host."""
    routes: tuple[Route, ...] = ()
    host_bridge: str = ""
    """Of mode Bridge: the bridge of the host."""
    vlan: int | None = None
    """Of that bridge, 1 to 4094; None: untagged."""
    overlay: Overlay | None = None
    """Of mode Overlay, and never None there."""
    ports: tuple[Port, ...] = ()
    firewalls: tuple[Firewall, ...] = ()
    """Those that ports name: once for all ports that share one."""
    groups: tuple[AddressGroup, ...] = ()
    """Those that rules name."""

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """Those that it has."""
        return tuple(subnet for subnet in (self.ipv4, self.ipv6) if subnet is not None)

    @property
    def chosen_prefix(self) -> IPv6Network | None:
        """Of SLAAC: in which each guest chooses addresses of its own."""
        if self.ipv6 is None or self.ipv6.addressing is not Addressing.SLAAC:
            return None
        cidr = self.ipv6.cidr
        return cidr if isinstance(cidr, IPv6Network) else None

    @property
    def has_firewall(self) -> bool:
        """Whether a port of it has one."""
        return any(port.firewall for port in self.ports)


class NetworkState(StrEnum):
    """Whether a network is as it is to be."""

    READY = "Ready"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class ObservedNetwork:
    """A network as it was just seen."""

    state: NetworkState | None
    """None: the host has no such network."""
    reason: str = ""
    """Of FAILED: one CamelCase word."""
    message: str = ""
    """Of FAILED: what is wrong, and what a person can do about it."""
    ports: frozenset[tuple[str, str]] = frozenset()
    """Keys of the ports whose interface is served, whether a hypervisor has joined it or not."""
    seen: Mapping[tuple[str, str], tuple[IpAddress, ...]] = field(default_factory=dict)
    """By key of a port: addresses that its guest was seen to use, of families that the network does not manage. A few
    of each family, the newest first, as long as its hypervisor holds the port. Empty where a driver sees none."""


NO_NETWORK = ObservedNetwork(state=None)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went one way through a port since a hypervisor joined it."""

    bytes: int
    packets: int
    dropped: int
    """Packets that were not taken, mostly as there was no room for them."""
    errors: int
    """Packets that were malformed, or could not be given on."""


@dataclass(frozen=True, slots=True)
class PortCounters:
    """Both ways, as the guest sees them: what it received, and what it sent."""

    received: Traffic
    transmitted: Traffic


CountersByPort = Mapping[tuple[str, str], PortCounters]
"""By the port's key."""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What a host's networks can be, asked once when the agent starts."""

    modes: frozenset[NetworkMode]
    missing: Mapping[str, str] = field(default_factory=dict)
    """`Network` and a mode, or a `NetworkCapability`, that the driver has elsewhere -> why this host lacks it and what
    would bring it."""
    underlay: Underlay | None = None
    """What networks of mode Overlay go over; None: there are none."""
    host_networks: tuple[GivenNetwork, ...] | None = None
    """What networks of mode Bridge may be joined to; None: the driver refuses none by its name."""
    routed: tuple[IpNetwork, ...] | None = None
    """Addresses that networks of mode Routed may have; None: the driver refuses none."""


HOST_NETWORKS = ""
"""Among the events of a driver no network: its `host_networks` are others now."""


class NetworkDriver(AbstractAsyncContextManager["NetworkDriver"], Protocol):
    """The networks of this host. Entered once. Leaving it ends no network: guests go on to be served."""

    name: str
    """DNS label."""

    async def __aenter__(self) -> Self: ...

    async def probe(self) -> NetworkFacts:
        """Which modes this host can have. Never changes anything."""
        ...

    async def inventory(self) -> tuple[str, ...]:
        """UIDs of all networks of ours that this host has, in no order."""
        ...

    async def observe(self, uid: str) -> ObservedNetwork:
        """The network as it is now. Never changes anything, never raises."""
        ...

    async def apply(self, network: Network) -> None:
        """Make the network so. When it returns, what its ports send as their own passes, and they are answered.

        A port that a hypervisor holds and that is not asked for any more stays served until it lets go, or until
        another one needs what it has: a machine runs on also when nobody describes it.

        What is wrong with it without keeping its guests from each other (no way out, for example) is not raised: it is
        seen in `observe`, as FAILED.

        A change of firewalls breaks no flow that they still let through, and ends those that they do not any more.

        Raises:
            Refused: it can never be so (`reason` and the message say which part). FirewallNotPossible, VLANNotPossible:
                a port has a firewall, or it has a VLAN, and the host has no means for it; nothing was changed.
                NetworkNotAllowed: it is not of the `host_networks` or the `routed` of the facts. Nothing was changed,
                but for guests that run on it from the time when it was: for them it is what is asked for, where it was.
            Unavailable: not now; it may be so in part, and may be asked for again.
        """
        ...

    async def attachment(self, network: Network, port: Port) -> NicAttachment:
        """How a hypervisor joins the port of a network that was applied with it. May be asked for any number of times.

        Raises:
            Unavailable: not now. NoSuchBridge: what it would lead to is not there; a port that a hypervisor holds
                already is one all the same.
        """
        ...

    async def remove(self, uid: str) -> None:
        """Leave nothing of the network. Of one that is absent: nothing is done.

        Raises:
            Unavailable: a hypervisor holds a port of it (NetworkInUse), or something could not be removed.
        """
        ...

    async def counters(self) -> Mapping[str, CountersByPort] | None:
        """What went through the ports that it serves and hypervisors have joined, by the network's UID.

        Read when it is asked for, of all networks at once; cheap also with a thousand ports. Never changes anything. A
        port that was let go is not in it, and begins at nothing when it is joined again. None: this driver never has
        such counters.

        Raises:
            Unavailable: not now.
        """
        ...

    def events(self) -> AsyncIterator[str]:
        """UIDs of networks worth observing, and applying again, for ever. A hint, never a state. Also when what is
        `seen` has changed. `HOST_NETWORKS` is none of them."""
        ...


@runtime_checkable
class FindsHostNetworks(Protocol):
    """A driver whose host networks come and go while it is at work."""

    async def host_networks(self) -> tuple[GivenNetwork, ...]:
        """Those of the facts, each with why it cannot be joined now. Never changes anything.

        Raises:
            Unavailable: nobody knows.
        """
        ...
