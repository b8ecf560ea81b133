"""What a machine's interfaces need before it can have a place: their networks, and addresses that nobody else has.

Nothing here waits: between a plan and the moment in which its claims count (`Claims.assumed`) no other plan is made.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from virtplane_api.interfaces import key_of_row
from virtplane_api.kube.resources import Key, Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import FirewallAction, InterfaceModel, NetworkCapability, NetworkMode
from virtplane_operator.machines.disks import Blocked
from virtplane_operator.networks.addresses import (
    VERSIONS,
    Subnet,
    Unusable,
    Version,
    number_of,
    position_of,
    text_of,
)
from virtplane_operator.networks.catalog import Catalog, Network
from virtplane_operator.networks.claims import Claims, Holders, ports_of
from virtplane_operator.networks.macs import mac_address
from virtplane_operator.placement import HostPort

FORWARDING_MODES = frozenset({NetworkMode.NAT, NetworkMode.OVERLAY, NetworkMode.USER})


@dataclass(frozen=True, slots=True)
class InterfacePlan:
    """One interface, with its network and what is claimed for it."""

    name: str
    network: Network
    mac_address: str
    ip_addresses: tuple[str, ...]
    port_forwards: tuple[Mapping[str, Any], ...] = ()

    @property
    def placed(self) -> dict[str, Any]:
        """As in status.placement.interfaces."""
        row: dict[str, Any] = {
            "name": self.name,
            "networkName": self.network.key.name,
            "networkUID": self.network.uid,
            "macAddress": self.mac_address,
        }
        if self.ip_addresses:
            row["ipAddresses"] = list(self.ip_addresses)
        if self.port_forwards:
            row["portForwards"] = [dict(one) for one in self.port_forwards]
        return row


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One interface as the spec has it."""

    field: str
    spec: Mapping[str, Any]
    network: Network


