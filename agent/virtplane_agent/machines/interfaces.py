"""Whether a machine's interfaces can be joined: each one's network serves it here before the machine starts."""

import contextlib
from collections.abc import Sequence

from virtplane_agent.endpoints import Endpoint, Endpoints
from virtplane_agent.machines.addresses import Seen
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.networks.desired import interface_spec, left_interfaces, placed_interfaces, port_value
from virtplane_agent.networks.serving import NetworkKey, Networks
from virtplane_api.interfaces import key_of_row
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import InterfaceModel, LinkState, NetworkMode
from virtplane_drivers.errors import DriverError, Refused
from virtplane_drivers.hypervisor.contract import Nic


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

    async def nics(self, machine: Object, endpoint: Endpoint) -> list[Nic] | Hindrance:
        """Each adapter, in the order of the placement; or the first that cannot be joined, and why.

        What the guest still has to let go of is served as well: a suspended machine wakes with it.
        """
        for left in left_interfaces(machine):
            with contextlib.suppress(DriverError):
                await self._serve(endpoint, left["networkUID"])
        found = []
        for placed in placed_interfaces(machine):
            nic = await self._nic(machine, endpoint, placed["name"])
            if isinstance(nic, Hindrance):
                return nic
            found.append(nic)
        return found

    def joined(self, uid: str) -> None:
        """The machine's hypervisor has joined ports."""
        self._networks.machine_joined(uid)

    async def _serve(self, endpoint: Endpoint, network_uid: str) -> None:
        network = self._networks.object(network_uid)
        driver = endpoint.network_modes.get(NetworkMode(network["spec"]["mode"])) if network is not None else None
        if driver is not None:
            await self._networks.in_force(NetworkKey(driver, network_uid))

    async def _nic(self, machine: Object, endpoint: Endpoint, name: str) -> Nic | Hindrance:
        placed = next(one for one in placed_interfaces(machine) if one["name"] == name)
        network = self._networks.object(placed["networkUID"])
        if network is None:
            message = f"interface {name}: VirtualNetwork {placed['networkName']} that it was given addresses in is gone"
            return Hindrance(Reason.NETWORK_NOT_FOUND, message)
        mode = NetworkMode(network["spec"]["mode"])
        driver_name = endpoint.network_modes.get(mode)
        if driver_name is None:
            message = f"interface {name}: {endpoint.name} has no networks of mode {mode}"
            return Hindrance(Reason.NIC_NOT_ATTACHABLE, message, Progress.STALLED)
        try:
            value = await self._networks.in_force(NetworkKey(driver_name, placed["networkUID"]))
            port = port_value(machine, placed)
            if port.key not in {one.key for one in value.ports}:
                message = f"interface {name}: its addresses are another machine's on this host still"
                return Hindrance(Reason.ADDRESS_IN_USE, message)
            attachment = await self._endpoints.networks[driver_name].attachment(value, port)
        except Refused as error:
            return Hindrance(error.reason, f"interface {name}: {error}", Progress.STALLED)
        except DriverError as error:
            return Hindrance(error.reason, f"interface {name}: {error}")
        spec = interface_spec(machine, name)
        return Nic(
            name=name,
            mac=port.mac,
            attachment=attachment,
            mtu=value.mtu,
            model=InterfaceModel(spec.get("model", InterfaceModel.VIRTIO)),
            queues=spec.get("queues", 1),
            boot_order=spec.get("bootOrder"),
            link_up=spec.get("linkState", LinkState.UP) == LinkState.UP,
        )


def is_defined(machine: Object, nics: Sequence[Nic]) -> bool:
    """Whether the machine's definition has the adapters of its placement, as its spec has them now.

    On which network one is follows from the placement alone, whose token stands in the definition.
    """
    wanted = []
    for placed in placed_interfaces(machine):
        spec = interface_spec(machine, placed["name"])
        shape = (spec.get("model", InterfaceModel.VIRTIO), spec.get("queues", 1), spec.get("bootOrder"))
        wanted.append((placed["name"], placed["macAddress"], *shape, spec.get("linkState", "Up") == LinkState.UP))
    return wanted == [(nic.name, nic.mac, nic.model, nic.queues, nic.boot_order, nic.link_up) for nic in nics]
