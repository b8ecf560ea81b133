"""All machines of those namespaces of which a firewall here names machines by their labels, wherever they run.

A watch of its own for each such namespace, and none for the others: it costs the API server one list and one watch,
and this agent a kilobyte for each machine and the reading of each of its changes. What is seen here is never a reason
to act on a machine.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial

from virtplane_agent.networks.desired import placed_interfaces
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Key, Object
from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable

_log = logging.getLogger(__name__)

LIST_TIMEOUT_S = 10.0


class Peers:
    """Calls `on_change(namespace)` when a machine there got or lost a label or an address."""

    def __init__(self, client: KubeClient, on_change: Callable[[str], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._watched: dict[str, tuple[Informer, asyncio.Task[None]]] = {}
        self._known: dict[Key, object] = {}

    def watch(self, namespaces: Collection[str]) -> None:
        """These from now on, and no others."""
        for namespace in self._watched.keys() - set(namespaces):
            self._watched.pop(namespace)[1].cancel()
            self._known = {key: value for key, value in self._known.items() if key.namespace != namespace}
        for namespace in namespaces:
            if namespace not in self._watched:
                informer = Informer(
                    self._client, VIRTUAL_MACHINES, self._changed, namespace=namespace, keep=without_all_but_peer
                )
                task = asyncio.create_task(informer.run(), name=f"watch peers in {namespace}")
                task.add_done_callback(partial(self._ended, namespace))
                self._watched[namespace] = informer, task

    async def ready(self, namespace: str) -> None:
        """Returns once the machines of a watched namespace are known.

        Raises:
            Unavailable: the API server does not say.
        """
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                await self._watched[namespace][0].synced.wait()
        except TimeoutError as error:
            message = f"the machines of namespace {namespace}, which a firewall names, could not be listed yet"
            raise Unavailable(message, reason=Reason.NETWORK_NOT_READY) from error

    def machines(self, namespace: str) -> list[Object]:
        """Those of a watched namespace, as far as they are known; of one that is not watched: none."""
        watched = self._watched.get(namespace)
        return list(watched[0].objects.values()) if watched is not None else []

    async def stop(self) -> None:
        """Watches nothing any more."""
        tasks = [task for _, task in self._watched.values()]
        self.watch(())
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, key: Key) -> None:
        watched = self._watched.get(key.namespace)
        if watched is None:
            return
        machine = watched[0].objects.get(key)
        now = None if machine is None else (machine["metadata"]["labels"], placed_interfaces(machine))
        if self._known.get(key) != now:
            self._known[key] = now
            if now is None:
                del self._known[key]
            self._on_change(key.namespace)

    def _ended(self, namespace: str, task: "asyncio.Task[None]") -> None:
        """Only by a fault of ours; the next pass over a network watches again."""
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("watch of the machines of %s ended", namespace, exc_info=fault)
            if self._watched.get(namespace, (None, None))[1] is task:
                del self._watched[namespace]


def without_all_but_peer(machine: Object) -> Object:
    """What rules of firewalls speak of."""
    metadata = machine["metadata"]
    return {
        "metadata": {
            **{name: metadata[name] for name in ("namespace", "name", "uid", "resourceVersion")},
            "labels": metadata.get("labels") or {},
        },
        "status": {"placement": {"interfaces": placed_interfaces(machine)}},
    }
