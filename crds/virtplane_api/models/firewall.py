"""Which flows the machines of a network, or one machine, may have: rules of both kinds, and what holds without them."""

from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import CelRule, ListAtomic, ListMap, StructuralModel
from virtplane_api.models.common import DnsLabel, IpCidr
from virtplane_api.vocabulary import FirewallAction, FirewallDirection, FirewallProtocol

MAX_RULES = 64
MAX_PORTS = 16
MAX_CIDRS = 32

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
"""As a label of an object: no machine could carry another one, so that such a rule would never match."""

PortNumber = Annotated[int, Field(ge=1, le=65535)]


class PortRange(StructuralModel):
    """Ports from `port` to `endPort`, both included."""

    cel_rules = (
        CelRule(
            rule="!has(self.endPort) || self.port <= self.endPort",
            message="endPort must not be below port",
            field_path=".endPort",
        ),
    )

    port: PortNumber = Field(description="The port, or the first one of a range.", examples=[443])
    end_port: PortNumber | None = Field(
        default=None, description="The last port of the range. Without it: port alone.", examples=[450]
    )


class PeerSelector(StructuralModel):
    """Machines of the same namespace, by labels that they carry, all of them."""

    cel_rules = (
        CelRule(
            rule="self.matchLabels.all(name, !format.qualifiedName().validate(name).hasValue())",
            message="the name of a label is of letters, digits, '-', '_' and '.', for example role or shop.test/role",
            field_path=".matchLabels",
        ),
    )

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16)] = Field(
        description="Label names and values. {}: every machine of the namespace.", examples=[{"role": "frontend"}]
    )


class FirewallRule(StructuralModel):
    """Which flows are let through, or are not."""

    cel_rules = (
        CelRule(
            rule="!has(self.ports) || (has(self.protocol) && self.protocol in ['TCP', 'UDP'])",
            message="ports are of protocol TCP or UDP",
            field_path=".ports",
        ),
    )

    name: DnsLabel = Field(description="Name of the rule within its list.", examples=["web"])
    direction: FirewallDirection = Field(
        description="As the machine sees it. Ingress: flows that others begin. Egress: flows that it begins itself.",
        examples=["Ingress"],
    )
    action: FirewallAction = Field(description="What becomes of the flow: Allow or Deny.", examples=["Allow"])
    protocol: FirewallProtocol | None = Field(
        default=None,
        description="TCP, UDP, ICMP (of IPv4 and IPv6) or Any. Without it: Any.",
        examples=["TCP"],
    )
    ports: Annotated[list[PortRange], ListAtomic(), Field(min_length=1, max_length=MAX_PORTS)] | None = Field(
        default=None,
        description="Ports that the flow is to, of protocol TCP or UDP. Without it: all.",
        examples=[[{"port": 80}, {"port": 443, "endPort": 450}]],
    )
    cidrs: Annotated[list[IpCidr], ListAtomic(), Field(min_length=1, max_length=MAX_CIDRS)] | None = Field(
        default=None,
        description=(
            "The other end of the flow: its source for Ingress, its destination for Egress. Together with peers: one "
            "of both. Without cidrs and peers: everybody."
        ),
        examples=[["192.0.2.0/24", "2001:db8::/32"]],
    )
    peers: PeerSelector | None = Field(
        default=None,
        description=(
            "The other end is a machine of the same namespace that carries these labels, by the addresses that it has "
            "on the network."
        ),
        examples=[{"matchLabels": {"role": "frontend"}}],
    )


class FirewallDefaults(StructuralModel):
    """What becomes of flows that no rule speaks of."""

    ingress: FirewallAction | None = Field(default=None, description="Of flows that others begin.", examples=["Deny"])
    egress: FirewallAction | None = Field(
        default=None, description="Of flows that the machine begins itself.", examples=["Allow"]
    )


class Firewall(StructuralModel):
    """Stateful: what belongs to a flow that was let through passes in both directions."""

    defaults: FirewallDefaults | None = Field(
        default=None,
        description="What holds where no rule matches: the machine's, else the network's, else Allow.",
        examples=[{"ingress": "Deny"}],
    )
    rules: Annotated[list[FirewallRule], ListMap("name"), Field(max_length=MAX_RULES)] | None = Field(
        default=None,
        description="The first that matches decides. Those of a machine come before those of its networks.",
        examples=[[{"name": "web", "direction": "Ingress", "action": "Allow", "protocol": "TCP"}]],
    )
