"""VirtualNetwork: what the interfaces of machines are joined to, and the addresses that they may have."""

from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import Cel, CelRule, CustomResource, ListAtomic, ListMap, PrinterColumn, StructuralModel
from virtplane_api.models.common import Conditions, Generation, IpCidr, ObjectName
from virtplane_api.models.firewall import Firewall
from virtplane_api.models.overlay import Mtu, NetworkPeer, Vni
from virtplane_api.names import CATEGORY, GROUP, VERSION
from virtplane_api.vocabulary import Addressing, NetworkMode

IpAddress = Annotated[
    str,
    Field(min_length=2, max_length=45),
    Cel("isIP(self)", "must be an IP address, for example 10.20.0.9 or fd00::9"),
    Cel("!isIP(self) || ip.isCanonical(self)", "must be written in its shortest form, as `ip address` prints it"),
]
"""An IPv4 or IPv6 address in its canonical form (RFC 5952): two ways to write one would be two claims."""

Gateway = Annotated[
    str,
    Field(min_length=2, max_length=45),
    Cel("self == 'None' || isIP(self)", "must be an IP address of the CIDR, or None: the network has no gateway"),
    Cel("!isIP(self) || ip.isCanonical(self)", "must be written in its shortest form, as `ip address` prints it"),
]


class AddressRange(StructuralModel):
    """Addresses from `start` to `end`, both included."""

    start: IpAddress = Field(description="The first address.", examples=["10.20.0.2"])
    end: IpAddress = Field(description="The last address.", examples=["10.20.0.9"])


_EXCLUDED_IN_CIDR = CelRule(
    rule=(
        "!has(self.excludedRanges) || !isCIDR(self.cidr) || self.excludedRanges.all(r, isIP(r.start) && isIP(r.end) && "
        "cidr(self.cidr).containsIP(r.start) && cidr(self.cidr).containsIP(r.end))"
    ),
    message="excludedRanges must lie within cidr",
    field_path=".excludedRanges",
)
_GATEWAY_IN_CIDR = CelRule(
    rule=(
        "!has(self.gateway) || self.gateway == 'None' || !isCIDR(self.cidr) || !isIP(self.gateway) || "
        "(cidr(self.cidr).containsIP(self.gateway) && !self.cidr.startsWith(self.gateway + '/'))"
    ),
    message="gateway must be an address within cidr, and not the network's own",
    field_path=".gateway",
)
_GATEWAY_NOT_EXCLUDED = CelRule(
    rule=(
        "!has(self.gateway) || !isIP(self.gateway) || !has(self.excludedRanges) || "
        "!self.excludedRanges.exists(r, r.start == self.gateway || r.end == self.gateway)"
    ),
    message="gateway is excluded by excludedRanges: take it out of them, it is never given to a machine",
    field_path=".gateway",
)


class Ipv4Subnet(StructuralModel):
    """The IPv4 addresses of a network."""

    cel_rules = (
        CelRule(
            rule=(
                "!isCIDR(self.cidr) || (cidr(self.cidr).ip().family() == 4 && cidr(self.cidr).prefixLength() >= 8 && "
                "cidr(self.cidr).prefixLength() <= 30)"
            ),
            message="must be an IPv4 network of at least four addresses, from /8 to /30",
            field_path=".cidr",
        ),
        CelRule(
            rule="!has(self.addressing) || self.addressing != 'SLAAC'",
            message="SLAAC is of IPv6: take DHCP or Static",
            field_path=".addressing",
        ),
        _GATEWAY_IN_CIDR,
        _GATEWAY_NOT_EXCLUDED,
        _EXCLUDED_IN_CIDR,
    )

    cidr: IpCidr = Field(description="The network. Not changed while a machine is on it.", examples=["10.20.0.0/24"])
    gateway: Gateway | None = Field(
        default=None,
        description="The router's address in it. Without it: the first one. None: the network has no router.",
        examples=["10.20.0.1"],
    )
    addressing: Addressing | None = Field(
        default=None,
        description="How machines get their addresses. DHCP, the default. Static: nobody tells them.",
        examples=["DHCP"],
    )
    excluded_ranges: Annotated[list[AddressRange], ListAtomic(), Field(max_length=16)] | None = Field(
        default=None,
        description="Addresses that are never given to a machine, also not to one that asks for them.",
        examples=[[{"start": "10.20.0.2", "end": "10.20.0.9"}]],
    )


