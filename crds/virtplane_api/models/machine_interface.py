"""The network interfaces of a VirtualMachine: as asked for, as claimed by the operator, as seen."""

from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import Cel, CelRule, ListAtomic, ListMap, ListSet, Quantity, StructuralModel
from virtplane_api.models.common import DnsLabel, ObjectName, Uid
from virtplane_api.models.virtual_network import IpAddress
from virtplane_api.vocabulary import ForwardProtocol, InterfaceModel, LinkState

MAX_INTERFACES = 8

MacAddress = Annotated[
    str,
    Field(min_length=17, max_length=17, pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$"),
    Cel(
        "!(self.substring(1, 2) in ['1', '3', '5', '7', '9', 'b', 'd', 'f'])",
        "must be the address of one interface: the lowest bit of its first byte makes it a multicast address",
    ),
    Cel("self != '00:00:00:00:00:00'", "must not be all zeros"),
]
"""Lower-case, with colons: two ways to write one would be two claims."""

Port = Annotated[int, Field(ge=1, le=65535)]
FIRST_HOST_PORT = 1024
"""Lower ones are the host's own services'."""


class PortForward(StructuralModel):
    """A port of the host that leads to the machine."""

    host_port: Annotated[int, Field(ge=FIRST_HOST_PORT, le=65535)] = Field(
        description="On all addresses of the host. A machine is placed only where no other one has it.", examples=[8080]
    )
    port: Port = Field(description="Of the machine.", examples=[80])
    protocol: ForwardProtocol = Field(description="TCP or UDP.", examples=["TCP"])


BitRate = Annotated[
    Quantity,
    Cel("quantity(string(self)).compareTo(quantity('64k')) >= 0", "must be at least 64k bits per second, e.g. 10M"),
    Cel("quantity(string(self)).compareTo(quantity('32G')) <= 0", "must be at most 32G bits per second"),
]
"""Bits per second, as in the annotations kubernetes.io/ingress-bandwidth and egress-bandwidth of Pods."""

PortForwards = Annotated[list[PortForward], ListMap("hostPort", "protocol"), Field(max_length=32)]


class Bandwidth(StructuralModel):
    """How much may pass at most, in bits per second, as the guest sees it."""

    ingress: BitRate | None = Field(
        default=None, description="To the guest, in bits per second. Without it: no limit.", examples=["10M"]
    )
    egress: BitRate | None = Field(
        default=None, description="From the guest, in bits per second. Without it: no limit.", examples=["5M"]
    )


class Interface(StructuralModel):
    """One network adapter of the guest."""

    cel_rules = (
        CelRule(
            rule=(
                "!has(self.macAddress) || !has(oldSelf.macAddress) || self.macAddress == oldSelf.macAddress || "
                "self.networkName != oldSelf.networkName"
            ),
            message=(
                "an interface keeps its macAddress for as long as it is on its network: remove it, and add one of "
                "another name"
            ),
            field_path=".macAddress",
        ),
        CelRule(
            rule=(
                "!has(self.ipAddresses) || self.ipAddresses.all(a, isIP(a)) && "
                "self.ipAddresses.filter(a, isIP(a) && ip(a).family() == 4).size() <= 1 && "
                "self.ipAddresses.filter(a, isIP(a) && ip(a).family() == 6).size() <= 1"
            ),
            message="at most one IPv4 and one IPv6 address can be asked for",
            field_path=".ipAddresses",
        ),
    )

    name: DnsLabel = Field(
        description="Name of the interface within the machine. The guest's PCI address of it follows from it.",
        examples=["lan"],
    )
    network_name: ObjectName = Field(
        description="A VirtualNetwork of the same namespace. The machine waits until it is there.",
        examples=["shop-lan"],
    )
    mac_address: MacAddress | None = Field(
        default=None,
        description="Without it one is chosen, the same one for every machine of this name, and kept.",
        examples=["52:54:00:12:34:56"],
    )
    ip_addresses: Annotated[list[IpAddress], ListAtomic(), Field(max_length=2)] | None = Field(
        default=None,
        description="One of IPv4, one of IPv6, or both. Those that are not asked for are chosen, and kept.",
        examples=[["10.20.0.9"]],
    )
    model: InterfaceModel | None = Field(
        default=None,
        description="The adapter that the guest sees. Without it: virtio.",
        examples=["virtio"],
    )
    queues: Annotated[int, Field(ge=1, le=16)] | None = Field(
        default=None,
        description="Pairs of queues, of model virtio only: one per virtual CPU lets all take part. Without it: 1.",
        examples=[2],
    )
    boot_order: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="Boot from the network, among the disks' boot orders. Without it: never.",
        examples=[2],
    )
    port_forwards: PortForwards | None = Field(
        default=None,
        description="Ports of the host that lead to the machine, on networks of mode NAT, Overlay or User.",
        examples=[[{"hostPort": 8080, "port": 80, "protocol": "TCP"}]],
    )
    link_state: LinkState | None = Field(
        default=None,
        description="Down: the guest sees an adapter whose cable is out. Without it: Up. Changes at once.",
        examples=["Up"],
    )
    bandwidth: Bandwidth | None = Field(
        default=None,
        description="Limits, in bits per second. Without it there are none. Changes at once.",
        examples=[{"ingress": "10M", "egress": "5M"}],
    )


