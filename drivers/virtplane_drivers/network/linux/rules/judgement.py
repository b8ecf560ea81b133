"""Which flows the firewalls of a network let through: the same answer as the kernel's rules give, of a flow as a whole.

The kernel asks the rules once for each flow, at its first packet. What it knows of already is judged here after each
change. Where the address of a flow does not tell which port it is of, each that it may be of has to let it through.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from virtplane_api.vocabulary import FirewallAction, FirewallDirection, FirewallProtocol
from virtplane_drivers.network.contract import Firewall, FirewallRule, IpAddress, Network, Port
from virtplane_drivers.network.linux.rules.firewall import SERVICES_TCP, SERVICES_UDP
from virtplane_drivers.network.linux.rules.spoofing import certain_addresses

TCP, UDP = 6, 17
_NUMBERS = {FirewallProtocol.TCP: (TCP,), FirewallProtocol.UDP: (UDP,), FirewallProtocol.ICMP: (1, 58)}


@dataclass(frozen=True, slots=True)
class Flow:
    """From who began it to who answers, each under the address that guests know it by."""

    protocol: int
    """Of IANA's numbers."""
    source: IpAddress
    destination: IpAddress
    port: int = 0
    """That it is to; 0 of a protocol without ports."""


class Judge:
    """Knows one network as it is now."""

    def __init__(self, network: Network, router_addresses: Iterable[IpAddress]) -> None:
        self._network = network
        self._router = frozenset(router_addresses)
        self._firewalls = {one.name: one for one in network.firewalls}
        self._groups = {one.name: frozenset(one.addresses) for one in network.groups}
        self._macs = {one.name: frozenset(one.macs) for one in network.groups}
        self._ports = {address: port for port in network.ports for address in certain_addresses(network, port)}

    def lets_through(self, flow: Flow) -> bool:
        """Whether it may go on."""
        if flow.source in self._router or self._is_service(flow):
            return True
        egress = all(
            self._allows(one, FirewallDirection.EGRESS, flow, flow.destination) for one in self._of(flow.source)
        )
        return egress and all(
            self._allows(one, FirewallDirection.INGRESS, flow, flow.source) for one in self._of(flow.destination)
        )

    def _is_service(self, flow: Flow) -> bool:
        services = {TCP: SERVICES_TCP, UDP: SERVICES_UDP}.get(flow.protocol, ())
        return flow.destination in self._router and flow.port in services

    def _of(self, address: IpAddress) -> Iterator[Firewall]:
        """The firewalls of the ports that the address is of, or may be of."""
        for name in {port.firewall for port in self._candidates(address)} - {""}:
            yield self._firewalls[name]

    def _candidates(self, address: IpAddress) -> Iterator[Port]:
        port = self._ports.get(address) or self._behind(address)
        if port is not None:
            yield port
        elif isinstance(address, IPv6Address) and self._may_choose(address):
            yield from self._network.ports
        elif self._may_be_anybody_s(address):
            yield from (
                one for one in self._network.ports if all(held.version != address.version for held in one.addresses)
            )

    def _may_choose(self, address: IPv6Address) -> bool:
        prefix = self._network.chosen_prefix
        return address.is_link_local or (prefix is not None and address in prefix)

    def _may_be_anybody_s(self, address: IpAddress) -> bool:
        is_chosen = isinstance(address, IPv6Address) and self._may_choose(address)
        return is_chosen or not any(subnet.cidr.version == address.version for subnet in self._network.subnets)

    def _behind(self, address: IpAddress) -> Port | None:
        for route in self._network.routes:
            if address in route.destination:
                return self._ports.get(route.via)
        return None

    def _allows(self, firewall: Firewall, direction: FirewallDirection, flow: Flow, other: IpAddress) -> bool:
        for rule in firewall.rules:
            if rule.direction is direction and self._matches(rule, flow, other):
                return rule.action is FirewallAction.ALLOW
        default = firewall.ingress if direction is FirewallDirection.INGRESS else firewall.egress
        return default is FirewallAction.ALLOW

    def _matches(self, rule: FirewallRule, flow: Flow, other: IpAddress) -> bool:
        if rule.protocol is not FirewallProtocol.ANY and flow.protocol not in _NUMBERS[rule.protocol]:
            return False
        if rule.ports and not any(first <= flow.port <= last for first, last in rule.ports):
            return False
        return (
            rule.is_of_everybody
            or any(other in cidr for cidr in rule.cidrs)
            or any(other in self._groups[name] for name in rule.groups)
            or (rule.action is FirewallAction.DENY and any(self._may_be_of(name, other) for name in rule.groups))
        )

    def _may_be_of(self, group: str, other: IpAddress) -> bool:
        """Whether an address that nobody claimed is of a machine of the group, as far as one can know."""
        port = self._ports.get(other)
        if port is not None:
            return port.mac in self._macs[group]
        return bool(self._macs[group]) and self._may_be_anybody_s(other)