class Ipv6Subnet(StructuralModel):
    """The IPv6 addresses of a network."""

    cel_rules = (
        CelRule(
            rule=(
                "!isCIDR(self.cidr) || (cidr(self.cidr).ip().family() == 6 && cidr(self.cidr).prefixLength() == 64 && "
                "!cidr(self.cidr).ip().isLinkLocalUnicast() && !cidr(self.cidr).ip().isLinkLocalMulticast())"
            ),
            message="must be an IPv6 network of length /64 (RFC 4291), and not link-local, for example fd00:20::/64",
            field_path=".cidr",
        ),
        CelRule(
            rule="!has(self.addressing) || self.addressing != 'SLAAC' || !has(self.excludedRanges)",
            message="machines choose their own addresses by SLAAC, so that none can be excluded: leave it out",
            field_path=".excludedRanges",
        ),
        _GATEWAY_IN_CIDR,
        _GATEWAY_NOT_EXCLUDED,
        _EXCLUDED_IN_CIDR,
    )

    cidr: IpCidr = Field(description="The network. Not changed while a machine is on it.", examples=["fd00:20::/64"])
    gateway: Gateway | None = Field(
        default=None,
        description="The router's address in it. Without it: the first one. None: the network has no router.",
        examples=["fd00:20::1"],
    )
    addressing: Addressing | None = Field(
        default=None,
        description=(
            "How machines get their addresses. DHCP, the default: DHCPv6. Static: nobody does. SLAAC: each chooses "
            "within the network, and none is claimed; not of mode User or Overlay. Not changed to or from "
            "SLAAC while a machine is on the network."
        ),
        examples=["DHCP"],
    )
    excluded_ranges: Annotated[list[AddressRange], ListAtomic(), Field(max_length=16)] | None = Field(
        default=None,
        description="Addresses that are never given to a machine, also not to one that asks for them.",
        examples=[[{"start": "fd00:20::2", "end": "fd00:20::ff"}]],
    )


_DNS_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

DomainName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$",
    ),
]


class Dns(StructuralModel):
    """The names of a network, told by its router."""

    domain: DomainName | None = Field(
        default=None,
        description=(
            "Machines are found as <name>.<domain>, and search it. Without it: <network>.<namespace>.internal."
        ),
        examples=["shop.test"],
    )
    forwarders: Annotated[list[IpAddress], ListAtomic(), Field(max_length=8)] | None = Field(
        default=None,
        description="Servers that are asked for all other names. Without it: those of the host.",
        examples=[["192.0.2.53"]],
    )


class Route(StructuralModel):
    """A network behind one of the machines."""

    destination: IpCidr = Field(description="The network that is reached.", examples=["10.99.0.0/16"])
    via: IpAddress = Field(description="The address of the machine, in this network.", examples=["10.20.0.5"])


HostBridgeName = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[^\s/:.][^\s/:]*$")]
"""A name that a network device can have."""


class HostBridge(StructuralModel):
    """What of the host a network of mode Bridge is joined to."""

    name: HostBridgeName = Field(
        description=(
            "A bridge of the host. It is not made, and nothing of it is changed but a port for the network. A machine "
            "is placed only where it is given (status.hostNetworks of the Hypervisor)."
        ),
        examples=["br-lan"],
    )
    vlan: Annotated[int, Field(ge=1, le=4094)] | None = Field(
        default=None,
        description=(
            "The VLAN of that bridge (IEEE 802.1Q) that machines are on: their frames carry its tag there, and they "
            "see none. Without it: untagged. A machine is placed only where the host can (NetworkVLAN) and gives "
            "it (status.hostNetworks of the Hypervisor). Not changed while a machine is on it."
        ),
        examples=[20],
    )


_IS_SLAAC = "has(self.ipv6) && has(self.ipv6.addressing) && self.ipv6.addressing == 'SLAAC'"


