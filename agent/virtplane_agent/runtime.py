"""The agent at work: what it watches, its loops, and who is to be looked at again when something changes."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Protocol, TypeVar

from virtplane_agent.actions.reconcile import ActionReconciler
from virtplane_agent.endpoints import Endpoints
from virtplane_agent.hypervisors.pools import PoolProbe
from virtplane_agent.hypervisors.reconcile import HypervisorReconciler
from virtplane_agent.machines import status as machine_fields
from virtplane_agent.machines.disks import Disks
from virtplane_agent.machines.interfaces import Interfaces
from virtplane_agent.machines.reconcile import MachineReconciler
from virtplane_agent.machines.strays import Strays
from virtplane_agent.metrics.subject import Work
from virtplane_agent.networks.serving import NetworkKey, Networks
from virtplane_agent.placed import Placed
from virtplane_agent.reporting import Reporter
from virtplane_agent.volumes import status as volume_fields
from virtplane_agent.volumes.reconcile import VolumeReconciler
from virtplane_api.actions import without_results
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.passes import outcome_of
from virtplane_api.kube.resources import (
    ACTIONS,
    HYPERVISORS,
    NETWORKS,
    STORAGE_POOLS,
    VIRTUAL_MACHINES,
    VOLUMES,
    Key,
    Object,
    Resource,
    uid_of,
)
from virtplane_api.names import AGENT_FIELD_MANAGER
from virtplane_api.reconcile import Outcome, ReconcileLoop
from virtplane_drivers.network.contract import HOST_NETWORKS

_log = logging.getLogger(__name__)

MACHINES_AT_WORK = 32
VOLUMES_AT_WORK = 16
ACTIONS_AT_WORK = 16
NETWORKS_AT_WORK = 4
_EVENTS_AGAIN_S = 1.0
_NETWORKS_WITHIN_S = 5.0
K = TypeVar("K", bound=Hashable)


class _Fields(Protocol):
    """What of a status this agent writes."""

    @property
    def OWNED(self) -> tuple[str, ...]: ...  # noqa: N802  # a module's constant
    @property
    def OWNED_CONDITIONS(self) -> tuple[str, ...]: ...  # noqa: N802


class Agent:
    """Everything that acts. `run` works until it is cancelled; guests are left as they are."""

    def __init__(self, client: KubeClient, *, name: str, cluster_id: str, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._events = EventRecorder(client, controller=AGENT_FIELD_MANAGER, instance=name)
        self._machine_loop = _loop("VirtualMachine", self._machine_pass, concurrency=MACHINES_AT_WORK)
        self._volume_loop = _loop("Volume", self._volume_pass, concurrency=VOLUMES_AT_WORK)
        self._hypervisor_loop = _loop("Hypervisor", self._hypervisor_pass, concurrency=2)
        self._action_loop = _loop("VirtualMachineAction", self._action_pass, concurrency=ACTIONS_AT_WORK)
        self._network_loop = _loop("VirtualNetwork", self._network_pass, concurrency=NETWORKS_AT_WORK)
        self._machines = Placed(client, VIRTUAL_MACHINES, name, self._machine_changed)
        self._volumes = Placed(client, VOLUMES, name, self._volume_loop.enqueue)
        self._actions = Placed(client, ACTIONS, name, self._action_loop.enqueue, keep=without_results)
        self._pools = Informer(client, STORAGE_POOLS, self._pool_changed)
        self._hypervisors = Informer(
            client,
            HYPERVISORS,
            lambda key: self._hypervisor_loop.enqueue(key.name),
            field_selector=f"spec.agentName={name}",
        )
        self._virtual_networks = Informer(client, NETWORKS, self._network_changed)
        self._needed = (self._pools, self._hypervisors, self._volumes.informer, self._machines.informer)
        self._network_uids: dict[Key, str] = {}
        enqueue, changed = self._network_loop.enqueue, self._hypervisor_loop.enqueue
        seen = self._machine_loop.enqueue
        self._networks = Networks(endpoints, self._virtual_networks, self._machines, client, enqueue, changed, seen)
        strays = Strays(client, name, cluster_id, self._hypervisor_loop.enqueue)
        self._machine_reconciler = MachineReconciler(
            cluster_id,
            endpoints,
            self._machines,
            Disks(client, self._volumes, self._pools, endpoints),
            Interfaces(endpoints, self._networks),
            strays,
            _reporter(client, VIRTUAL_MACHINES, self._events, self._machine_written, machine_fields),
        )
        self._volume_reconciler = VolumeReconciler(
            endpoints.storage,
            self._volumes,
            self._pools,
            _reporter(client, VOLUMES, self._events, self._volumes.put_written, volume_fields),
            self._machine_loop.enqueue,
        )
        self._action_reconciler = ActionReconciler(
            client, endpoints, self._actions, self._machines, self._events, self._action_loop.enqueue
        )
        pools = PoolProbe(self._pools, endpoints.storage)
        self._hypervisor_reconciler = HypervisorReconciler(
            client, endpoints, self._hypervisors, pools, self._networks, strays
        )

    def work(self) -> Work:
        """What can be measured of it."""
        loops = (
            self._machine_loop, self._volume_loop, self._hypervisor_loop, self._action_loop, self._network_loop,
        )  # fmt: skip
        return Work(self._endpoints, loops, self._machines, self._networks, self._needed)

    async def run(self) -> None:
        """Watch first; nothing is done to a machine before all that is placed here was listed once."""
        try:
            await self._work()
        finally:
            await self._action_reconciler.stop()
            await self._networks.stop()

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            # Others are not waited for: machines are served also where the cluster does not have these kinds yet.
            for informer in (*self._needed, self._virtual_networks, self._actions.informer):
                tasks.create_task(informer.run(), name=f"watch {informer.resource.plural}")
            tasks.create_task(self._events.run(), name="events")
            tasks.create_task(self._hypervisor_loop.run(), name="reconcile Hypervisors")
            for informer in self._needed:
                await informer.synced.wait()
            with contextlib.suppress(TimeoutError):
                # Else machines with interfaces would be said to wait for networks that are there.
                async with asyncio.timeout(_NETWORKS_WITHIN_S):
                    await self._virtual_networks.synced.wait()
            for uid in await self._machine_reconciler.find_machines():
                self._machine_loop.enqueue(uid)
            for key in await self._networks.find_networks():
                self._network_loop.enqueue(key)
            tasks.create_task(self._network_loop.run(), name="reconcile VirtualNetworks")
            tasks.create_task(self._volume_loop.run(), name="reconcile Volumes")
            tasks.create_task(self._machine_loop.run(), name="reconcile VirtualMachines")
            tasks.create_task(self._action_loop.run(), name="reconcile VirtualMachineActions")
            for endpoint in self._endpoints.hypervisors.values():
                follow = _follow(endpoint.driver.events, self._machine_loop.enqueue)
                tasks.create_task(follow, name=f"events of {endpoint.name}")
            for kind, storage in self._endpoints.storage.items():
                follow = _follow(storage.events, self._volume_loop.enqueue)
                tasks.create_task(follow, name=f"events of {kind} storage")

            for kind, networks in self._endpoints.networks.items():
                follow = _follow(networks.events, self._network_hint(kind))
                tasks.create_task(follow, name=f"events of {kind} networks")

    async def _network_pass(self, key: NetworkKey) -> Outcome:
        return await self._networks.reconcile(key)

    async def _action_pass(self, uid: str) -> Outcome:
        return await self._action_reconciler.reconcile(uid)

    async def _machine_pass(self, uid: str) -> Outcome:
        return await self._machine_reconciler.reconcile(uid)

    async def _volume_pass(self, uid: str) -> Outcome:
        return await self._volume_reconciler.reconcile(uid)

    async def _hypervisor_pass(self, name: str) -> Outcome:
        return await self._hypervisor_reconciler.reconcile(name)

    def _machine_written(self, machine: Object) -> None:
        """What a guest has let go of is its machine's no more once that is reported; no watch tells us of it."""
        self._machines.put_written(machine)
        self._networks.machine_changed(uid_of(machine))

    def _machine_changed(self, uid: str) -> None:
        self._machine_loop.enqueue(uid)
        self._networks.machine_changed(uid)

    def _network_changed(self, key: Key) -> None:
        network = self._virtual_networks.objects.get(key)
        uids = {self._network_uids.pop(key, None), uid_of(network) if network is not None else None} - {None}
        if network is not None:
            self._network_uids[key] = uid_of(network)
        for uid in uids:
            self._networks.network_changed(str(uid))
            for machine in self._machines.all():
                self._networks.machine_changed(uid_of(machine))

    def _network_hint(self, driver: str) -> Callable[[str], None]:
        def look(uid: str) -> None:
            if uid == HOST_NETWORKS:
                self._look_at_hypervisors()
            else:
                self._network_loop.enqueue(NetworkKey(driver, uid))

        return look

    def _look_at_hypervisors(self) -> None:
        for name in self._endpoints.hypervisors:
            self._hypervisor_loop.enqueue(name)

    def _pool_changed(self, _key: Key) -> None:
        self._look_at_hypervisors()
        for volume in self._volumes.all():
            self._volume_loop.enqueue(str(volume["metadata"]["uid"]))


def _loop(name: str, reconcile: Callable[[K], Awaitable[Outcome]], *, concurrency: int) -> ReconcileLoop[K]:
    return ReconcileLoop(name, outcome_of(name, reconcile), concurrency=concurrency)


def _reporter(
    client: KubeClient,
    resource: Resource,
    events: EventRecorder,
    written: Callable[[Object], None],
    fields: _Fields,
) -> Reporter:
    return Reporter(client, resource, events, written, owned=fields.OWNED, owned_conditions=fields.OWNED_CONDITIONS)


async def _follow(events: Callable[[], AsyncIterator[str]], enqueue: Callable[[str], None]) -> None:
    """Every hint of a driver is a reason to look. A stream that ends is the driver's fault, and no reason to end."""
    while True:
        try:
            async for uid in events():
                enqueue(uid)
            _log.error("a driver's event stream ended")
        except Exception:  # noqa: BLE001  # whatever a driver raises, the other endpoints go on
            _log.exception("a driver's event stream failed")
        await asyncio.sleep(_EVENTS_AGAIN_S)
