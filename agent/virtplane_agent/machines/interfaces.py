"""Whether a machine's interfaces can be joined: each one's network serves it here before the machine starts."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from virtplane_agent.endpoints import Endpoint, Endpoints
from virtplane_agent.machines.addresses import Seen
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.networks.desired import (
    interface_spec,
    left_interfaces,
    placed_interfaces,
    port_value,
    waiting_interfaces,
)
from virtplane_agent.networks.serving import NetworkKey, Networks
from virtplane_api.interfaces import Row, key_of_row, reported_rows
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import InterfaceModel, LinkState, NetworkMode
from virtplane_drivers.errors import DriverError, Refused
from virtplane_drivers.hypervisor.contract import Nic

_KEPT_WITH = (Reason.NETWORK_NOT_ALLOWED, Reason.VLAN_NOT_POSSIBLE, Reason.NIC_NOT_ATTACHABLE)
"""For which a guest keeps an interface as it is. Not without a firewall that is asked for."""
_NOT_ANEW = (
    Reason.NETWORK_NOT_ALLOWED,
    Reason.NO_SUCH_BRIDGE,
    Reason.VLAN_NOT_POSSIBLE,
    Reason.FIREWALL_NOT_POSSIBLE,
)
"""For which a network keeps the guests that run on it, and takes no other."""


class Interfaces:
    """Looks up what is behind a machine's interfaces."""

    def __init__(self, endpoints: Endpoints, networks: Networks) -> None:
        self._endpoints = endpoints
        self._networks = networks

    def seen(self, machine: Object) -> Seen:
        """Addresses that its guest was seen to use where its networks give none."""
        uid = uid_of(machine)
        keys = map(key_of_row, placed_interfaces(machine))
        return {(name, network): self._networks.seen(network, uid, name) for name, network in keys}

    def not_anew(self, machine: Object) -> str | None:
        """Interfaces that a guest has while it runs, and why it would not get them at a start; None: nobody has
        looked yet."""
        said, hypervisor = [], machine["status"]["placement"]["hypervisor"]
        for placed in placed_interfaces(machine):
            network = self._networks.last_seen(machine, placed["networkUID"])
            if network is None:
                why = self._without_driver(machine, placed["networkUID"])
                if not why:
                    return None
                said.append(f"interface {placed['name']}: {why}")
            elif network.reason in _NOT_ANEW:
                said.append(f"interface {placed['name']} on {hypervisor}: {network.message}")
        return "; ".join(said)

    async def nics(
        self, machine: Object, endpoint: Endpoint, defined: Sequence[Nic], running: Sequence[Nic] = ()
    ) -> list[Nic] | Hindrance:
        """Each adapter, in the order of the placement; or the first that cannot be joined, and why.

        Without those that wait for one of the machine itself (`waiting`): it has to go before they can come.
        `defined` are those of before: what the spec says nothing of any more stays as it is there.
        `running` are those that a guest has: where the host refuses the network of one by now, that one stays as it is
        and holds no other one up, unless it is to have another address: the one that it has would count as free.
        What the guest still has to let go of is served as well: a suspended machine wakes with it.
        """
        for left in left_interfaces(machine):
            with contextlib.suppress(DriverError):
                await self._serve(endpoint, left["networkUID"])
        found = []
        for placed in _not_waiting(machine):
            nic = await self._nic(machine, endpoint, placed, defined)
            if isinstance(nic, Hindrance):
                # What passes by itself is waited for.
                stays = nic.progress is Progress.STALLED and nic.reason in _KEPT_WITH
                kept = _kept(machine, placed, defined, running) if stays else None
                if kept is None:
                    return nic
                nic = kept
            found.append(nic)
        return found

    def joined(self, uid: str) -> None:
        """The machine's hypervisor has joined ports."""
        self._networks.machine_joined(uid)

    def _without_driver(self, machine: Object, network_uid: str) -> str:
        endpoint = self._endpoints.hypervisors.get(machine["status"]["placement"]["hypervisor"])
        network = self._networks.object(network_uid)
        if endpoint is None or network is None or not self._networks.is_without_driver(machine, network_uid):
            return ""
        return _without_mode(endpoint, network)

    async def _serve(self, endpoint: Endpoint, network_uid: str) -> None:
        network = self._networks.object(network_uid)
        driver = endpoint.network_modes.get(NetworkMode(network["spec"]["mode"])) if network is not None else None
        if driver is not None:
            await self._networks.in_force(NetworkKey(driver, network_uid))

    async def _nic(
        self, machine: Object, endpoint: Endpoint, placed: Mapping[str, Any], defined: Sequence[Nic]
    ) -> Nic | Hindrance:
        name = placed["name"]
        network = self._networks.object(placed["networkUID"])
        if network is None:
            message = f"interface {name}: VirtualNetwork {placed['networkName']} that it was given addresses in is gone"
            return Hindrance(Reason.NETWORK_NOT_FOUND, message)
        if why := _without_mode(endpoint, network):
            return Hindrance(Reason.NIC_NOT_ATTACHABLE, f"interface {name}: {why}", Progress.STALLED)
        driver_name = endpoint.network_modes[NetworkMode(network["spec"]["mode"])]
        try:
            value = await self._networks.in_force(NetworkKey(driver_name, placed["networkUID"]))
            port = port_value(machine, placed)
            if port.key not in {one.key for one in value.ports}:
                message = f"interface {name}: its addresses are another machine's on this host still"
                return Hindrance(Reason.ADDRESS_IN_USE, message)
            attachment = await self._endpoints.networks[driver_name].attachment(value, port)
        except Refused as error:
            return Hindrance(error.reason, f"interface {name} on {endpoint.name}: {error}", Progress.STALLED)
        except DriverError as error:
            return Hindrance(error.reason, f"interface {name} on {endpoint.name}: {error}")
        nic = Nic(name=name, mac=port.mac, attachment=attachment, mtu=value.mtu)
        return replace(nic, **_shape(machine, placed, defined)._asdict())