class VirtualNetworkSpec(StructuralModel):
    """A network as its owner wants it."""

    cel_rules = (
        CelRule(
            rule="has(self.bridge) == (self.mode == 'Bridge')",
            message="bridge names the host's bridge of mode Bridge, and belongs to no other mode",
            field_path=".bridge",
        ),
        CelRule(
            rule="self.mode == 'Bridge' || has(self.ipv4) || has(self.ipv6)",
            message="ipv4, ipv6 or both say which addresses the network has; only mode Bridge may leave that to others",
        ),
        CelRule(
            rule=(
                "!has(self.routes) || self.routes.all(r, isIP(r.via) && "
                "((has(self.ipv4) && isCIDR(self.ipv4.cidr) && cidr(self.ipv4.cidr).containsIP(r.via)) || "
                "(has(self.ipv6) && isCIDR(self.ipv6.cidr) && cidr(self.ipv6.cidr).containsIP(r.via))))"
            ),
            message="via must be an address of this network",
            field_path=".routes",
        ),
        CelRule(
            rule=f"!({_IS_SLAAC}) || !(self.mode in ['User', 'Overlay'])",
            message="SLAAC is of the modes NAT, Routed, Isolated and Bridge: take DHCP",
            field_path=".ipv6.addressing",
        ),
        CelRule(
            rule=f"!({_IS_SLAAC}) || !has(self.routes) || self.routes.all(r, !isIP(r.via) || ip(r.via).family() == 4)",
            message="no machine is known by an IPv6 address of SLAAC, so that none leads to a route: take DHCP",
            field_path=".routes",
        ),
        CelRule(
            rule=(
                f"!({_IS_SLAAC}) || !has(self.firewall) || !has(self.firewall.rules) || "
                "self.firewall.rules.all(r, r.action != 'Deny' || !has(r.peers))"
            ),
            message=(
                "peers are not known by their IPv6 addresses of SLAAC, so that a rule cannot deny them: deny all and "
                "allow the others, or take DHCP"
            ),
            field_path=".firewall.rules",
        ),
    )

    mode: NetworkMode = Field(
        description=(
            "NAT: machines reach out under the host's addresses. Routed: the host routes the network's own. Isolated: "
            "machines of one host reach each other and nobody else. Bridge: they are on a network that the host is on. "
            "Overlay: one network over all its hosts. User: for agents without root. A machine is placed only where "
            "the mode is to be had (status.networkModes of the Hypervisor). Not changed while a machine is on it."
        ),
        examples=["NAT"],
    )
    ipv4: Ipv4Subnet | None = Field(
        default=None, description="Its IPv4 addresses.", examples=[{"cidr": "10.20.0.0/24"}]
    )
    ipv6: Ipv6Subnet | None = Field(
        default=None, description="Its IPv6 addresses.", examples=[{"cidr": "fd00:20::/64"}]
    )
    mtu: Annotated[int, Field(ge=1280, le=9000)] | None = Field(
        default=None,
        description=(
            "Largest packet in bytes, told to machines. Without it: 1500; of mode Overlay what fits into the tunnels "
            "between the hosts, and never more than that (status.mtu)."
        ),
        examples=[1500],
    )
    dns: Dns | None = Field(default=None, description="Names within the network.", examples=[{"domain": "shop.test"}])
    routes: Annotated[list[Route], ListAtomic(), Field(max_length=16)] | None = Field(
        default=None,
        description="Networks behind machines of this one: its router sends there.",
        examples=[[{"destination": "10.99.0.0/16", "via": "10.20.0.5"}]],
    )
    bridge: HostBridge | None = Field(
        default=None, description="Of mode Bridge: what it is joined to.", examples=[{"name": "br-lan"}]
    )
    firewall: Firewall | None = Field(
        default=None,
        description="Of every machine on it, behind the machine's own. Without any: all flows are let through.",
        examples=[{"defaults": {"ingress": "Deny"}}],
    )


class NetworkHypervisor(StructuralModel):
    """The network as one Hypervisor sees it."""

    name: ObjectName = Field(description="Name of the Hypervisor.", examples=["host-a-qemu"])
    state: Annotated[str, Field(max_length=32, pattern=r"^(Ready|Failed|Unknown)$")] = Field(
        description="Ready, Failed or Unknown (its agent is silent).", examples=["Ready"]
    )
    message: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="Why it is not Ready.", examples=["route 10.20.0.0/24 of the host is hidden by it"]
    )


