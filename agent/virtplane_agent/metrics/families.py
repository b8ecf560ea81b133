"""The metrics by name, and a snapshot as Prometheus' text format. docs/metrics.md tells of each."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from virtplane_agent.metrics.snapshot import LoopRow, Snapshot
from virtplane_drivers.network.contract import PortCounters, Traffic

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREFIX = "virtplane_agent_"

_INTERFACE = ("namespace", "name", "interface", "network")
_COUNTED: Mapping[str, str] = {
    "bytes": "Bytes that the guest has {way} by this interface.",
    "packets": "Packets that the guest has {way} by this interface.",
    "dropped": "Packets that the guest would have {way} by this interface, had they been taken.",
    "errors": "Packets that the guest would have {way} by this interface, had they not been faulty.",
}
"""Field of `Traffic` -> what it is."""

_WAYS: tuple[tuple[str, str, Callable[[PortCounters], Traffic]], ...] = (
    ("receive", "received", lambda counters: counters.received),
    ("transmit", "sent", lambda counters: counters.transmitted),
)

Row = tuple[tuple[str, ...], float]
"""Values of the labels, and the value."""


class Family(NamedTuple):
    """One metric."""

    name: str
    """Without the prefix; of a counter, which ends in _total, without that too."""
    text: str
    labels: tuple[str, ...] = ()


def text_of(snapshot: Snapshot) -> bytes:
    """In the format that CONTENT_TYPE names. Some 10 µs for each value: for a thread."""
    registry = CollectorRegistry()
    # Of the library's own only what a process takes (memory, CPU, files): Python's are nobody's business.
    registry.register(ProcessCollector(registry=None))
    registry.register(_Told(snapshot))
    return generate_latest(registry)


class _Told(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        told = self._snapshot
        yield _gauge(Family("build_info", "1, and the version that this is.", ("version",)), [((told.version,), 1)])
        held = Family("lease_held", "1 while the agent holds its Lease, 0 when it could not renew it in time.")
        yield _gauge(held, [((), told.lease_is_held)])
        yield _counter(
            Family("api_requests", "Requests to the API server; code none: no answer.", ("method", "code")),
            told.requests.items(),
        )
        yield _gauge(
            Family(
                "machines", "Machines by the power state that they were last seen in.", ("hypervisor", "power_state")
            ),
            told.machines.items(),
        )
        yield _gauge(
            Family("networks", "Networks that are on this host, as of their last pass.", ("driver", "state")),
            told.networks.items(),
        )
        yield from _loops(told.loops)
        yield _gauge(
            Family("interface_counters_read", "Whether the driver told the counters of its interfaces.", ("driver",)),
            [((driver,), read) for driver, read in told.counters_read.items()],
        )
        yield from _interfaces(told)


def _loops(loops: tuple[LoopRow, ...]) -> Iterator[Metric]:
    yield _counter(
        Family("reconcile_passes", "Passes of the reconcile loops by how they ended.", ("kind", "result")),
        [((loop.kind, result), count) for loop in loops for result, count in loop.passes.items()],
    )
    yield _counter(
        Family("reconcile_failures", "Passes of the reconcile loops that failed, by reason.", ("kind", "reason")),
        [((loop.kind, reason), count) for loop in loops for reason, count in loop.failures.items()],
    )
    yield _counter(
        Family("reconcile_seconds", "Seconds that passes of the reconcile loops took in all.", ("kind",)),
        [((loop.kind,), loop.spent_s) for loop in loops],
    )
    yield _gauge(
        Family("reconcile_queue_length", "Objects that wait for a pass or are in one.", ("kind",)),
        [((loop.kind,), loop.queued) for loop in loops],
    )


def _interfaces(told: Snapshot) -> Iterator[Metric]:
    rows = [((row.namespace, row.machine, row.interface, row.network), row.counters) for row in told.interfaces]
    for way, past, traffic in _WAYS:
        for field, text in _COUNTED.items():
            family = Family(f"interface_{way}_{field}", text.format(way=past), _INTERFACE)
            yield _counter(family, ((labels, getattr(traffic(counters), field)) for labels, counters in rows))


def _gauge(family: Family, rows: Iterable[Row]) -> Metric:
    metric = GaugeMetricFamily(PREFIX + family.name, family.text, labels=family.labels)
    for labels, value in rows:
        metric.add_metric(labels, value)
    return metric


def _counter(family: Family, rows: Iterable[Row]) -> Metric:
    metric = CounterMetricFamily(PREFIX + family.name, family.text, labels=family.labels)
    for labels, value in rows:
        metric.add_metric(labels, value)
    return metric
