"""Machines of other hosts on networks that this host has too: the DNS of a network of mode Overlay knows them all.

They are watched by namespace, from the moment on in which such a network of it is here until the last one has gone: a
host without one watches nobody else's machines. The operator could sum the names up in the network's status, but that
would be written, and sent to every agent, once for each machine that comes; a watch is sent what has changed. What is
read here is never a reason to act on a machine. Of each no more is kept than its name and its addresses.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from virtplane_agent.networks.desired import is_removed, placed_interfaces
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Key, Object, uid_of
from virtplane_drivers.network.overlay import RemoteMachine

_log = logging.getLogger(__name__)

SYNC_TIMEOUT_S = 10.0
"""A network is served without the names of others rather than not at all, while the API server does not answer."""

Rows = frozenset[tuple[str, tuple[str, ...]]]
"""UID of a network, and the addresses that a machine has in it."""


@dataclass(slots=True)
class _Watch:
    """The machines of one namespace."""

    informer: Informer
    task: "asyncio.Task[None]"
    rows: dict[Key, Rows] = field(default_factory=dict)


class Elsewhere:
    """The machines of namespaces. `on_change(network_uid)` is called when a name or an address on it became other."""

    def __init__(
        self, client: KubeClient, on_change: Callable[[str], None], *, sync_timeout_s: float = SYNC_TIMEOUT_S
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._sync_timeout_s = sync_timeout_s
        self._watches: dict[str, _Watch] = {}

    @property
    def namespaces(self) -> frozenset[str]:
        """Those that are watched."""
        return frozenset(self._watches)

    async def know(self, namespace: str) -> None:
        """Returns once the machines of the namespace were listed, or after a while all the same."""
        watch = self._watches.get(namespace)
        if watch is None or watch.task.done():
            watch = self._begun(namespace)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._sync_timeout_s):
                await watch.informer.synced.wait()

    def keep(self, namespaces: Collection[str]) -> None:
        """End the watches of all others."""
        for namespace in self._watches.keys() - set(namespaces):
            self._watches.pop(namespace).task.cancel()

    async def stop(self) -> None:
        """End all watches."""
        tasks = [watch.task for watch in self._watches.values()]
        self.keep(())
        await asyncio.gather(*tasks, return_exceptions=True)

    def machines(self, namespace: str, network_uid: str, here: Collection[str]) -> tuple[RemoteMachine, ...]:
        """All on the network but those of these UIDs, in the order of their names."""
        watch = self._watches.get(namespace)
        if watch is None:
            return ()
        return tuple(
            RemoteMachine(key.name, tuple(map(ip_address, addresses)))
            for key, machine in sorted(watch.informer.objects.items())
            if uid_of(machine) not in here
            for uid, addresses in sorted(rows_of(machine))
            if uid == network_uid
        )

    def _begun(self, namespace: str) -> _Watch:
        def changed(key: Key) -> None:
            machine = informer.objects.get(key)
            before = watch.rows.pop(key, frozenset())
            now = rows_of(machine) if machine is not None else frozenset()
            if now:
                watch.rows[key] = now
            for uid in {uid for uid, _addresses in before ^ now}:
                self._on_change(uid)

        informer = Informer(self._client, VIRTUAL_MACHINES, changed, namespace=namespace, keep=names_and_addresses)
        task = asyncio.create_task(informer.run(), name=f"watch virtualmachines of namespace {namespace}")
        task.add_done_callback(_heard)
        watch = self._watches[namespace] = _Watch(informer, task)
        return watch


def names_and_addresses(machine: Object) -> Object:
    """What is kept of a machine."""
    status, metadata = machine.get("status", {}), machine["metadata"]
    placement, host = status.get("placement") or {}, status.get("host") or {}
    kept: dict[str, Any] = {
        "placement": {name: placement[name] for name in ("token", "interfaces") if name in placement},
        "host": {name: host[name] for name in ("token", "state") if name in host},
    }
    names = ("name", "namespace", "uid", "resourceVersion")
    return {"metadata": {name: metadata[name] for name in names}, "status": kept}


def rows_of(machine: Object) -> Rows:
    """What a machine has, in each network; nothing of one that is on its way out."""
    return frozenset(_rows(machine)) if not is_removed(machine) else frozenset()


def _rows(machine: Object) -> Iterator[tuple[str, tuple[str, ...]]]:
    for placed in placed_interfaces(machine):
        yield placed["networkUID"], tuple(placed.get("ipAddresses") or ())


def _heard(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("%s failed: %r", task.get_name(), task.exception())
