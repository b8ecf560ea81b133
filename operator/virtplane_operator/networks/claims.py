"""What is claimed: addresses by network, ports by host. The machines' statuses are the only record.

What a placement gives up its machine holds until its agent reports that the guest has it no more (status.interfaces):
on no host may anybody send under an address that a guest elsewhere still has.

Rebuilt from all machines before the first new claim, as the store lists everything before anything is placed, and kept
by listening to the store. Claims that are being written count from the moment on in which they are decided.

Two machines may hold one address when two operators decided around a change of their Lease: both are kept as holders.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from virtplane_api.interfaces import key_of_row, left_behind
from virtplane_api.kube.errors import ApiUnavailable
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Key, Object, Resource, key_of, uid_of
from virtplane_api.reasons import Reason
from virtplane_operator.networks.addresses import Subnet, Version, number_of
from virtplane_operator.placement import HostPort


class Holder(NamedTuple):
    """The machine that holds a claim."""

    uid: str
    key: Key

    def __str__(self) -> str:
        return str(self.key)


Holders = tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Contest:
    """Something that a machine holds and others hold as well."""

    reason: str
    what: str
    others: Holders


class _Source(NamedTuple):
    """What of a machine it follows from what it holds."""

    hypervisor: str
    agent: str
    """Whose host's ports it takes; empty while it has no place."""
    token: int | None
    placed: Sequence[dict[str, Any]]
    """Rows of its placement."""
    reported: Sequence[dict[str, Any]]
    """Rows of status.interfaces."""
    host: Mapping[str, Any]


class _Machine(NamedTuple):
    """All that one machine holds."""

    holder: Holder
    interfaces: Sequence[dict[str, Any]]
    """Of the placement, behind those that its guest still has to let go of."""
    ports: tuple[HostPort, ...]
    source: _Source


