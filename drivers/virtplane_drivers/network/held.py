"""What a hypervisor holds keeps what it was given: a machine that nobody describes any more runs on, and is served.

That it is not asked for is no order to cut it off: its object may be gone by a restored database. What another port
needs is that one's.
"""

from collections.abc import Iterable
from dataclasses import replace

from virtplane_drivers.network.contract import Network, Port


def still_served(before: Network, now: Network) -> tuple[Port, ...]:
    """The ports of before that are not asked for now, and that have nothing that one which is asked for has."""
    keys, taken = {port.key for port in now.ports}, {thing for port in now.ports for thing in _things(port)}
    return tuple(port for port in before.ports if port.key not in keys and not taken & _things(port))


def with_held(before: Network, now: Network, ports: Iterable[Port]) -> Network:
    """The network with these ports of before too, and with what of before's firewalls they are under."""
    held = tuple(ports)
    known, named = {one.name for one in now.firewalls}, {port.firewall for port in held}
    firewalls = tuple(one for one in before.firewalls if one.name in named - known)
    groups_known = {one.name for one in now.groups}
    groups_named = {name for one in firewalls for rule in one.rules for name in rule.groups}
    # Who was in a group may have given its address to another one since. Of machines elsewhere nobody knows that here.
    had = {address: port.key for port in before.ports for address in port.addresses}
    others = {address for port in now.ports for address in port.addresses if had.get(address, port.key) != port.key}
    groups = tuple(
        replace(one, addresses=tuple(address for address in one.addresses if address not in others))
        for one in before.groups
        if one.name in groups_named - groups_known
    )
    return replace(
        now,
        ports=(*now.ports, *held),
        firewalls=(*now.firewalls, *firewalls),
        groups=(*now.groups, *groups),
    )


def _things(port: Port) -> set[object]:
    """What only one port of a network can have; of forwards, one of a host."""
    return {port.mac, *port.addresses, *((forward.protocol, forward.host_port) for forward in port.forwards)}
