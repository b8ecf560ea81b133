"""Placed machines that wait for each other: each asks for an address that the next one holds and wants no more.

None of them would ever change, as nobody gives up anything before all of a change can be had. One that is stopped gives
way: it takes a free address meanwhile, as a person would have it do. Each step is a change like any other: what it gave
up is another's once its agent has said that its guest has it no more.

One that runs keeps what it has: its guest would lose its address for a change that may still be long in coming.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from virtplane_api.kube.resources import VIRTUAL_MACHINES, Key, Object, is_being_deleted, key_of, uid_of
from virtplane_api.vocabulary import PowerState
from virtplane_operator.machines.status import placement_of, powers_of
from virtplane_operator.networks.addresses import Version, number_of, position_of, text_of
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.world import Store

_MAX_MACHINES = 64
"""Of so many it is looked up for whom they wait; those of a longer cycle say who holds what they ask for."""

_SHOWN = 3

Address = tuple[str, Version, int]
"""UID of the network, family, number."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """Machines that wait for each other, as one of them sees it."""

    others: tuple[Key, ...]
    """Without that one, which waits for the first."""
    awaited: frozenset[Address]
    """Which that one asks for, and which come with the end of this or another such cycle."""
    asked: frozenset[Address]
    """What all that were met ask for: a machine that gives way must not be in their way again."""

    def __str__(self) -> str:
        names = ", ".join(map(str, self.others[:_SHOWN])) + (", ..." if len(self.others) > _SHOWN else "")
        return f"{names} and this machine wait for each other's addresses"


def is_at_rest(machine: Object) -> bool:
    """Whether no guest uses what the machine has, nor is to."""
    return all(power == PowerState.STOPPED for power in powers_of(machine))


def cycle_of(store: Store, catalog: Catalog, claims: Claims, machine: Object) -> Cycle | None:
    """The shortest cycle in which the machine waits; None: there is none that would be solved if it gave way."""
    return _Search(store, catalog, claims).cycle(machine)


def giving_way(catalog: Catalog, claims: Claims, machine: Object, cycle: Cycle) -> Object | None:
    """The machine as if it asked for addresses that nobody has instead of the awaited ones; None: none is free."""
    interfaces, taken = [], set(cycle.asked)
    for interface in machine["spec"]["interfaces"]:
        texts = []
        for text in interface.get("ipAddresses") or ():
            address = _address(catalog, machine, interface, text)
            if address in cycle.awaited:
                instead = _free(catalog, claims, machine, interface, address, taken)
                if instead is None:
                    return None
                taken.add(instead)
                texts.append(text_of(*instead[1:]))
            else:
                texts.append(text)
        interfaces.append({**interface, "ipAddresses": texts})
    return {**machine, "spec": {**machine["spec"], "interfaces": interfaces}}


class _Search:
    """Follows who waits for whom."""

    def __init__(self, store: Store, catalog: Catalog, claims: Claims) -> None:
        self._store = store
        self._catalog = catalog
        self._claims = claims

    def cycle(self, machine: Object) -> Cycle | None:
        addresses = self._asked(machine)
        if _is_any_twice(addresses):
            return None
        asked, awaited, shortest = set(addresses), set(), None
        for address in sorted(addresses):
            path, met = self._way_back(address, machine)
            if path is not None:
                awaited.add(address)
                asked |= met
                shortest = path if shortest is None or len(path) < len(shortest) else shortest
        return Cycle(shortest, frozenset(awaited), frozenset(asked)) if shortest is not None else None

    def _way_back(self, address: Address, machine: Object) -> tuple[tuple[Key, ...] | None, set[Address]]:
        """From whom holds the address to the machine, and what all that were met ask for.

        None of it where one that was met cannot follow its spec in the end: to give way would be for nothing.
        """
        met = set[Address]()
        back: tuple[Key, ...] | None = None
        holders = self._leaving(address, machine)
        ways: dict[str, tuple[Key, ...]] = {uid_of(holder): (key_of(holder),) for holder in holders or ()}
        waiting = deque(holders or ())
        while waiting:
            current = waiting.popleft()
            way, holders = ways[uid_of(current)], self._awaited_by(current)
            if holders is None or len(ways) > _MAX_MACHINES:
                return None, met
            met.update(self._asked(current))
            for holder in holders:
                if uid_of(holder) == uid_of(machine):
                    back = back or way
                elif uid_of(holder) not in ways:
                    ways[uid_of(holder)] = (*way, key_of(holder))
                    waiting.append(holder)
        return back, met

    def _awaited_by(self, machine: Object) -> list[Object] | None:
        """Who holds what the machine asks for; None: it would not get all of that if they followed their specs."""
        asked, found = self._asked(machine), list[Object]()
        for address in sorted(asked):
            holders = self._leaving(address, machine)
            if holders is None:
                return None
            found += holders
        return None if _is_any_twice(asked) else found

    def _asked(self, machine: Object) -> list[Address]:
        """Addresses that the spec asks for, and the placement has not."""
        has, asked = set(_placed(machine)), list[Address]()
        for interface in machine["spec"].get("interfaces") or ():
            for text in interface.get("ipAddresses") or ():
                address = _address(self._catalog, machine, interface, text)
                if address is not None and address not in has:
                    asked.append(address)
        return asked

    def _leaving(self, address: Address, waiting: Object) -> list[Object] | None:
        """Other machines that hold the address; None: one of them keeps it, or is being deleted."""
        network_uid, version, number = address
        found = []
        for holder in self._claims.addresses(network_uid, version).get(number, ()):
            if holder.uid == uid_of(waiting):
                continue
            machine = self._store.get(VIRTUAL_MACHINES, holder.key)
            if machine is None or uid_of(machine) != holder.uid or is_being_deleted(machine):
                return None
            if address not in _given_up(machine):
                return None
            found.append(machine)
        return found


def _is_any_twice(addresses: list[Address]) -> bool:
    return len(set(addresses)) < len(addresses)


def _placed(machine: Object) -> Iterator[Address]:
    for row in placement_of(machine).get("interfaces") or ():
        for text in row.get("ipAddresses") or ():
            yield (row["networkUID"], *number_of(text))


def _given_up(machine: Object) -> set[Address]:
    """What the placement has, and would not have once it followed the spec."""
    wanted = {(one["name"], one["networkName"]): one for one in machine["spec"].get("interfaces") or ()}
    given_up = set[Address]()
    for row in placement_of(machine).get("interfaces") or ():
        has = row.get("ipAddresses") or ()
        spec = wanted.get((row["name"], row["networkName"]))
        new = {number_of(text)[0] for text in (spec or {}).get("ipAddresses") or () if text not in has}
        given_up |= {
            (row["networkUID"], version, number)
            for version, number in map(number_of, has)
            if spec is None or version in new
        }
    return given_up


def _address(catalog: Catalog, machine: Object, interface: Mapping[str, Any], text: str) -> Address | None:
    network = catalog.get(Key(machine["metadata"]["namespace"], interface["networkName"]))
    return (network.uid, *number_of(text)) if network is not None else None


def _free(
    catalog: Catalog,
    claims: Claims,
    machine: Object,
    interface: Mapping[str, Any],
    address: Address,
    taken: set[Address],
) -> Address | None:
    """An address of the same network and family that nobody holds or asks for."""
    metadata, (network_uid, version, _number) = machine["metadata"], address
    network = catalog.get(Key(metadata["namespace"], interface["networkName"]))
    subnet = network.subnets.get(version) if network is not None else None
    held = claims.addresses(network_uid, version)
    avoided = {number for uid, family, number in taken if (uid, family) == (network_uid, version)}
    if subnet is None or claims.is_exhausted(network_uid, subnet, len(avoided.difference(held))):
        return None
    position = position_of(metadata["namespace"], metadata["name"], interface["name"])
    return network_uid, version, subnet.choose(position, held, avoided)