class VirtualNetworkStatus(StructuralModel):
    """The network as placements and Hypervisors show it, summed up by the operator."""

    observed_generation: Generation | None = Field(
        default=None, description="The metadata.generation that this status speaks of.", examples=[1]
    )
    used: Annotated[int, Field(ge=0, le=(1 << 53) - 1)] | None = Field(
        default=None, description="How many interfaces of machines have a claim in it.", examples=[3]
    )
    free: Annotated[int, Field(ge=0, le=(1 << 53) - 1)] | None = Field(
        default=None,
        description=(
            "How many IPv4 addresses, of a network without IPv4 IPv6 addresses, are left. "
            "9007199254740991 (2^53 - 1) stands for as many or more, as in any large IPv6 network."
        ),
        examples=[250],
    )
    hypervisor_count: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        default=None, description="How many Hypervisors have machines on it.", examples=[2]
    )
    hypervisors: Annotated[list[NetworkHypervisor], ListMap("name"), Field(max_length=1024)] | None = Field(
        default=None,
        description="The Hypervisors that have it now: those with machines on it.",
        examples=[[{"name": "host-a-qemu", "state": "Ready"}]],
    )
    vni: Vni | None = Field(
        default=None,
        description="Of mode Overlay: its number in the tunnels. Nobody else's, for its life.",
        examples=[70031],
    )
    mtu: Mtu | None = Field(
        default=None,
        description="Of mode Overlay: largest packet in bytes. Not changed while a machine is on it.",
        examples=[1450],
    )
    peers: Annotated[list[NetworkPeer], ListMap("agentName"), Field(max_length=1024)] | None = Field(
        default=None,
        description="Of mode Overlay: the hosts between which it has tunnels, which are those with machines on it.",
        examples=[[{"agentName": "host-a", "address": "192.0.2.11"}]],
    )
    conditions: Conditions | None = Field(
        default=None,
        description="Observations: Ready when no Hypervisor that has it reports a failure, and it is not to go.",
        examples=[[]],
    )


_UNCHANGED_IN_USE = "!has(self.status) || !has(self.status.used) || self.status.used == 0 || "


def _kept_in_use(subnet: str) -> CelRule:
    now, before = f"self.spec.{subnet}", f"oldSelf.spec.{subnet}"
    return CelRule(
        rule=(f"{_UNCHANGED_IN_USE}(has({now}) == has({before}) && (!has({now}) || {now}.cidr == {before}.cidr))"),
        message=f"spec.{subnet}.cidr cannot be changed while machines are on the network (status.used)",
    )


def _is_slaac(spec: str) -> str:
    return f"({_IS_SLAAC.replace('self', spec)})"


def _vlan_of(spec: str) -> str:
    return f"(has({spec}.bridge) && has({spec}.bridge.vlan) ? {spec}.bridge.vlan : 0)"


VIRTUAL_NETWORK = CustomResource(
    group=GROUP,
    version=VERSION,
    kind="VirtualNetwork",
    plural="virtualnetworks",
    singular="virtualnetwork",
    short_names=("vpnet",),
    categories=(CATEGORY,),
    scope="Namespaced",
    description="A network of virtual machines: how it is joined to the world, its addresses and its names.",
    spec=VirtualNetworkSpec,
    status=VirtualNetworkStatus,
    status_default={"observedGeneration": -1},
    cel_rules=(
        CelRule(
            rule=f"{_UNCHANGED_IN_USE}self.spec.mode == oldSelf.spec.mode",
            message="spec.mode cannot be changed while machines are on the network (status.used)",
        ),
        _kept_in_use("ipv4"),
        _kept_in_use("ipv6"),
        CelRule(
            rule=(
                f"{_UNCHANGED_IN_USE}!has(oldSelf.status) || !has(oldSelf.status.vni) || "
                "(has(self.status.vni) && self.status.vni == oldSelf.status.vni)"
            ),
            message="status.vni cannot be changed while machines are on the network (status.used)",
        ),
        CelRule(
            rule=f"{_UNCHANGED_IN_USE}{_is_slaac('self.spec')} == {_is_slaac('oldSelf.spec')}",
            message="spec.ipv6.addressing: SLAAC cannot be taken up or given up while machines are on the network",
        ),
        CelRule(
            rule=f"{_UNCHANGED_IN_USE}{_vlan_of('self.spec')} == {_vlan_of('oldSelf.spec')}",
            message="spec.bridge.vlan cannot be changed while machines are on the network (status.used)",
        ),
    ),
    printer_columns=(
        PrinterColumn("Mode", "string", ".spec.mode", "What it is joined to."),
        PrinterColumn("CIDR", "string", ".spec.ipv4.cidr", "Its IPv4 addresses."),
        PrinterColumn("Used", "integer", ".status.used", "Interfaces that have a claim in it."),
        PrinterColumn("Free", "integer", ".status.free", "Addresses that are left, at most 2^53 - 1."),
        PrinterColumn("Hypervisors", "integer", ".status.hypervisorCount", "Hypervisors with machines on it."),
        PrinterColumn("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", "Whether it works."),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
        PrinterColumn("CIDR6", "string", ".spec.ipv6.cidr", "Its IPv6 addresses.", priority=1),
        PrinterColumn("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", "Why.", priority=1),
    ),
)