class PlacedInterface(StructuralModel):
    """What is claimed for one interface, for as long as the machine lives."""

    name: DnsLabel = Field(description="Name of the interface in spec.interfaces.", examples=["lan"])
    network_name: ObjectName = Field(description="Name of its VirtualNetwork.", examples=["shop-lan"])
    network_uid: Uid = Field(
        alias="networkUID",
        description="metadata.uid of its VirtualNetwork.",
        examples=["0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"],
    )
    mac_address: MacAddress = Field(description="Its MAC address.", examples=["52:54:00:12:34:56"])
    ip_addresses: Annotated[list[IpAddress], ListAtomic(), Field(max_length=2)] | None = Field(
        default=None, description="Its addresses.", examples=[["10.20.0.9"]]
    )
    port_forwards: PortForwards | None = Field(
        default=None,
        description="The ports of its host that it has.",
        examples=[[{"hostPort": 8080, "port": 80, "protocol": "TCP"}]],
    )


class InterfaceStatus(StructuralModel):
    """One interface as its host sees it."""

    name: DnsLabel = Field(description="Name of the interface in spec.interfaces.", examples=["lan"])
    # Optional: objects that an older agent wrote, which told neither, must stay writable for everybody.
    network_name: ObjectName | None = Field(
        default=None, description="Name of the VirtualNetwork that it is joined to.", examples=["shop-lan"]
    )
    network_uid: Uid | None = Field(
        default=None,
        alias="networkUID",
        description=(
            "metadata.uid of that network. An interface that is no more in spec.interfaces is shown, and keeps its "
            "addresses, until the guest has let go of it."
        ),
        examples=["0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"],
    )
    mac_address: MacAddress = Field(description="Its MAC address.", examples=["52:54:00:12:34:56"])
    ip_addresses: Annotated[list[IpAddress], ListSet(), Field(max_length=16)] | None = Field(
        default=None, description="Its addresses: those that are claimed for it.", examples=[["10.20.0.9"]]
    )
    seen_addresses: Annotated[list[IpAddress], ListSet(), Field(max_length=16)] | None = Field(
        default=None,
        description=(
            "Addresses that its guest was seen to use while it runs, the newest first, of families that its network "
            "does not manage. The guest may claim there what it likes: they are for people, nothing follows from them."
        ),
        examples=[["198.51.100.77"]],
    )
    bandwidth: Bandwidth | None = Field(
        default=None,
        description="Its limits. One that is no more in spec.interfaces keeps those that it had.",
        examples=[{"ingress": "10M", "egress": "5M"}],
    )
