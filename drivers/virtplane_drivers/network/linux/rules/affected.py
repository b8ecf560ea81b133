"""Whose flows a change of firewalls may end: one guest may have 100,000, and not all are to be judged again."""

from collections.abc import Iterator
from dataclasses import dataclass

from virtplane_drivers.network.contract import Firewall, IpAddress, Network, Port
from virtplane_drivers.network.linux.rules.spoofing import certain_addresses

_BYTES = {4: 4, 6: 16}


@dataclass(frozen=True, slots=True)
class Affected:
    """Addresses, packed as on the wire."""

    addresses: frozenset[bytes]
    lengths: frozenset[int]
    """Of families of which any address may be meant: nobody knows who has which."""

    def __contains__(self, address: bytes) -> bool:
        """Link-local addresses always: a guest may make up its own (RFC 7217)."""
        is_link_local = len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
        return len(address) in self.lengths or address in self.addresses or is_link_local


EVERYBODY = Affected(frozenset(), frozenset(_BYTES.values()))


def affected(before: Network, now: Network) -> Affected | None:
    """Whose flows may not be let through any more; None: nobody's. A port more is no reason to look at flows. Pure."""
    if (before.routes, before.subnets) != (now.routes, now.subnets):
        return EVERYBODY
    ports = _changed_ports(before, now)
    had, has = ({one.name: frozenset(one.addresses) for one in network.groups} for network in (before, now))
    moved = {address for name in had.keys() | has.keys() for address in had.get(name, _NONE) ^ has.get(name, _NONE)}
    macs_had, macs_has = ({one.name: frozenset(one.macs) for one in network.groups} for network in (before, now))
    if not ports and not moved and macs_had == macs_has:
        return None
    if now.routes:  # what is behind a machine is that one's
        return EVERYBODY
    moved |= {address for port in ports for address in certain_addresses(now, port)}
    return Affected(frozenset(address.packed for address in moved), frozenset(_free_lengths(now)))


_NONE: frozenset[IpAddress] = frozenset()


def _changed_ports(before: Network, now: Network) -> list[Port]:
    """Those that are under other rules than they were, and new ones that may have addresses which nobody knows."""
    had, has = (_rules(network) for network in (before, now))
    chooses = now.chosen_prefix is not None
    return [
        port
        for port in now.ports
        if (had[port.key] != has[port.key] if port.key in had else chooses or not port.addresses)
    ]


def _rules(network: Network) -> dict[tuple[str, str], Firewall | None]:
    firewalls = {one.name: one for one in network.firewalls}
    return {port.key: firewalls.get(port.firewall) for port in network.ports}


def _free_lengths(network: Network) -> Iterator[int]:
    for version, length in _BYTES.items():
        if not all(any(address.version == version for address in port.addresses) for port in network.ports):
            yield length
