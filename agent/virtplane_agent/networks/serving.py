"""The networks of this host: one pass over one of them makes it as its VirtualNetwork and the machines here want it.

Which ports a network needs follows from the machines that are placed here, running or not. Absence is not an order: a
network without an object is left as it is for as long as a machine here is on it, and one whose ports a hypervisor
still holds is not removed, whatever the cluster says.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from virtplane_agent.endpoints import Endpoint, Endpoints
from virtplane_agent.networks.desired import (
    is_removed,
    joined_interfaces,
    network_value,
    overlay_value,
    port_value,
    ports_of,
    remote_machines,
)
from virtplane_agent.networks.firewalls import names_peers, with_firewalls
from virtplane_agent.networks.neighbours import Neighbours
from virtplane_agent.networks.turns import Turns
from virtplane_agent.placed import Placed
from virtplane_api.host_networks import MAX_NETWORKS
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import Key, Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Failed, Outcome, Wait
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import DriverError, Unavailable
from virtplane_drivers.network.contract import IpAddress, Network, NetworkState, ObservedNetwork, Port

APPLY_AGAIN_S = 300.0
"""A driver's events are hints: what somebody else changed is repaired this often without any."""
_MAX_MESSAGE_CHARS = 1024

Addresses = Mapping[tuple[str, str], tuple[IpAddress, ...]]
"""By machine and interface."""


class NetworkKey(NamedTuple):
    """One network of one driver: machines of two hypervisors of this host may be on it, each by its own driver."""

    driver: str
    uid: str


