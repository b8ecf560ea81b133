"""Connections that the kernel still knows, of addresses that somebody else may have next.

A flow that was let pass once goes on to be (`ct state established`), and one that is forwarded to a guest's address
goes on to it whoever has it: so they end with the address, and those of a forward with the forward.
"""

from collections.abc import Iterable
from pathlib import Path

from virtplane_api.vocabulary import ForwardProtocol
from virtplane_drivers.network.contract import IpAddress, PortForward
from virtplane_drivers.network.linux.namespace import in_namespace
from virtplane_drivers.network.linux.rules.affected import Affected
from virtplane_drivers.network.linux.rules.conntrack import end_flows_through, end_flows_unless
from virtplane_drivers.network.linux.rules.judgement import TCP, UDP
from virtplane_drivers.network.linux.values import Transit

_NUMBERS = {ForwardProtocol.TCP: TCP, ForwardProtocol.UDP: UDP}


async def end_flows(path: Path, addresses: Iterable[IpAddress]) -> None:
    """The router namespace knows no connection from or to these addresses any more.

    Raises:
        OSError: the namespace is gone, or the kernel does not say.
    """
    gone = frozenset(addresses)
    among = Affected(frozenset(address.packed for address in gone), frozenset())
    await in_namespace(path, end_flows_unless, lambda flow: gone.isdisjoint((flow.source, flow.destination)), among)


async def end_forwards(
    path: Path, host_namespace: Path | None, transit: Transit, forwards: Iterable[PortForward]
) -> None:
    """Neither the router nor the host knows a connection through these forwards to this network any more.

    Raises:
        OSError: a namespace is gone, or the kernel does not say.
    """
    ports = frozenset((_NUMBERS[forward.protocol], forward.host_port) for forward in forwards)
    # The router is asked for the port of the host; the host was asked itself, and the router answers for it.
    router = frozenset((transit.router_ipv4.packed, transit.router_ipv6.packed))
    for namespace in (path, host_namespace):
        await in_namespace(namespace, end_flows_through, ports, router)
