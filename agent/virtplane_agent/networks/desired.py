"""From VirtualNetwork and VirtualMachine to the plain values that drivers of networks take."""

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from virtplane_api.interfaces import key_of_row, left_behind, reported_rows
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.quantity import quantity_bytes
from virtplane_api.reasons import Reason
from virtplane_api.subnets import domain_of, gateway_of, mtu_of
from virtplane_api.vocabulary import Addressing, ForwardProtocol, NetworkMode
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import Bandwidth, Network, Port, PortForward, Route, Subnet
from virtplane_drivers.network.overlay import Overlay, RemoteMachine, Underlay


def network_value(network: Object, ports: Iterable[Port], overlay: Overlay | None = None) -> Network:
    """A VirtualNetwork as drivers know it, with the ports of this host, and of mode Overlay all beyond it."""
    metadata, spec = network["metadata"], network["spec"]
    return Network(
        uid=uid_of(network),
        namespace=metadata["namespace"],
        name=metadata["name"],
        mode=NetworkMode(spec["mode"]),
        ipv4=_subnet(spec.get("ipv4")),
        ipv6=_subnet(spec.get("ipv6")),
        mtu=mtu_of(network),
        domain=domain_of(network),
        forwarders=tuple(map(ipaddress.ip_address, (spec.get("dns") or {}).get("forwarders") or ())),
        routes=tuple(
            Route(ipaddress.ip_network(route["destination"]), ipaddress.ip_address(route["via"]))
            for route in spec.get("routes") or ()
        ),
        host_bridge=(spec.get("bridge") or {}).get("name", ""),
        overlay=overlay,
        vlan=(spec.get("bridge") or {}).get("vlan"),
        ports=tuple(ports),
    )


def overlay_value(network: Object, underlay: Underlay, machines: Iterable[RemoteMachine]) -> Overlay:
    """What a network of mode Overlay is beyond this host.

    Raises:
        Unavailable: the operator has not claimed for it what it needs (NetworkNotReady).
    """
    status, metadata = network.get("status", {}), network["metadata"]
    if "vni" not in status or "mtu" not in status:
        message = f"VirtualNetwork {metadata['namespace']}/{metadata['name']} has no number and MTU of its tunnels yet"
        raise Unavailable(message, reason=Reason.NETWORK_NOT_READY)
    peers = [ipaddress.ip_address(peer["address"]) for peer in status.get("peers") or ()]
    if underlay.address in peers:
        peers.remove(underlay.address)  # once: if it is there again, another host says that it has it
    return Overlay(
        vni=status["vni"],
        local=underlay.address,
        peers=tuple(peers),
        machines=tuple(machines),
    )


def remote_machines(neighbours: Iterable[Object], network_uid: str, here: Collection[str]) -> tuple[RemoteMachine, ...]:
    """All on the network but those of the UIDs in `here`, in the order of their names."""
    found = [
        RemoteMachine(machine["metadata"]["name"], tuple(map(ipaddress.ip_address, placed.get("ipAddresses") or ())))
        for machine in neighbours
        if uid_of(machine) not in here and not is_removed(machine)
        for placed in placed_interfaces(machine)
        if placed["networkUID"] == network_uid
    ]
    return tuple(sorted(found, key=lambda one: (one.name, [str(address) for address in one.addresses])))


def _subnet(spec: Mapping[str, Any] | None) -> Subnet | None:
    if spec is None:
        return None
    addressing = Addressing(spec.get("addressing", Addressing.DHCP))
    return Subnet(ipaddress.ip_network(spec["cidr"]), gateway_of(spec), addressing)


def placed_interfaces(machine: Object) -> list[dict[str, Any]]:
    """status.placement.interfaces: what is claimed for the machine."""
    placement = machine.get("status", {}).get("placement") or {}
    interfaces: list[dict[str, Any]] = placement.get("interfaces") or []
    return interfaces


def left_interfaces(machine: Object) -> list[dict[str, Any]]:
    """Rows of status.interfaces of networks that the placement has the interface no more in.

    The guest may have them still, or again when it wakes: their ports stay as they are until it has let them go.
    """
    status = machine.get("status", {})
    if (status.get("host") or {}).get("state") != "Present":
        return []
    placement = status.get("placement") or {}
    placed = {key_of_row(row) for row in placement.get("interfaces") or ()}
    left = left_behind(placement, status.get("interfaces") or ())
    return [dict(row) for row in left if key_of_row(row) not in placed]


