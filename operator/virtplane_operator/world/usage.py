"""How much of each Hypervisor is given away: by the placements that are seen, and by those that are being written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from virtplane_api.kube.resources import VIRTUAL_MACHINES, Key, Object, Resource, uid_of
from virtplane_api.quantity import quantity_mib


@dataclass(frozen=True, slots=True)
class Demand:
    """What a machine takes of its Hypervisor, whether it runs or not."""

    cores: int
    memory_mib: int


NOTHING = Demand(0, 0)


class Usage:
    """Sums by Hypervisor, kept by listening to the store."""

    def __init__(self) -> None:
        self._by_machine: dict[str, tuple[str, Demand]] = {}
        self._assumed: set[str] = set()
        self._sums: dict[str, Demand] = {}

    def used(self, hypervisor: str) -> Demand:
        """What is given away of a Hypervisor."""
        return self._sums.get(hypervisor, NOTHING)

    def observe(self, resource: Resource, _key: Key, old: Object | None, new: Object | None) -> None:
        """A listener for the store."""
        if resource is not VIRTUAL_MACHINES:
            return
        if old is not None and (new is None or uid_of(new) != uid_of(old)):
            self._drop(uid_of(old))
        if new is None:
            return
        uid, hypervisor = uid_of(new), hypervisor_of(new)
        if hypervisor:
            self._assumed.discard(uid)
            self._count(uid, hypervisor, demand_of(new))
        elif uid not in self._assumed:
            self._drop(uid)

    @contextmanager
    def assumed(self, uid: str, hypervisor: str, demand: Demand) -> Iterator[None]:
        """Count a placement while it is being written, and afterwards only if it was seen meanwhile."""
        self._assumed.add(uid)
        self._count(uid, hypervisor, demand)
        try:
            yield
        finally:
            if uid in self._assumed:
                self._assumed.discard(uid)
                self._drop(uid)

    def _count(self, uid: str, hypervisor: str, demand: Demand) -> None:
        if self._by_machine.get(uid) == (hypervisor, demand):
            return
        self._drop(uid)
        self._by_machine[uid] = (hypervisor, demand)
        self._add(hypervisor, demand.cores, demand.memory_mib)

    def _drop(self, uid: str) -> None:
        counted = self._by_machine.pop(uid, None)
        if counted is not None:
            hypervisor, demand = counted
            self._add(hypervisor, -demand.cores, -demand.memory_mib)

    def _add(self, hypervisor: str, cores: int, memory_mib: int) -> None:
        before = self.used(hypervisor)
        self._sums[hypervisor] = Demand(before.cores + cores, before.memory_mib + memory_mib)


def hypervisor_of(machine: Object) -> str:
    """The Hypervisor that the machine is placed on; empty when on none."""
    return str(machine.get("status", {}).get("placement", {}).get("hypervisor", ""))


def demand_of(machine: Object) -> Demand:
    """The greater of what is asked for and what still runs: a change takes effect at the next start."""
    spec, effective = machine["spec"], machine.get("status", {}).get("effective", {})
    return Demand(
        max(spec["cpu"]["cores"], effective.get("cpu", {}).get("cores", 0)),
        max(quantity_mib(spec["memory"]["size"]), quantity_mib(effective.get("memory", {}).get("size", 0))),
    )
