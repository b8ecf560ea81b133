"""One pass over one Volume: its finalizer, its end, and a place when no machine decides on that."""

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import VIRTUAL_MACHINES, VOLUMES, Key, Object, is_being_deleted, uid_of
from virtplane_api.names import OPERATOR_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_operator.hypervisors.candidates import Candidates
from virtplane_operator.lifetime import FIRST_STATUS_AFTER_S, ensure_finalizer, is_off_its_host, release, younger_than
from virtplane_operator.placement import NoFit, Request, StorageNeed, choose
from virtplane_operator.pools.choice import NoPool, pool_for, pool_type
from virtplane_operator.volumes.inline import is_made_for, maker_name
from virtplane_operator.volumes.status import (
    OWNED,
    OWNED_CONDITIONS,
    UNPLACED_CONDITIONS,
    claim_of,
    first_placement,
    placed_status,
    placement_of,
    unplaced_status,
)
from virtplane_operator.world import Store
from virtplane_operator.world.usage import hypervisor_of


class VolumeReconciler:
    """Passes over Volumes. `pending` are those that wait for a change of the world."""

    def __init__(self, client: KubeClient, store: Store, candidates: Candidates, events: EventRecorder) -> None:
        self.pending: set[Key] = set()
        self._client = client
        self._store = store
        self._candidates = candidates
        self._events = events

    async def reconcile(self, key: Key) -> Outcome:
        """Finalizer, end, place: in this order, as nothing may have a place without the finalizer."""
        self.pending.discard(key)
        volume = self._store.get(VOLUMES, key)
        if volume is None:
            return Done()
        if is_being_deleted(volume):
            return await self._end(volume)
        volume = await ensure_finalizer(self._client, self._store, VOLUMES, volume)
        if placement_of(volume).get("hypervisor"):
            return Done()
        self.pending.add(key)
        if self._belongs_to_an_unplaced_machine(key, volume):
            return Done()
        return await self._place(key, volume)

    async def _end(self, volume: Object) -> Outcome:
        """Let the Volume go once its host holds nothing of it; what a machine may use is never deleted.

        That it waits for that machine its agent says, whose its Ready is.
        """
        if not claim_of(volume) and is_off_its_host(volume):
            await release(self._client, self._store, VOLUMES, volume)
        return Done()

    def _belongs_to_an_unplaced_machine(self, key: Key, volume: Object) -> bool:
        """Whether a machine's place will decide on the Volume's."""
        maker = self._store.get(VIRTUAL_MACHINES, Key(key.namespace, maker_name(volume)))
        if maker is not None and is_made_for(volume, uid_of(maker)):
            return not hypervisor_of(maker)
        return any(
            machine_key.namespace == key.namespace
            and not hypervisor_of(machine)
            and not is_being_deleted(machine)
            and any(disk.get("volumeName") == key.name for disk in machine["spec"].get("disks") or ())
            for machine_key, machine in self._store.all(VIRTUAL_MACHINES).items()
        )

    async def _place(self, key: Key, volume: Object) -> Outcome:
        pool = pool_for(self._store, volume["spec"].get("poolName", ""), "spec")
        if isinstance(pool, NoPool):
            return await self._wait_for_the_world(volume, pool.reason, pool.message)
        need = StorageNeed(
            pool_name=pool["metadata"]["name"], pool_uid=uid_of(pool), pool_type=pool_type(pool), disk_name=key.name
        )
        chosen = choose(Request(cores=0, memory_mib=0, storage=(need,)), self._candidates.all())
        if isinstance(chosen, NoFit):
            return await self._wait_for_the_world(volume, Reason.NO_HYPERVISOR_FITS, chosen.message)
        placement = first_placement(volume, hypervisor=chosen.name, agent=chosen.agent_name, pool=pool)
        await apply_placement(self._client, self._store, volume, placement, claim_of(volume))
        self.pending.discard(key)
        return Done()

    async def _wait_for_the_world(self, volume: Object, reason: str, message: str) -> Outcome:
        """Say what is missing, unless it may come with the same `kubectl apply`."""
        if younger_than(volume, FIRST_STATUS_AFTER_S):
            return Wait(FIRST_STATUS_AFTER_S, reason)
        status = unplaced_status(volume, reason, message)
        if differs(volume, status, owned=("observedGeneration", *OWNED), owned_conditions=UNPLACED_CONDITIONS):
            written = await self._client.apply_status(VOLUMES, volume, status, field_manager=OPERATOR_FIELD_MANAGER)
            self._store.put_written(VOLUMES, written)
            self._events.record(volume, reason=reason, action="Placing", note=message, type_="Warning")
        return Done()


async def apply_placement(
    client: KubeClient, store: Store, volume: Object, placement: dict[str, object], claim: dict[str, object]
) -> None:
    """Give the Volume its place and its user in one write, if it has not got them."""
    status = placed_status(volume, placement, claim)
    if differs(volume, status, owned=OWNED, owned_conditions=OWNED_CONDITIONS):
        written = await client.apply_status(VOLUMES, volume, status, field_manager=OPERATOR_FIELD_MANAGER)
        store.put_written(VOLUMES, written)