class Networks:
    """Keeps the networks of this host.

    `on_change(hypervisor)` is called when what it reports of them became other, `on_seen(machine UID)` when its guest
    was seen to use other addresses than before.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        networks: Informer,
        machines: Placed,
        client: KubeClient,
        enqueue: Callable[[NetworkKey], None],
        on_change: Callable[[str], None],
        on_seen: Callable[[str], None],
    ) -> None:
        self._endpoints = endpoints
        self._networks = networks
        self._machines = machines
        self._enqueue = enqueue
        self._on_change = on_change
        self._on_seen = on_seen
        self._turns: Turns[NetworkKey] = Turns(self._pass)
        self._keys: dict[str, Key] = {}
        """By UID: where a network was found last."""
        self._seen: dict[NetworkKey, ObservedNetwork] = {}
        self._found: set[NetworkKey] = set()
        """What the drivers know, from before this agent's start too."""
        self._has_found = False
        self._addresses: dict[tuple[str, str, str], tuple[IpAddress, ...]] = {}
        """By network, machine and interface: those that its guest was seen to use."""
        self._used: dict[str, tuple[tuple[NetworkKey, Port], ...]] = {}
        """By machine: its ports when it last changed, and what they are of."""
        self._firewalls: dict[str, object] = {}
        """By machine: its spec.firewall then."""
        self._neighbours = Neighbours(client, self._neighbours_changed)
        self._neighboured: dict[NetworkKey, str] = {}
        """Those that have to know all machines of that namespace: overlays, and whose firewalls name machines."""

    # --- who is to be looked at ---------------------------------------------------------------------------------------

    async def find_networks(self) -> list[NetworkKey]:
        """All that the drivers know, from before this agent's start."""
        for name, driver in self._endpoints.networks.items():
            self._found |= {NetworkKey(name, uid) for uid in await driver.inventory()}
        self._has_found = True
        # Those of modes that are not to be had any more were not known to be theirs.
        for machine in self._machines.all():
            self.machine_changed(uid_of(machine))
        for hypervisor in self._endpoints.hypervisors:
            self._on_change(hypervisor)  # some that were told of may be gone
        return sorted(self._found)

    def machine_changed(self, machine_uid: str) -> None:
        """A machine came, went, was given other addresses or rules, or has let go of some: also by our own report."""
        machine = self._machines.get(machine_uid)
        now = () if machine is None or is_removed(machine) else tuple(self._ports_of(machine))
        firewall = machine["spec"].get("firewall") if machine is not None and now else None
        before = self._used.get(machine_uid, ())
        walled = firewall != self._firewalls.get(machine_uid)
        if walled or now != before:
            self._used[machine_uid], self._firewalls[machine_uid] = now, firewall
            if not now:
                del self._used[machine_uid], self._firewalls[machine_uid]
            for key in {key for key, _port in ({*now, *before} if walled else {*now} ^ {*before})}:
                self._enqueue(key)

    def machine_joined(self, machine_uid: str) -> None:
        """A hypervisor has joined ports of a machine: what is told to a port that is there is told now."""
        for key, port in self._used.get(machine_uid, ()):
            network = self.object(key.uid)
            if port.bandwidth.is_limited or (network is not None and is_overlay(network)):
                self._enqueue(key)

    def network_changed(self, network_uid: str) -> None:
        """A VirtualNetwork came, changed or went."""
        for key in {key for ports in self._used.values() for key, _port in ports if key.uid == network_uid}:
            self._enqueue(key)

    def _neighbours_changed(self, network_uid: str) -> None:
        for key in self._neighboured:
            if key.uid == network_uid:
                self._enqueue(key)

    def _ports_of(self, machine: Object) -> Iterable[tuple[NetworkKey, Port]]:
        for placed in joined_interfaces(machine):
            driver = self._driver_name(machine, placed["networkUID"])
            if driver:
                yield NetworkKey(driver, placed["networkUID"]), port_value(machine, placed)

    def _driver_name(self, machine: Object, network_uid: str) -> str:
        """Empty when the network is neither to be had here nor here from the time when it was."""
        endpoint = self._endpoints.hypervisors.get(machine["status"]["placement"].get("hypervisor", ""))
        network = self.object(network_uid)
        if endpoint is None:
            return ""
        if network is not None and (driver := endpoint.network_modes.get(NetworkMode(network["spec"]["mode"]))):
            return driver
        drivers = set(endpoint.network_modes.values())
        return next((key.driver for key in self._found if key.uid == network_uid and key.driver in drivers), "")

    # --- passes -------------------------------------------------------------------------------------------------------

    def object(self, network_uid: str) -> Object | None:
        """The VirtualNetwork of that UID."""
        key = self._keys.get(network_uid)
        known = self._networks.objects.get(key) if key is not None else None
        if known is not None and uid_of(known) == network_uid:
            return known
        # Once for each: a cluster may have thousands, and each pass over a machine asks for its own.
        for key, network in self._networks.objects.items():
            if uid_of(network) == network_uid:
                self._keys[network_uid] = key
                return network
        self._keys.pop(network_uid, None)
        return None

    def value(self, key: NetworkKey) -> Network | None:
        """The network as it is to be now; None when there is no such VirtualNetwork (any more).

        Raises:
            Unavailable: it is of mode Overlay and lacks what the operator has to claim for it (NetworkNotReady).
        """
        network = self.object(key.uid)
        if network is None:
            return None
        machines = self._machines_on(key)
        neighbours = self._neighbours.machines(network["metadata"]["namespace"])
        overlay, underlay = None, self._endpoints.underlays.get(key.driver)
        if is_overlay(network) and underlay is not None:
            here = {uid_of(machine) for machine in machines}
            overlay = overlay_value(network, underlay, remote_machines(neighbours, key.uid, here))
        value = network_value(network, ports_of(machines, key.uid), overlay)
        return with_firewalls(value, network, machines, neighbours)

    def seen(self, network_uid: str, machine_uid: str, interface: str) -> tuple[IpAddress, ...]:
        """Addresses that the guest was seen to use there, of families that the network does not manage."""
        return self._addresses.get((network_uid, machine_uid, interface), ())

    def last_seen(self, machine: Object, network_uid: str) -> ObservedNetwork | None:
        """A network of a machine after its last pass; None: there was none yet, or it is not here."""
        return self._seen.get(NetworkKey(self._driver_name(machine, network_uid), network_uid))

    def is_without_driver(self, machine: Object, network_uid: str) -> bool:
        """Whether a network of a machine is known to be neither to be had here nor here from the time when it was."""
        return self._has_found and not self._driver_name(machine, network_uid)

    async def in_force(self, key: NetworkKey) -> Network:
        """Returns once the network is so for every machine that is placed here now; what it is then.

        Raises:
            DriverError: it is not.
        """
        await self._turns.run(key)
        network = self.value(key)
        if network is None:
            raise Unavailable(f"VirtualNetwork with UID {key.uid} is gone", reason=Reason.NETWORK_NOT_FOUND)
        return network

    async def reconcile(self, key: NetworkKey) -> Outcome:
        """One pass, for the loop."""
        if key.driver not in self._endpoints.networks:
            return Done()
        try:
            await self._turns.run(key)
        except Unavailable as error:
            return Failed(error.reason, str(error), error.retry_after_s)
        except DriverError as error:
            return Failed(error.reason, str(error), APPLY_AGAIN_S)
        return Wait(APPLY_AGAIN_S, "apply again") if key in self._seen else Done()

    async def stop(self) -> None:
        """End what is under way; the networks go on."""
        await self._turns.stop()
        await self._neighbours.stop()

    async def _pass(self, key: NetworkKey) -> None:
        driver = self._endpoints.networks[key.driver]
        if self._machines_on(key):
            self._take_room(key)
        try:
            await self._know_neighbours(key)
            network = self.value(key)
            if network is not None and network.ports:
                await driver.apply(network)
            elif not self._is_needed(key.uid):
                await driver.remove(key.uid)
        except DriverError as error:
            self._saw(key, ObservedNetwork(NetworkState.FAILED, error.reason, str(error)))
            raise
        self._saw(key, await driver.observe(key.uid))

    def _take_room(self, key: NetworkKey) -> None:
        """Of a network that is new here: others that come at once see it before it is there.

        Raises:
            Unavailable: a hypervisor could not report it, and so it could go too early (TooManyNetworks).
        """
        if key in self._found:
            return
        for endpoint in self._endpoints.hypervisors.values():
            drivers = set(endpoint.network_modes.values())
            if key.driver in drivers and sum(one.driver in drivers for one in self._found) >= MAX_NETWORKS:
                raise Unavailable(
                    f"{endpoint.name} has {MAX_NETWORKS} networks, as many as a hypervisor can have: it comes when "
                    "another one has no machines there",
                    reason=Reason.TOO_MANY_NETWORKS,
                    retry_after_s=30.0,
                )
        self._found.add(key)

    async def _know_neighbours(self, key: NetworkKey) -> None:
        """Before names of others are told, or rules name them: a new agent takes nothing back for a moment.

        Raises:
            Unavailable: not yet, and without them the firewall would be another one. Names are no reason to wait.
        """
        network, machines = self.object(key.uid), self._machines_on(key)
        self._neighboured.pop(key, None)
        if network is not None and machines and (names_peers(network, machines) or is_overlay(network)):
            self._neighboured[key] = network["metadata"]["namespace"]
        self._neighbours.watch(set(self._neighboured.values()))
        namespace = self._neighboured.get(key)
        if namespace is None or await self._neighbours.ready(namespace):
            return
        # Asked again: a rule that names machines may have come meanwhile, and what is applied is what is asked for now.
        network = self.object(key.uid)
        if network is not None and names_peers(network, self._machines_on(key)):
            message = f"the machines of namespace {namespace}, which a firewall names, could not be listed yet"
            raise Unavailable(message, reason=Reason.NETWORK_NOT_READY)

    def _is_needed(self, network_uid: str) -> bool:
        """Also by a machine that no driver serves now: its network may come back."""
        return any(
            placed["networkUID"] == network_uid
            for machine in self._machines.all()
            if not is_removed(machine)
            for placed in joined_interfaces(machine)
        )

    def _machines_on(self, key: NetworkKey) -> list[Object]:
        return [
            machine
            for machine in self._machines.all()
            if not is_removed(machine)
            and any(placed["networkUID"] == key.uid for placed in joined_interfaces(machine))
            and self._driver_name(machine, key.uid) == key.driver
        ]

    # --- reports ------------------------------------------------------------------------------------------------------

    def reports(self, hypervisor: Object, endpoint: Endpoint) -> list[dict[str, str]]:
        """Hypervisor.status.networks: of each network that machines of this hypervisor are on, or that is left here.

        What was not looked at yet, since this agent's start, is told as it was before: it is there, and a network that
        is to be deleted must not go before it is gone from here.
        """
        told: list[dict[str, str]] = hypervisor.get("status", {}).get("networks") or []
        if not self._has_found:
            return told
        drivers, before = set(endpoint.network_modes.values()), {row["uid"]: row for row in told}
        keys = [key for key in sorted(self._found) if key.driver in drivers]
        rows = [_report(key.uid, self._seen[key]) if key in self._seen else before.get(key.uid) for key in keys]
        return [row for row in rows if row is not None][:MAX_NETWORKS]

    def states(self) -> Counter[tuple[str, NetworkState]]:
        """How many networks are on this host, by driver and by what was seen of them after their last pass."""
        return Counter((key.driver, seen.state) for key, seen in self._seen.items() if seen.state is not None)

    def _saw(self, key: NetworkKey, seen: ObservedNetwork) -> None:
        before, is_first_look = self._seen.get(key), key in self._found and key not in self._seen
        if seen.state is None:
            self._seen.pop(key, None)
            self._found.discard(key)
        else:
            self._seen[key] = seen
            self._found.add(key)
        self._saw_addresses(key.uid, before.seen if before is not None else {}, seen.seen)
        if is_first_look or (before and _report(key.uid, before)) != (seen.state and _report(key.uid, seen)):
            for endpoint in self._endpoints.hypervisors.values():
                if key.driver in endpoint.network_modes.values():
                    self._on_change(endpoint.name)

    def _saw_addresses(self, network_uid: str, before: Addresses, now: Addresses) -> None:
        changed = [port for port in {**before, **now} if before.get(port) != now.get(port)]
        for port in changed:
            self._addresses.pop((network_uid, *port), None)
            if port in now:
                self._addresses[network_uid, *port] = now[port]
        for machine_uid in {machine_uid for machine_uid, _ in changed}:
            self._on_seen(machine_uid)


def is_overlay(network: Object) -> bool:
    """Whether it is one network over several hosts."""
    return bool(network["spec"]["mode"] == NetworkMode.OVERLAY)


def _report(uid: str, seen: ObservedNetwork) -> dict[str, str]:
    row = {"uid": uid, "state": seen.state.value if seen.state is not None else ""}
    if seen.state is NetworkState.FAILED:
        row |= {"reason": seen.reason, "message": seen.message[:_MAX_MESSAGE_CHARS]}
    return row