@dataclass(slots=True)
class _Network:
    """All that is held in one network."""

    addresses: dict[Version, dict[int, Holders]] = field(default_factory=lambda: {4: {}, 6: {}})
    macs: dict[str, Holders] = field(default_factory=dict)
    interfaces: int = 0
    machines: defaultdict[Holder, int] = field(default_factory=lambda: defaultdict(int))
    hypervisors: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Of each, how many of the interfaces."""
    left: dict[Version, tuple[Subnet, int]] = field(default_factory=dict)
    """By family, of which subnet, how many addresses are left; counted when asked for, forgotten on a change."""


_NOBODY = _Network()


class Claims:
    """Who holds what."""

    def __init__(
        self,
        on_contest: Callable[[Key], None] = lambda _key: None,
        on_let_go: Callable[[str], None] = lambda _network_uid: None,
    ) -> None:
        """`on_contest` is told of each holder of what gets a second holder, or has one less.

        `on_let_go` is told of each network, by UID, in which a machine holds less than before, for whatever reason:
        also because its agent has taken up a placement, or a placement could not be written.
        """
        self.in_use_revision = 0
        """Changes whenever a network gets its first interface or loses its last one."""
        self._on_contest = on_contest
        self._on_let_go = on_let_go
        self._machines: dict[str, _Machine] = {}
        self._assumed: dict[str, _Machine | None] = {}
        """Of machines whose claims are being written: what the store says that they hold."""
        self._being_written: dict[str, int] = {}
        """The tokens of those placements: news of lower ones are older."""
        self._networks: dict[str, _Network] = {}
        self._ports: dict[str, dict[HostPort, Holders]] = {}

    # --- questions ----------------------------------------------------------------------------------------------------

    def interfaces_of(self, uid: str) -> Sequence[dict[str, Any]]:
        """What a machine holds, as in status.placement.interfaces; what was written without an answer included."""
        machine = self._machines.get(uid)
        return machine.interfaces if machine is not None else []

    def addresses(self, network_uid: str, version: Version) -> Mapping[int, Holders]:
        """The addresses of a family that are held in a network."""
        return self._networks.get(network_uid, _NOBODY).addresses[version]

    def macs(self, network_uid: str) -> Mapping[str, Holders]:
        """The MAC addresses that are held in a network."""
        return self._networks.get(network_uid, _NOBODY).macs

    def ports(self, agent: str) -> Mapping[HostPort, Holders]:
        """The ports of an agent's host that are held. Hypervisors of one host share its ports."""
        return self._ports.get(agent, {})

    def left(self, network_uid: str, subnet: Subnet) -> int:
        """How many addresses of the subnet nobody holds."""
        network = self._networks.get(network_uid)
        if network is None:
            return subnet.size
        counted = network.left.get(subnet.version)
        if counted is None or counted[0] is not subnet:
            counted = network.left[subnet.version] = (subnet, subnet.left(network.addresses[subnet.version]))
        return counted[1]

    def is_exhausted(self, network_uid: str, subnet: Subnet, more: int = 0) -> bool:
        """Whether nothing would be left once `more` addresses that are free now were taken."""
        if len(self.addresses(network_uid, subnet.version)) + more < subnet.size:
            return False
        return self.left(network_uid, subnet) <= more

    def used(self, network_uid: str) -> int:
        """How many interfaces have a claim in a network."""
        return self._networks.get(network_uid, _NOBODY).interfaces

    def machines(self, network_uid: str) -> list[Key]:
        """The machines that have a claim in a network."""
        return [holder.key for holder in self._networks.get(network_uid, _NOBODY).machines]

    def hypervisors(self, network_uid: str) -> list[str]:
        """The Hypervisors on which machines with a claim in the network are placed, by name."""
        return sorted(self._networks.get(network_uid, _NOBODY).hypervisors)

    def contests(self, uid: str) -> Iterator[Contest]:
        """What a machine holds and others hold as well."""
        machine = self._machines.get(uid)
        if machine is None:
            return
        for interface in machine.interfaces:
            network = self._networks[interface["networkUID"]]
            for text in interface.get("ipAddresses") or ():
                version, number = number_of(text)
                yield from _contest(machine, Reason.ADDRESS_IN_USE, text, network.addresses[version][number])
            mac = interface["macAddress"]
            yield from _contest(machine, Reason.MAC_ADDRESS_IN_USE, mac, network.macs[mac])
        for port in machine.ports:
            holders = self._ports[machine.source.agent][port]
            yield from _contest(machine, Reason.HOST_PORT_IN_USE, f"host port {port}", holders)

    # --- news ---------------------------------------------------------------------------------------------------------

    def observe(self, resource: Resource, key: Key, old: Object | None, new: Object | None) -> None:
        """A listener for the store."""
        if resource is not VIRTUAL_MACHINES:
            return
        if old is not None and (new is None or uid_of(new) != uid_of(old)):
            self._assumed.pop(uid_of(old), None)
            self._replace(uid_of(old), None)
        if new is None:
            return
        uid, placement = uid_of(new), new.get("status", {}).get("placement") or {}
        holder, known = Holder(uid, key), self._machines.get(uid)
        if uid in self._assumed:
            if placement.get("token", 0) < self._being_written[uid]:
                self._assumed[uid] = _machine_of(holder, new, placement, self._assumed[uid])
                return
            del self._assumed[uid]
        elif known is None:
            reported = new["status"].get("interfaces") if placement.get("hypervisor") else None
            if not placement.get("interfaces") and not reported:
                return
        elif known.source == _source_of(new, placement):
            return
        self._replace(uid, _machine_of(holder, new, placement, known))

    @contextmanager
    def assumed(self, machine: Object, placement: Mapping[str, Any]) -> Iterator[None]:
        """Count the claims of a placement while it is being written, and afterwards if it was seen meanwhile.

        After a write without an answer they count on, until the machine is heard of again: the write may have come
        through, and nobody else may be given its addresses.
        """
        uid = uid_of(machine)
        self._assumed[uid] = self._machines.get(uid)
        self._being_written[uid] = placement.get("token", 0)
        self._replace(uid, _machine_of(Holder(uid, key_of(machine)), machine, placement, self._assumed[uid]))
        try:
            yield
        except (ApiUnavailable, asyncio.CancelledError):
            self._assumed.pop(uid, None)
            raise
        finally:
            self._being_written.pop(uid, None)
            if uid in self._assumed:
                self._replace(uid, self._assumed.pop(uid))

    # --- book-keeping -------------------------------------------------------------------------------------------------

    def _replace(self, uid: str, machine: _Machine | None) -> None:
        before = self._machines.pop(uid, None)
        if before is not None:
            self._drop(before)
        if machine is not None and (machine.interfaces or machine.ports):
            self._machines[uid] = machine
            self._add(machine)
        if before is not None:
            for network_uid in _networks_of(before) - _networks_of(machine):
                self._on_let_go(network_uid)

    def _add(self, machine: _Machine) -> None:
        holder, hypervisor = machine.holder, machine.source.hypervisor
        alone = (holder,)
        for interface in machine.interfaces:
            network = self._networks.get(interface["networkUID"])
            if network is None:
                network = self._networks[interface["networkUID"]] = _Network()
                self.in_use_revision += 1
            network.left.clear()
            network.interfaces += 1
            network.machines[holder] += 1
            if hypervisor:
                network.hypervisors[hypervisor] += 1
            self._hold(network.macs, interface["macAddress"], alone)
            for text in interface.get("ipAddresses") or ():
                version, number = number_of(text)
                self._hold(network.addresses[version], number, alone)
        for port in machine.ports:
            self._hold(self._ports.setdefault(machine.source.agent, {}), port, alone)

    def _drop(self, machine: _Machine) -> None:
        holder, hypervisor = machine.holder, machine.source.hypervisor
        for interface in machine.interfaces:
            network = self._networks[interface["networkUID"]]
            network.left.clear()
            network.interfaces -= 1
            _count_down(network.machines, holder)
            if hypervisor:
                _count_down(network.hypervisors, hypervisor)
            self._let_go(network.macs, interface["macAddress"], holder)
            for text in interface.get("ipAddresses") or ():
                version, number = number_of(text)
                self._let_go(network.addresses[version], number, holder)
            if not network.interfaces:
                del self._networks[interface["networkUID"]]
                self.in_use_revision += 1
        for port in machine.ports:
            self._let_go(self._ports[machine.source.agent], port, holder)

    def _hold(self, held: dict[Any, Holders], what: Any, alone: Holders) -> None:
        """`alone` is the holder by itself: thousands of claims share a few such tuples."""
        holders = held.get(what)
        if holders is None:
            held[what] = alone
            return
        held[what] = (*holders, *alone)
        self._tell(held[what])

    def _let_go(self, held: dict[Any, Holders], what: Any, holder: Holder) -> None:
        left = list(held[what])
        left.remove(holder)
        if left:
            held[what] = tuple(left)
            self._tell(held[what])
        else:
            del held[what]

    def _tell(self, holders: Holders) -> None:
        for holder in holders:
            self._on_contest(holder.key)


