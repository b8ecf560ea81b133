"""All machines of a namespace, wherever they run, for as long as a network here has to know them.

Two need it: a firewall that names machines by their labels, and the DNS of a network of mode Overlay, which knows the
machines of all its hosts. A host without either watches nobody else's machines. The operator could sum them up in the
network's status, but that would be written, and sent to every agent, once for each machine that comes; a watch is sent
what has changed. It costs the API server one list and one watch for each such namespace, and this agent a kilobyte for
each machine. What is seen here is never a reason to act on a machine.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from virtplane_agent.networks.desired import is_removed, placed_interfaces
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Key, Object

_log = logging.getLogger(__name__)

LIST_TIMEOUT_S = 10.0

Rows = frozenset[tuple[str, str, tuple[str, ...], tuple[tuple[str, str], ...]]]
"""UID of a network, the MAC and the IP addresses that a machine has in it, and the machine's labels."""


@dataclass(slots=True)
class _Watch:
    """The machines of one namespace."""

    informer: Informer
    rows: dict[Key, Rows] = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None

    def changed(self, key: Key) -> set[str]:
        """UIDs of the networks on which the machine became another one to its neighbours."""
        machine = self.informer.objects.get(key)
        before = self.rows.pop(key, frozenset())
        now = rows_of(machine) if machine is not None else frozenset()
        if now:
            self.rows[key] = now
        return {uid for uid, *_ in before ^ now}


class Neighbours:
    """Calls `on_change(network_uid)` when a machine there got or lost a name, a label, a MAC or an IP address there."""

    def __init__(self, client: KubeClient, on_change: Callable[[str], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._watches: dict[str, _Watch] = {}

    @property
    def namespaces(self) -> frozenset[str]:
        """Those that are watched."""
        return frozenset(self._watches)

    def watch(self, namespaces: Collection[str]) -> None:
        """These from now on, and no others."""
        for namespace in self._watches.keys() - set(namespaces):
            self._end(namespace)
        for namespace in set(namespaces) - self._watches.keys():
            self._watches[namespace] = self._begun(namespace)

    async def ready(self, namespace: str) -> bool:
        """Returns once the machines of a watched namespace are known; False: the API server does not say."""
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                await self._watches[namespace].informer.synced.wait()
        except TimeoutError:
            return False
        return True

    def machines(self, namespace: str) -> list[Object]:
        """Those of a watched namespace, as far as they are known; of one that is not watched: none."""
        watch = self._watches.get(namespace)
        return list(watch.informer.objects.values()) if watch is not None else []

    async def stop(self) -> None:
        """Watches nothing any more."""
        tasks = [watch.task for watch in self._watches.values() if watch.task is not None]
        self.watch(())
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begun(self, namespace: str) -> _Watch:
        def changed(key: Key) -> None:
            for uid in sorted(watch.changed(key)):
                self._on_change(uid)

        informer = Informer(self._client, VIRTUAL_MACHINES, changed, namespace=namespace, keep=as_neighbour)
        watch = _Watch(informer)
        watch.task = asyncio.create_task(informer.run(), name=f"watch virtualmachines of namespace {namespace}")
        watch.task.add_done_callback(partial(self._ended, namespace))
        return watch

    def _end(self, namespace: str) -> None:
        task = self._watches.pop(namespace).task
        if task is not None:
            task.cancel()

    def _ended(self, namespace: str, task: "asyncio.Task[None]") -> None:
        """Only by a fault of ours; the next pass over a network watches again."""
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("watch of the machines of %s ended", namespace, exc_info=fault)
            watch = self._watches.get(namespace)
            if watch is not None and watch.task is task:
                del self._watches[namespace]


def as_neighbour(machine: Object) -> Object:
    """What is kept of a machine."""
    status, metadata = machine.get("status", {}), machine["metadata"]
    placement, host = status.get("placement") or {}, status.get("host") or {}
    kept: dict[str, Any] = {
        "placement": {name: placement[name] for name in ("token", "interfaces") if name in placement},
        "host": {name: host[name] for name in ("token", "state") if name in host},
    }
    names = ("name", "namespace", "uid", "resourceVersion")
    return {
        "metadata": {**{name: metadata[name] for name in names}, "labels": metadata.get("labels") or {}},
        "status": kept,
    }


def rows_of(machine: Object) -> Rows:
    """What a machine has, in each network; nothing of one that is on its way out."""
    if is_removed(machine):
        return frozenset()
    labels = tuple(sorted((machine["metadata"].get("labels") or {}).items()))
    return frozenset(
        (placed["networkUID"], placed["macAddress"], tuple(placed.get("ipAddresses") or ()), labels)
        for placed in placed_interfaces(machine)
    )
