"""What a hypervisor holds keeps what it was given: a machine that nobody describes any more runs on, and is served.

That it is not asked for is no order to cut it off: its object may be gone by a restored database. What another port
needs is that one's.
"""

from virtplane_drivers.network.contract import Network, Port


def still_served(before: Network, now: Network) -> tuple[Port, ...]:
    """The ports of before that are not asked for now, and that have nothing that one which is asked for has."""
    keys, taken = {port.key for port in now.ports}, {thing for port in now.ports for thing in _things(port)}
    return tuple(port for port in before.ports if port.key not in keys and not taken & _things(port))


def _things(port: Port) -> set[object]:
    """What only one port of a network can have; of forwards, one of a host."""
    return {port.mac, *port.addresses, *((forward.protocol, forward.host_port) for forward in port.forwards)}