def waiting_interfaces(machine: Object) -> dict[str, str]:
    """Placed interfaces that wait for an address of another one that the guest still has to let go of, as of one that
    has another name now: by name, the name of that one."""
    return {
        placed["name"]: row["name"]
        for row in left_interfaces(machine)
        for placed in placed_interfaces(machine)
        if placed["networkUID"] == row["networkUID"] and _names(placed) & _names(row)
    }


def _names(row: Mapping[str, Any]) -> set[str]:
    return {row["macAddress"], *(row.get("ipAddresses") or ())}


def joined_interfaces(machine: Object) -> list[dict[str, Any]]:
    """All for which the machine needs a port on this host: what is claimed for it, then what is left."""
    return [*placed_interfaces(machine), *left_interfaces(machine)]


def port_value(machine: Object, placed: Mapping[str, Any]) -> Port:
    """One placed interface as drivers know it; of one that is only left of a former placement too."""
    limits = bandwidth_of(machine, placed)
    return Port(
        machine_uid=uid_of(machine),
        machine_name=machine["metadata"]["name"],
        interface=placed["name"],
        mac=placed["macAddress"],
        addresses=tuple(map(ipaddress.ip_address, placed.get("ipAddresses") or ())),
        forwards=tuple(
            PortForward(ForwardProtocol(forward["protocol"]), forward["hostPort"], forward["port"])
            for forward in placed.get("portForwards") or ()
        ),
        bandwidth=Bandwidth(*(quantity_bytes(limits[way]) if way in limits else None for way in ("ingress", "egress"))),
    )


def interface_spec(machine: Object, placed: Mapping[str, Any]) -> dict[str, Any] | None:
    """The item of spec.interfaces that a row is of; None when the spec has it no more, or on another network.

    Such a row is of a change that cannot be had yet, or that the guest does not follow: it stays as it is.
    """
    for one in machine["spec"].get("interfaces") or ():
        if one["name"] == placed["name"] and one["networkName"] == placed["networkName"]:
            return dict(one)
    return None


def bandwidth_of(machine: Object, placed: Mapping[str, Any]) -> dict[str, str]:
    """The limits of a row, those that were reported last where the spec says nothing of it any more."""
    spec = interface_spec(machine, placed)
    if spec is None:
        reported = reported_rows(machine.get("status", {}).get("interfaces"))
        spec = next((dict(row) for row in reported if key_of_row(row) == key_of_row(placed)), {})
    return spec.get("bandwidth") or {}


def ports_of(machines: Iterable[Object], network_uid: str) -> tuple[Port, ...]:
    """The ports of a network that these machines need, in the order of their keys.

    An address is in one of them only. Where the watch still shows the machine that had it before, that one is on its
    way out; but what a guest still has to let go of is nobody else's here, whatever its claim became.
    """
    leaving_last = sorted(machines, key=_staying, reverse=True)
    ports: list[Port] = []
    taken: set[object] = set()
    for port in (
        *_ports(leaving_last, network_uid, left_interfaces),
        *_ports(leaving_last, network_uid, placed_interfaces),
    ):
        names = {port.mac, *port.addresses}
        if not names & taken:
            taken |= names
            ports.append(port)
    return tuple(sorted(ports, key=lambda port: port.key))


def _ports(
    machines: Iterable[Object], network_uid: str, rows_of: Callable[[Object], Iterable[Mapping[str, Any]]]
) -> Iterator[Port]:
    for machine in machines:
        if is_removed(machine):
            continue
        for placed in rows_of(machine):
            if placed["networkUID"] == network_uid:
                yield port_value(machine, placed)


def is_removed(machine: Object) -> bool:
    """Whether nothing of the machine is left here, as this agent said itself under this placement."""
    status = machine.get("status", {})
    host, placement = status.get("host") or {}, status.get("placement") or {}
    return bool(host.get("state") == "Removed" and host.get("token") == placement.get("token"))


def _staying(machine: Object) -> tuple[bool, str]:
    metadata = machine["metadata"]
    return "deletionTimestamp" not in metadata, str(metadata["creationTimestamp"])
