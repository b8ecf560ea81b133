"""From spec.firewall of a network and of its machines to the plain firewalls that drivers of networks take.

Machines with the same rules share a firewall, under a name that is a digest of them. Peers become groups of addresses,
named by their labels: a machine that comes or goes changes what is in a group, and no rule.
"""

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from virtplane_agent.networks.desired import is_removed, placed_interfaces
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.vocabulary import FirewallAction, FirewallDirection, FirewallProtocol
from virtplane_drivers.network.contract import AddressGroup, Firewall, FirewallRule, Network

_DIGEST_CHARS = 12
_Spec = Mapping[str, Any]


def with_firewalls(value: Network, network: Object, machines: Iterable[Object], peers: Iterable[Object]) -> Network:
    """The network, each port of it with the firewall that its machine and the network give it.

    `peers` are all machines of the namespace, of which rules may speak.
    """
    by_uid = {uid_of(machine): machine for machine in machines}
    merged: dict[str, Firewall] = {}
    ports = []
    for port in value.ports:
        specs = [spec for spec in (_spec_of(by_uid.get(port.machine_uid)), _spec_of(network)) if spec is not None]
        key = _text(specs)
        if specs and key not in merged:
            merged[key] = firewall_value(specs)
        ports.append(replace(port, firewall=merged[key].name) if specs else port)
    selectors = {_group_name(labels): labels for labels in _selectors(network, by_uid.values())}
    groups = _groups(selectors, list(peers) if selectors else [], value.uid)
    return replace(value, ports=tuple(ports), firewalls=tuple(merged.values()), groups=groups)


def names_peers(network: Object, machines: Iterable[Object]) -> bool:
    """Whether a rule of the network, or of one of these machines on it, speaks of other machines."""
    return any(True for _ in _selectors(network, machines))


def firewall_value(specs: list[_Spec]) -> Firewall:
    """That of the machine comes first: its rules are asked first, and its defaults are taken where it has them."""
    defaults = [spec.get("defaults") or {} for spec in specs]
    ingress, egress = (
        FirewallAction(next((one[side] for one in defaults if side in one), FirewallAction.ALLOW))
        for side in ("ingress", "egress")
    )
    rules = tuple(_rule(rule) for spec in specs for rule in spec.get("rules") or ())
    return Firewall(f"f{_digest(specs)}", ingress, egress, rules)


def _rule(spec: _Spec) -> FirewallRule:
    peers = spec.get("peers")
    return FirewallRule(
        direction=FirewallDirection(spec["direction"]),
        action=FirewallAction(spec["action"]),
        protocol=FirewallProtocol(spec.get("protocol", FirewallProtocol.ANY)),
        ports=tuple((one["port"], one.get("endPort", one["port"])) for one in spec.get("ports") or ()),
        is_of_everybody="cidrs" not in spec and peers is None,
        cidrs=tuple(map(ipaddress.ip_network, spec.get("cidrs") or ())),
        groups=() if peers is None else (_group_name(peers["matchLabels"]),),
    )


def _selectors(network: Object, machines: Iterable[Object]) -> Iterable[Mapping[str, str]]:
    for obj in (network, *machines):
        for rule in (_spec_of(obj) or {}).get("rules") or ():
            if "peers" in rule:
                yield rule["peers"]["matchLabels"]


def _groups(
    selectors: Mapping[str, Mapping[str, str]], peers: list[Object], network_uid: str
) -> tuple[AddressGroup, ...]:
    held = [
        (peer["metadata"].get("labels") or {}, placed)
        for peer in peers
        if not is_removed(peer)
        for placed in placed_interfaces(peer)
        if placed["networkUID"] == network_uid
    ]
    return tuple(
        _group(name, [placed for carried, placed in held if labels.items() <= carried.items()])
        for name, labels in sorted(selectors.items())
    )


def _group(name: str, members: list[dict[str, Any]]) -> AddressGroup:
    addresses = {ipaddress.ip_address(address) for placed in members for address in placed.get("ipAddresses") or ()}
    return AddressGroup(
        name,
        tuple(sorted(addresses, key=lambda address: (address.version, int(address)))),
        tuple(sorted({placed["macAddress"] for placed in members})),
    )


def _spec_of(obj: Object | None) -> _Spec | None:
    spec: _Spec | None = obj["spec"].get("firewall") if obj is not None else None
    return spec


def _group_name(labels: Mapping[str, str]) -> str:
    return f"g{_digest(labels)}"


def _digest(value: object) -> str:
    return hashlib.sha256(_text(value).encode()).hexdigest()[:_DIGEST_CHARS]


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
