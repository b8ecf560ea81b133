"""The machine part of an agent with a fake hypervisor and fake storage, one pass at a time, in a time of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from tests.agent.doubles import Clock, EventsDouble, InMemoryClient
from tests.agent.objects import AGENT, CLUSTER_ID, HYPERVISOR, pool, tell
from virtplane_agent.endpoints import Endpoint, Endpoints
from virtplane_agent.machines.desired import desired_machine
from virtplane_agent.machines.disks import Disks
from virtplane_agent.machines.interfaces import Interfaces
from virtplane_agent.machines.reconcile import MachineReconciler
from virtplane_agent.machines.status import OWNED, OWNED_CONDITIONS
from virtplane_agent.machines.strays import Strays
from virtplane_agent.networks.serving import NetworkKey, Networks
from virtplane_agent.placed import Placed
from virtplane_agent.reporting import Reporter
from virtplane_agent.volumes.desired import desired_volume, pool_value
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import NETWORKS, STORAGE_POOLS, VIRTUAL_MACHINES, VOLUMES, Object, uid_of
from virtplane_api.reconcile import Failed, Outcome, Wait
from virtplane_api.vocabulary import ExitReason, NetworkMode, PowerState
from virtplane_drivers.hypervisor.contract import Desired, Owner
from virtplane_drivers.hypervisor.fake import FakeHypervisor, World
from virtplane_drivers.network.fake import FakeNetworks
from virtplane_drivers.storage.contract import VolumeState
from virtplane_drivers.storage.fake import FakeStorage


class WorldInTime(World):
    """A fake host whose runs begin and end by the clock of a test."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def run(self, uid: str) -> None:
        wakes = self.machines[uid].suspended
        super().run(uid)
        if not wakes:
            self.machines[uid].started_at = self._clock.now

    def end(self, uid: str, reason: ExitReason, message: str = "") -> None:
        machine = self.machines.get(uid)
        before = machine.last_exit if machine is not None else None
        super().end(uid, reason, message)
        if machine is not None and machine.last_exit is not None and machine.last_exit is not before:
            machine.last_exit = replace(machine.last_exit, time=self._clock.now)