def _without_mode(endpoint: Endpoint, network: Object) -> str:
    """Why the hypervisor has no networks of that kind; empty where it has."""
    mode = NetworkMode(network["spec"]["mode"])
    if mode in endpoint.network_modes:
        return ""
    why = endpoint.facts.missing.get(f"Network{mode}", "")
    return f"{endpoint.name} has no networks of mode {mode}{why and f': {why}'}"


def waiting(machine: Object) -> Hindrance | None:
    """Which interface waits for another one of the machine's own."""
    for name, other in waiting_interfaces(machine).items():
        message = f"interface {name}: its addresses are those of the machine's own {other} until its guest lets that go"
        return Hindrance(Reason.ADDRESS_IN_USE, message, Progress.SETTLING)
    return None


def _not_waiting(machine: Object) -> list[dict[str, Any]]:
    waits = waiting_interfaces(machine)
    return [row for row in placed_interfaces(machine) if row["name"] not in waits]


class _Shape(NamedTuple):
    """What of an adapter takes no claim."""

    model: InterfaceModel
    queues: int
    boot_order: int | None
    link_up: bool


def _shape(machine: Object, placed: Mapping[str, Any], defined: Sequence[Nic]) -> _Shape:
    """As the spec has it; of an interface that it has no more as it was, so that no cable is put in by that."""
    spec = interface_spec(machine, placed)
    if spec is None:
        before = next((nic for nic in defined if nic.name == placed["name"]), None)
        if before is not None:
            return _shape_of(before)
        spec = {}
    return _Shape(
        InterfaceModel(spec.get("model", InterfaceModel.VIRTIO)),
        spec.get("queues", 1),
        spec.get("bootOrder"),
        spec.get("linkState", LinkState.UP) == LinkState.UP,
    )


def _kept(machine: Object, placed: Mapping[str, Any], defined: Sequence[Nic], running: Sequence[Nic]) -> Nic | None:
    """The adapter that the guest has by this very interface: as it is defined, but for what takes no claim."""
    reported = machine["status"].get("interfaces")
    if not any(_is_reported(placed, row) for row in reported_rows(reported)):
        return None
    names = {nic.name for nic in running if not nic.is_cut_off} - {row["name"] for row in left_interfaces(machine)}
    for nic in defined:
        if nic.name in names and (nic.name, nic.mac) == (placed["name"], placed["macAddress"]):
            return replace(nic, **_shape(machine, placed, defined)._asdict())
    return None


def _is_reported(placed: Mapping[str, Any], row: Row) -> bool:
    """Whether this agent said of the machine that it has the interface there, under these addresses."""
    if key_of_row(row) != key_of_row(placed):
        return False
    return set(row.get("ipAddresses") or ()) == set(placed.get("ipAddresses") or ())


def _shape_of(nic: Nic) -> _Shape:
    return _Shape(nic.model, nic.queues, nic.boot_order, nic.link_up)


def with_cables(machine: Object, defined: Sequence[Nic]) -> list[Nic]:
    """The adapters that are defined, their cables as the spec has them now. Of one that is to be on another network, or
    nowhere, the cable stays as it is."""
    elsewhere = {row["name"] for row in left_interfaces(machine)}
    placed = {row["name"]: row for row in placed_interfaces(machine) if row["name"] not in elsewhere}
    return [
        replace(nic, link_up=_shape(machine, placed[nic.name], defined).link_up) if nic.name in placed else nic
        for nic in defined
    ]


def is_defined(machine: Object, nics: Sequence[Nic]) -> bool:
    """Whether the machine's definition has the adapters of its placement that can be had, as its spec has them now.

    On which network one is follows from the placement alone, whose token stands in the definition.
    """
    wanted = [(row["name"], row["macAddress"], _shape(machine, row, nics)) for row in _not_waiting(machine)]
    return wanted == [(nic.name, nic.mac, _shape_of(nic)) for nic in nics]
