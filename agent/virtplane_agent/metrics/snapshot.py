"""What is measured, at one moment, as plain values: taken when somebody asks, and turned into text in a thread."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from virtplane_agent import __version__
from virtplane_agent.endpoints import Endpoints
from virtplane_agent.metrics.subject import Subject
from virtplane_agent.networks.desired import is_removed, joined_interfaces
from virtplane_agent.placed import Placed
from virtplane_api.kube.resources import uid_of
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import DriverError
from virtplane_drivers.network.contract import NetworkState, PortCounters

_log = logging.getLogger(__name__)

COUNTERS_TIMEOUT_S = 5.0
"""Below the 10 s that Prometheus waits for a scrape: the others are told then."""

_Port = tuple[str, tuple[str, str]]
"""UID of the network, key of the port."""


@dataclass(frozen=True, slots=True)
class InterfaceRow:
    """One interface of a machine."""

    namespace: str
    machine: str
    interface: str
    network: str
    counters: PortCounters


@dataclass(frozen=True, slots=True)
class LoopRow:
    """One reconcile loop."""

    kind: str
    passes: Mapping[str, int]
    """By how they ended: done, wait, failed."""
    failures: Mapping[str, int]
    """By reason."""
    spent_s: float
    queued: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to tell."""

    version: str = __version__
    lease_is_held: bool = False
    requests: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """To the API server, by method and code."""
    machines: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By hypervisor and power state."""
    networks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By driver and state."""
    loops: tuple[LoopRow, ...] = ()
    interfaces: tuple[InterfaceRow, ...] = ()
    counters_read: Mapping[str, bool] = field(default_factory=dict)
    """Of each network driver that has counters: whether it told them this time."""


async def take(subject: Subject) -> Snapshot:
    """Never raises: a driver that does not answer is said to be so."""
    lease_is_held = subject.lease is not None and subject.lease.is_held
    requests = dict(subject.client.requests) if subject.client is not None else {}
    work = subject.work
    if work is None:
        return Snapshot(lease_is_held=lease_is_held, requests=requests)
    counters, counters_read = await _counters(work.endpoints)
    drivers = work.endpoints.networks
    seen = work.networks.states()
    return Snapshot(
        lease_is_held=lease_is_held,
        requests=requests,
        machines=_machines(work.machines, work.endpoints),
        networks={(name, state.value): seen[name, state] for name in drivers for state in NetworkState},
        loops=tuple(
            LoopRow(
                loop.name,
                {"done": loop.tally.done, "wait": loop.tally.waits, "failed": loop.tally.failures.total()},
                dict(loop.tally.failures),
                loop.tally.spent_s,
                loop.depth,
            )
            for loop in work.loops
        ),
        interfaces=tuple(_interfaces(work.machines, counters)),
        counters_read=counters_read,
    )


async def _counters(endpoints: Endpoints) -> tuple[dict[_Port, PortCounters], dict[str, bool]]:
    found: dict[_Port, PortCounters] = {}
    read: dict[str, bool] = {}
    for name, driver in endpoints.networks.items():
        try:
            async with asyncio.timeout(COUNTERS_TIMEOUT_S):
                told = await driver.counters()
        except (DriverError, TimeoutError) as error:
            _log.warning("counters of %s networks: %s", name, str(error) or f"none within {COUNTERS_TIMEOUT_S:g} s")
            read[name] = False
            continue
        if told is not None:
            read[name] = True
            found |= {(uid, key): counters for uid, ports in told.items() for key, counters in ports.items()}
    return found, read


def _machines(machines: Placed, endpoints: Endpoints) -> dict[tuple[str, str], int]:
    """As they were last observed, which is what their status says; all states of our hypervisors are in it."""
    seen = Counter(
        (machine["status"]["placement"]["hypervisor"], machine["status"].get("powerState") or PowerState.UNKNOWN.value)
        for machine in machines.all()
        if not is_removed(machine)
    )
    return {(name, state.value): 0 for name in endpoints.hypervisors for state in PowerState} | seen


def _interfaces(machines: Placed, counters: Mapping[_Port, PortCounters]) -> Iterable[InterfaceRow]:
    """By the machines, also of what a guest has still to let go of.

    A network of the same name may have been another one before: Prometheus takes no two values of the same labels, so
    that of now is told.
    """
    for machine in machines.all():
        metadata, told = machine["metadata"], set()
        for joined in joined_interfaces(machine):
            counted = counters.get((joined["networkUID"], (uid_of(machine), joined["name"])))
            label = joined["name"], joined["networkName"]
            if counted is not None and label not in told:
                told.add(label)
                yield InterfaceRow(metadata["namespace"], metadata["name"], *label, counted)