def ports_of(machine: Object) -> Iterator[tuple[int, HostPort]]:
    """The ports of its host that a machine asks for, with the index of the interface."""
    for index, interface in enumerate(machine["spec"].get("interfaces") or ()):
        for forward in interface.get("portForwards") or ():
            yield index, _host_port(forward)


def _machine_of(holder: Holder, machine: Object, placement: Mapping[str, Any], before: _Machine | None) -> _Machine:
    source = _source_of(machine, placement)
    left = _left(source, placement, before)
    forwards = [forward for row in source.placed for forward in row.get("portForwards") or ()]
    return _Machine(
        holder=holder,
        interfaces=[*left, *source.placed] if left else source.placed,
        ports=tuple(map(_host_port, forwards)) if source.hypervisor else (),
        source=source,
    )


def _left(source: _Source, placement: Mapping[str, Any], before: _Machine | None) -> list[dict[str, Any]]:
    """What the guest may still have of what was given up. An agent that has not heard of that may be plugging it."""
    reported = source.reported if source.host.get("state") == "Present" else ()
    is_heard = source.host.get("token") == source.token
    known = before.interfaces if before is not None and before.source.hypervisor and not is_heard else ()
    left: dict[tuple[str, str], dict[str, Any]] = {}
    for row in left_behind(placement, [*known, *reported]):
        left.setdefault((*key_of_row(row), row["macAddress"], *(row.get("ipAddresses") or ())), dict(row))
    return list(left.values())


def _source_of(machine: Object, placement: Mapping[str, Any]) -> _Source:
    status = machine.get("status", {})
    return _Source(
        placement.get("hypervisor", ""),
        placement.get("agentName", ""),
        placement.get("token"),
        placement.get("interfaces") or (),
        status.get("interfaces") or (),
        status.get("host") or {},
    )


def _host_port(forward: Mapping[str, Any]) -> HostPort:
    return HostPort(forward["hostPort"], forward["protocol"])


def _contest(machine: _Machine, reason: str, what: str, holders: Holders) -> Iterator[Contest]:
    if len(holders) > 1:
        others = tuple(holder for holder in holders if holder.uid != machine.holder.uid)
        if others:
            yield Contest(reason, what, others)


def _networks_of(machine: _Machine | None) -> Counter[str]:
    """How many interfaces it holds in which networks, by UID."""
    return Counter(row["networkUID"] for row in machine.interfaces) if machine is not None else Counter()


def _count_down(counts: dict[Any, int], what: Any) -> None:
    counts[what] -= 1
    if not counts[what]:
        del counts[what]