class _Refused(Exception):
    """One interface cannot be had."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.blocked = Blocked(reason, message)


def plan_interfaces(
    catalog: Catalog, claims: Claims, cluster_id: str, machine: Object
) -> tuple[InterfacePlan, ...] | Blocked:
    """A plan for each interface, or the first thing that is missing.

    What the machine holds in a network already stays with it, whatever became of the network's spec.
    """
    if not machine["spec"].get("interfaces"):
        return ()
    present = _present(machine)
    try:
        wanted = [_wanted(catalog, machine, index, present) for index in range(len(machine["spec"]["interfaces"]))]
        _check_together(wanted, machine)
        return tuple(_Planner(claims, cluster_id, machine).plan(wanted))
    except _Refused as refused:
        return refused.blocked


def host_ports_of(machine: Object) -> frozenset[HostPort]:
    """The ports of its host that the machine asks for."""
    return frozenset(port for _index, port in ports_of(machine))


def network_capabilities_of(machine: Object, plans: Iterable[InterfacePlan]) -> frozenset[str]:
    """What its host needs for its networks beyond their modes."""
    needed = frozenset[str]().union(*(plan.network.capabilities for plan in plans))
    has_firewall = "firewall" in machine["spec"] and machine["spec"].get("interfaces")
    return needed | {NetworkCapability.FIREWALL} if has_firewall else needed


# --- the networks -----------------------------------------------------------------------------------------------------


def _wanted(catalog: Catalog, machine: Object, index: int, present: Set[tuple[str, str]]) -> _Wanted:
    """The interface, once its network can be had and can do what the interface asks of it."""
    spec, where = machine["spec"]["interfaces"][index], f"spec.interfaces[{index}]"
    namespace, name = machine["metadata"]["namespace"], spec["networkName"]
    network = catalog.get(Key(namespace, name))
    if network is None:
        raise _Refused(
            Reason.NETWORK_NOT_FOUND,
            f"{where}.networkName: there is no VirtualNetwork {namespace}/{name}; the machine waits for it",
        )
    if (spec["name"], network.uid) in present:
        pass  # what it has it keeps, whatever becomes of its network
    elif network.is_ending:
        raise _Refused(
            Reason.NETWORK_DELETING,
            f"{where}.networkName: VirtualNetwork {name} is being deleted; the machine waits for another of its name",
        )
    elif (not_served := catalog.not_served(network)) is not None:
        message = f"{where}.networkName: VirtualNetwork {name}: {not_served.message}"
        raise _Refused(not_served.reason, message)
    if spec.get("portForwards") and network.mode not in FORWARDING_MODES:
        raise _Refused(
            Reason.FORWARD_NOT_POSSIBLE,
            f"{where}.portForwards: VirtualNetwork {name} is of mode {network.mode}, which forwards no ports; "
            f"NAT, Overlay and User do",
        )
    if spec.get("bandwidth") and network.mode is NetworkMode.USER:
        raise _Refused(
            Reason.NOT_SUPPORTED,
            f"{where}.bandwidth: VirtualNetwork {name} is of mode User, which limits nothing; leave bandwidth out",
        )
    _check_slaac(network, machine, spec, where)
    if spec.get("queues", 1) > 1 and spec.get("model", InterfaceModel.VIRTIO) != InterfaceModel.VIRTIO:
        raise _Refused(
            Reason.NOT_SUPPORTED,
            f"{where}.queues: model {spec['model']} has one pair of queues; use model virtio, or leave queues out",
        )
    return _Wanted(where, spec, network)


def _present(machine: Object) -> set[tuple[str, str]]:
    """What a machine that has its place has already."""
    placement = machine.get("status", {}).get("placement") or {}
    return {key_of_row(row) for row in placement.get("interfaces") or () if placement.get("hypervisor")}


def _check_slaac(network: Network, machine: Object, interface: Mapping[str, Any], where: str) -> None:
    """What the machine cannot have where nobody knows its address."""
    if all(subnet.is_claimed for subnet in network.subnets.values()):
        return
    name = network.key.name
    for index, rule in enumerate((machine["spec"].get("firewall") or {}).get("rules") or ()):
        if rule["action"] == FirewallAction.DENY and "peers" in rule:
            raise _Refused(
                Reason.FIREWALL_NOT_POSSIBLE,
                f"spec.firewall.rules[{index}].peers: peers are not known by their IPv6 addresses of VirtualNetwork "
                f"{name} (SLAAC), so that no rule denies them: deny all and allow the others, or take DHCP",
            )
    if interface.get("portForwards") and not any(subnet.is_claimed for subnet in network.subnets.values()):
        raise _Refused(
            Reason.FORWARD_NOT_POSSIBLE,
            f"{where}.portForwards: VirtualNetwork {name} has IPv6 by SLAAC alone, so that nobody knows where a port "
            f"is to lead; give it IPv4 as well, or take DHCP",
        )


def _check_together(wanted: list[_Wanted], machine: Object) -> None:
    """What interfaces of one machine cannot have beside each other."""
    for one, other in combinations(wanted, 2):
        if one.network.uid != other.network.uid and one.network.overlaps(other.network):
            raise _Refused(
                Reason.NETWORKS_OVERLAP,
                f"{other.field}.networkName: VirtualNetwork {other.network.key.name} ({other.network.cidrs}) overlaps "
                f"{one.network.key.name} ({one.network.cidrs}) of {one.field}: the guest could not tell them apart; "
                f"make another machine with one of them",
            )
    addresses: dict[tuple[str, Version, int], str] = {}
    for one in wanted:
        for text in one.spec.get("ipAddresses") or ():
            other_field = addresses.setdefault((one.network.uid, *number_of(text)), one.field)
            if other_field != one.field:
                message = f"{one.field}.ipAddresses: {text} is asked for by {other_field} too"
                raise _Refused(Reason.ADDRESS_IN_USE, message)
    asked: dict[HostPort, int] = {}
    for index, port in ports_of(machine):
        first = asked.setdefault(port, index)
        if first != index:
            raise _Refused(
                Reason.HOST_PORT_IN_USE,
                f"spec.interfaces[{index}].portForwards: host port {port} is asked for by spec.interfaces[{first}] too",
            )


# --- the claims -------------------------------------------------------------------------------------------------------


class _Planner:
    """Chooses for one machine, one interface after the other, so that none takes what another one asks for."""

    def __init__(self, claims: Claims, cluster_id: str, machine: Object) -> None:
        self._claims = claims
        self._cluster_id = cluster_id
        self._namespace: str = machine["metadata"]["namespace"]
        self._name: str = machine["metadata"]["name"]
        self._uid = uid_of(machine)
        self._own: defaultdict[tuple[str, Version], dict[int, str]] = defaultdict(dict)
        """Addresses by network and family, each with the interface that has it or is to have it."""
        self._own_macs: set[str] = set()

    def plan(self, wanted: list[_Wanted]) -> Iterator[InterfacePlan]:
        """In the order of the spec."""
        held = {key_of_row(one): one for one in self._claims.interfaces_of(self._uid)}
        kept = {one.field: self._kept(one, held.get((one.spec["name"], one.network.uid))) for one in wanted}
        for one in wanted:
            self._take(one, kept[one.field])
        for one in wanted:
            mine, forwards = kept[one.field], tuple(one.spec.get("portForwards") or ())
            if mine is not None:
                addresses = tuple(mine.get("ipAddresses") or ())
                yield InterfacePlan(one.spec["name"], one.network, mine["macAddress"], addresses, forwards)
            else:
                mac, addresses = self._mac(one), tuple(self._addresses(one))
                yield InterfacePlan(one.spec["name"], one.network, mac, addresses, forwards)

    def _kept(self, one: _Wanted, held: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """What the interface has, with the addresses that are asked for now in the place of those of their family."""
        if held is None:
            return None
        asked_mac = one.spec.get("macAddress", held["macAddress"])
        if asked_mac != held["macAddress"]:
            raise _Refused(
                Reason.MAC_ADDRESS_KEPT,
                f"{one.field}.macAddress: the interface has {held['macAddress']} and keeps it while it is on network "
                f"{one.network.key.name}: remove it, and add one of another name",
            )
        had = held.get("ipAddresses") or ()
        new = [text for text in one.spec.get("ipAddresses") or () if text not in had]
        for text in new:
            self._check_address(one, text, *number_of(text))
        by_version = {number_of(text)[0]: text for text in (*had, *new)}
        return {**held, "ipAddresses": [by_version[version] for version in VERSIONS if version in by_version]}

    def _take(self, one: _Wanted, kept: Mapping[str, Any] | None) -> None:
        """What the interface has or asks for is not to be chosen for another one of the machine."""
        source = one.spec if kept is None else kept
        for text in source.get("ipAddresses") or ():
            version, number = number_of(text)
            if kept is None:
                self._check_address(one, text, version, number)
            first = self._own[one.network.uid, version].setdefault(number, one.field)
            if first != one.field:
                raise _Refused(Reason.ADDRESS_IN_USE, f"{one.field}.ipAddresses: {text} is asked for by {first} too")
        mac = source.get("macAddress")
        if mac:
            holder = self._another_of(self._claims.macs(one.network.uid).get(mac, ()))
            if kept is None and holder:
                raise _Refused(
                    Reason.MAC_ADDRESS_IN_USE,
                    f"{one.field}.macAddress: {mac} is held by {holder} in network {one.network.key.name}",
                )
            self._own_macs.add(mac)

    def _check_address(self, one: _Wanted, text: str, version: Version, number: int) -> None:
        name, field_path = one.network.key.name, f"{one.field}.ipAddresses"
        subnet = one.network.subnets.get(version)
        if subnet is None:
            message = f"{field_path}: VirtualNetwork {name} has no IPv{version} addresses, so not {text} either"
            raise _Refused(Reason.ADDRESS_NOT_IN_NETWORK, message)
        if not subnet.is_claimed:
            message = (
                f"{field_path}: machines choose their own IPv{version} addresses of VirtualNetwork {name} (SLAAC), so "
                f"that {text} cannot be had: leave it out, or take a network of DHCP"
            )
            raise _Refused(Reason.ADDRESS_NOT_CLAIMED, message)
        reason, why = _REFUSALS[subnet.unusable(number)]
        if reason:
            message = f"{field_path}: {text} {why.format(cidr=subnet.cidr, name=name)}"
            raise _Refused(reason, message)
        holder = self._another_of(self._claims.addresses(one.network.uid, version).get(number, ()))
        if holder:
            raise _Refused(Reason.ADDRESS_IN_USE, f"{field_path}: {text} is held by {holder}")

    def _another_of(self, holders: Holders) -> str:
        """Who else holds it; empty: nobody does."""
        return next((f"VirtualMachine {holder}" for holder in holders if holder.uid != self._uid), "")

    def _mac(self, one: _Wanted) -> str:
        """The one that is asked for, or one that neither the network nor another interface of the machine has."""
        asked = one.spec.get("macAddress")
        if asked:
            return str(asked)
        held = self._claims.macs(one.network.uid)

        def is_taken(mac: str) -> bool:
            return mac in held or mac in self._own_macs

        chosen = mac_address(self._cluster_id, self._namespace, self._name, one.spec["name"], is_taken)
        self._own_macs.add(chosen)
        return chosen

    def _addresses(self, one: _Wanted) -> Iterator[str]:
        asked = {number_of(text)[0]: text for text in one.spec.get("ipAddresses") or ()}
        position = position_of(self._namespace, self._name, one.spec["name"])
        for version in VERSIONS:
            subnet = one.network.subnets.get(version)
            if version in asked:
                yield asked[version]
            elif subnet is not None and subnet.is_claimed:
                yield self._address(one, subnet, position)

    def _address(self, one: _Wanted, subnet: Subnet, position: int) -> str:
        version, uid = subnet.version, one.network.uid
        mine, held = self._own[uid, version], self._claims.addresses(uid, version)
        if self._claims.is_exhausted(uid, subnet, sum(number not in held for number in mine)):
            raise _Refused(
                Reason.ADDRESSES_EXHAUSTED,
                f"{one.field}.networkName: all {subnet.size} IPv{version} addresses of VirtualNetwork "
                f"{one.network.key.name} ({subnet.cidr}) are held; the machine waits until one is free",
            )
        chosen = subnet.choose(position, held, mine)
        mine[chosen] = one.field
        return text_of(version, chosen)


_REFUSALS: Mapping[Unusable | None, tuple[str, str]] = {
    None: ("", ""),
    Unusable.OUTSIDE: (Reason.ADDRESS_NOT_IN_NETWORK, "is not in {cidr} of VirtualNetwork {name}"),
    Unusable.NETWORK: (Reason.ADDRESS_NOT_IN_NETWORK, "is the address of the network {cidr} itself"),
    Unusable.BROADCAST: (Reason.ADDRESS_NOT_IN_NETWORK, "is the broadcast address of {cidr}"),
    Unusable.GATEWAY: (Reason.ADDRESS_IN_USE, "is the gateway of VirtualNetwork {name}"),
    Unusable.EXCLUDED: (Reason.ADDRESS_EXCLUDED, "is excluded by excludedRanges of VirtualNetwork {name}"),
}