class WatchedHypervisor(FakeHypervisor):
    """The fake one, in the time of a test, which notes the verbs that were called on it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(WorldInTime(clock))
        self.clock = clock
        self.verbs: list[str] = []
        self.defined: list[Desired] = []

    async def define(self, desired: Desired) -> None:
        self.verbs.append("define")
        self.defined.append(desired)
        await super().define(desired)

    async def start(self, uid: str) -> None:
        self.verbs.append("start")
        await super().start(uid)

    async def pause(self, uid: str) -> None:
        self.verbs.append("pause")
        await super().pause(uid)

    async def resume(self, uid: str) -> None:
        self.verbs.append("resume")
        await super().resume(uid)

    async def suspend(self, uid: str) -> None:
        self.verbs.append("suspend")
        await super().suspend(uid)

    async def withdraw_shut_down(self, uid: str) -> None:
        self.verbs.append("withdraw_shut_down")
        await super().withdraw_shut_down(uid)

    async def shut_down(self, uid: str) -> None:
        self.verbs.append("shut_down")
        asked_before = self.world.machines[uid].shut_down_asked_at
        await super().shut_down(uid)
        machine = self.world.machines[uid]
        if asked_before is None and machine.shut_down_asked_at is not None:
            machine.shut_down_asked_at = self.clock.now

    async def change_nics(self, uid: str) -> None:
        self.verbs.append("change_nics")
        await super().change_nics(uid)

    async def power_off(self, uid: str) -> None:
        self.verbs.append("power_off")
        await super().power_off(uid)

    async def destroy(self, uid: str) -> None:
        self.verbs.append("destroy")
        await super().destroy(uid)

    def verbs_since(self) -> list[str]:
        """Those called since the last time that this was asked."""
        called = list(self.verbs)
        self.verbs.clear()
        return called


class AgentInMemory:
    """What acts on machines, without its loops: a test decides when it looks."""

    def __init__(self, client: InMemoryClient, hypervisor: WatchedHypervisor, endpoint: Endpoint) -> None:
        self.client = client
        self.hypervisor = hypervisor
        self.world = hypervisor.world
        self.storage = FakeStorage()
        self.events = EventsDouble()
        self.clock = hypervisor.clock
        self.changed_hypervisors: list[str] = []
        self.machines = Placed(client, VIRTUAL_MACHINES, AGENT, self._machine_changed)
        self.volumes = Placed(client, VOLUMES, AGENT, lambda _uid: None)
        self.pools = Informer(client, STORAGE_POOLS, lambda _key: None)
        self.endpoint = endpoint
        self.fake_networks = FakeNetworks()
        self.virtual_networks = Informer(client, NETWORKS, lambda _key: None)
        self.enqueued_machines: list[str] = []
        self.enqueued_networks: list[NetworkKey] = []
        self.endpoints = Endpoints({endpoint.name: endpoint}, {"fake": self.storage}, {"fake": self.fake_networks})
        self.strays = Strays(client, AGENT, CLUSTER_ID, self.changed_hypervisors.append)
        self.restart()

    def restart(self) -> None:
        """A new agent on the same host: what was remembered in memory is gone."""
        self.disks = Disks(self.client, self.volumes, self.pools, self.endpoints)
        self.networks = Networks(
            self.endpoints,
            self.virtual_networks,
            self.machines,
            self.client,
            self.enqueued_networks.append,
            self.changed_hypervisors.append,
            self.enqueued_machines.append,
        )
        for machine in self.machines.all():
            self.networks.machine_changed(uid_of(machine))
        self._reconciler = MachineReconciler(
            CLUSTER_ID,
            self.endpoints,
            self.machines,
            self.disks,
            Interfaces(self.endpoints, self.networks),
            self.strays,
            Reporter(
                self.client,
                VIRTUAL_MACHINES,
                self.events,
                self._machine_written,
                owned=OWNED,
                owned_conditions=OWNED_CONDITIONS,
                clock=self.clock.monotonic,
            ),
            clock=lambda: self.clock.now,
        )

    def _machine_written(self, machine: Object) -> None:
        self.machines.put_written(machine)
        self.networks.machine_changed(uid_of(machine))

    def _machine_changed(self, uid: str) -> None:
        self.networks.machine_changed(uid)

    def given(self, machine: Object) -> str:
        """The API server holds the machine, and the watch has told of it. Returns its UID."""
        tell(self.machines.informer, self.client.put(VIRTUAL_MACHINES, machine))
        return uid_of(machine)

    def given_volume(self, volume: Object) -> None:
        tell(self.volumes.informer, self.client.put(VOLUMES, volume))

    async def given_made_volume(self, volume: Object) -> Object:
        """Of the pool `fast`; the storage holds it already."""
        self.given_pool(pool())
        self.given_volume(volume)
        await self.make(volume)
        return volume

    async def make(self, volume: Object) -> None:
        """In the pool `fast`; returns when the storage is done with it, whole or failed."""
        await self.storage.create(pool_value(pool()), desired_volume(volume))
        while (await self.storage.observe(pool_value(pool()), uid_of(volume))).state is VolumeState.CREATING:
            await asyncio.sleep(0)

    async def has_volume(self, uid: str) -> bool:
        """Whether the storage holds it, whole, in the pool `fast`."""
        return (await self.storage.observe(pool_value(pool()), uid)).state is VolumeState.READY

    def given_pool(self, made: Object) -> None:
        tell(self.pools, self.client.put(STORAGE_POOLS, made))

    def given_network(self, network: Object) -> str:
        """The API server holds it, and the watch has told of it. Returns its UID."""
        tell(self.virtual_networks, self.client.put(NETWORKS, network))
        return uid_of(network)

    def drive(self, *endpoints: Endpoint) -> None:
        """These only, from a restart on; the first one is what a test looks at."""
        self.endpoint, driver = endpoints[0], endpoints[0].driver
        assert isinstance(driver, WatchedHypervisor)
        self.hypervisor, self.world = driver, driver.world
        self.endpoints = replace(self.endpoints, hypervisors={endpoint.name: endpoint for endpoint in endpoints})
        self.restart()

    async def running(self, machine: Object, *, token: int = 1, cluster_id: str = CLUSTER_ID) -> str:
        """The host runs the machine already, started under this token. Returns its UID."""
        desired = replace(desired_machine(machine, CLUSTER_ID, []), owner=Owner(cluster_id, token))
        await self.hypervisor.define(desired)
        await self.hypervisor.start(desired.uid)
        self.hypervisor.verbs_since()
        return desired.uid

    async def is_off(self, uid: str) -> None:
        """Returns when the guest, which was asked, has shut down."""
        async with asyncio.timeout(5):
            while self.world.machines[uid].power is not PowerState.STOPPED:
                await asyncio.sleep(0)

    async def look(self, uid: str) -> Outcome:
        """One pass."""
        return await self._reconciler.reconcile(uid)

    async def verbs_by_second(self, uid: str, *, seconds: int) -> dict[int, list[str]]:
        """What is called when the machine is looked at each second; each pass asks for another one in at most ten."""
        verbs = {}
        for second in range(seconds):
            outcome = await self.look(uid)
            assert isinstance(outcome, Failed) or (isinstance(outcome, Wait) and outcome.after_s <= 10)
            if called := self.hypervisor.verbs_since():
                verbs[second] = called
            self.clock.advance(1)
        return verbs

    async def find_machines(self) -> list[str]:
        return await self._reconciler.find_machines()

    async def status(self, name: str = "web") -> dict[str, Any]:
        """As the API server has it."""
        status: dict[str, Any] = (await self.client.get(VIRTUAL_MACHINES, name, "shop"))["status"]
        return status


@asynccontextmanager
async def in_memory(client: InMemoryClient, clock: Clock) -> AsyncIterator[AgentInMemory]:
    """An agent whose hypervisor runs nothing yet."""
    async with WatchedHypervisor(clock) as hypervisor:
        yield AgentInMemory(client, hypervisor, await endpoint_of(hypervisor))


async def endpoint_of(hypervisor: WatchedHypervisor, name: str = HYPERVISOR) -> Endpoint:
    """One that this agent drives."""
    modes = dict.fromkeys(NetworkMode, "fake")
    return Endpoint(name, hypervisor, await hypervisor.probe(), ("fake",), modes)
