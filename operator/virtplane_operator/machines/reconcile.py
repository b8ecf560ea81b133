"""One pass over one VirtualMachine: finalizer, end, place, in this order.

A place is given in one write, the last of a row: first the machine's Volumes exist, then they have their place and are
claimed for it, then the machine is placed. A crash between any two of these leaves what the next pass finds and uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs, find
from virtplane_api.kube.errors import AlreadyExists
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import (
    NETWORKS,
    VIRTUAL_MACHINES,
    VOLUMES,
    Key,
    Object,
    is_being_deleted,
    key_of,
    uid_of,
)
from virtplane_api.names import NETWORK_IN_USE_FINALIZER, OPERATOR_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Failed, Outcome, Wait
from virtplane_operator.hypervisors.candidates import Candidates
from virtplane_operator.lifetime import FIRST_STATUS_AFTER_S, ensure_finalizer, is_off_its_host, release, younger_than
from virtplane_operator.machines.contests import Contested, contested
from virtplane_operator.machines.disks import Blocked, DiskPlan, plan_disks
from virtplane_operator.machines.interface_changes import interface_change
from virtplane_operator.machines.interfaces import (
    InterfacePlan,
    host_ports_of,
    network_capabilities_of,
    plan_interfaces,
)
from virtplane_operator.machines.status import (
    OWNED,
    OWNED_CONDITIONS,
    agent_has_taken_over,
    next_token,
    placed_status,
    placement_of,
    silent_status,
    unplaced_status,
)
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.networks.demands import with_networks
from virtplane_operator.placement import Candidate, NoFit, Request, choose
from virtplane_operator.volumes.inline import volume_of
from virtplane_operator.volumes.reconcile import apply_placement
from virtplane_operator.volumes.status import claim_of, first_placement
from virtplane_operator.volumes.status import placed_status as placed_volume_status
from virtplane_operator.volumes.status import placement_of as volume_placement_of
from virtplane_operator.world import AgentHealth, Store, Usage, demand_of

_MAX_TOKEN_STEP = 10_000
"""How far a token that a host has seen is believed: tokens grow by one, and cannot be taken back."""


@dataclass(frozen=True, slots=True)
class Networks:
    """What machines get their addresses from."""

    catalog: Catalog
    claims: Claims
    cluster_id: str
    """Uid of the namespace kube-system."""


class MachineReconciler:
    """Passes over machines. `pending` are those that wait for a change of the world."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        usage: Usage,
        candidates: Candidates,
        networks: Networks,
        health: AgentHealth,
        events: EventRecorder,
    ) -> None:
        self.pending: set[Key] = set()
        self._client = client
        self._store = store
        self._usage = usage
        self._candidates = candidates
        self._networks = networks
        self._health = health
        self._events = events

    async def reconcile(self, key: Key) -> Outcome:
        """Nothing may have a place without the finalizer, and nothing that is being deleted gets one."""
        self.pending.discard(key)
        machine = self._store.get(VIRTUAL_MACHINES, key)
        if machine is None:
            return Done()
        if is_being_deleted(machine):
            return await self._end(machine)
        machine = await ensure_finalizer(self._client, self._store, VIRTUAL_MACHINES, machine)
        if placement_of(machine).get("hypervisor"):
            return await self._watch_over(machine)
        self.pending.add(key)
        return await self._place(machine)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _end(self, machine: Object) -> Outcome:
        """Once no host holds anything of the machine: give its Volumes free, then let it go."""
        if is_off_its_host(machine):
            await self._give_volumes_free(machine)
            await release(self._client, self._store, VIRTUAL_MACHINES, machine)
            return Done()
        return await self._watch_over(machine)

    async def _give_volumes_free(self, machine: Object) -> None:
        namespace, uid = machine["metadata"]["namespace"], uid_of(machine)
        for key, volume in list(self._store.all(VOLUMES).items()):
            if key.namespace == namespace and claim_of(volume).get("vmUID") == uid:
                status = placed_volume_status(volume, volume_placement_of(volume), {})
                written = await self._client.apply_status(VOLUMES, volume, status, field_manager=OPERATOR_FIELD_MANAGER)
                self._store.put_written(VOLUMES, written)

    # --- a machine that has a place -----------------------------------------------------------------------------------

    async def _watch_over(self, machine: Object) -> Outcome:
        placement = placement_of(machine)
        contest = contested(self._store, self._networks.claims, machine)
        seen = (machine["status"].get("host") or {}).get("seenToken", 0)
        if placement["token"] <= seen <= placement["token"] + _MAX_TOKEN_STEP:
            note = f"its host has seen token {seen}: placed anew on {placement['hypervisor']} above it"
            await self._apply(machine, placed_status(machine, {**placement, "token": seen + 1}))
            self._events.record(machine, reason=Reason.STALE_TOKEN, action="Placing", note=note, type_="Warning")
            return Done()
        if self._health.is_silent(placement.get("agentName", "")):
            status = silent_status(machine, contest)
            owned: tuple[str, ...] = (*OWNED, "powerState")
            conditions: tuple[str, ...] = (*OWNED_CONDITIONS, "Ready")
        else:
            contest = await self._change_interfaces(machine) or contest
            if placement_of(machine) != placement_of(self._store.get(VIRTUAL_MACHINES, key_of(machine)) or machine):
                return Done()  # placed anew just now
            status = placed_status(machine, placement, contest)
            owned, conditions = OWNED, OWNED_CONDITIONS
        if differs(machine, status, owned=owned, owned_conditions=conditions):
            await self._apply(machine, status)
            if contest is not None:
                note = contest.message
                self._events.record(machine, reason=contest.reason, action="Placing", note=note, type_="Warning")
        return Done()

    async def _change_interfaces(self, machine: Object) -> Contested | None:
        """Claims follow spec.interfaces. What cannot be had leaves the placement as it is, and is told.

        Not before the agent has told what it has of the placement: killed after it joined an adapter and before it
        told, it would not know of an adapter that the next placement has no more, and nobody would hold its address.
        """
        if is_being_deleted(machine) or not agent_has_taken_over(machine, placement_of(machine)):
            return None
        networks = self._networks
        change = interface_change(self._store, networks.catalog, networks.claims, networks.cluster_id, machine)
        if change is None:
            return None
        if isinstance(change, Blocked):
            self.pending.add(key_of(machine))
            return Contested(change.reason, f"spec.interfaces is not in effect: {change.message}")
        # No await between the plan and this: what was free then is free still.
        with networks.claims.assumed(machine, change.placement):
            await self._keep_networks(change.plans)
            await self._apply(machine, placed_status(machine, change.placement))
        return None

    # --- a machine without one ----------------------------------------------------------------------------------------

    async def _place(self, machine: Object) -> Outcome:
        plans = plan_disks(self._store, machine)
        if isinstance(plans, Blocked):
            return await self._wait_for_the_world(machine, plans.reason, plans.message)
        networks = self._networks
        interfaces = plan_interfaces(networks.catalog, networks.claims, networks.cluster_id, machine)
        if isinstance(interfaces, Blocked):
            return await self._wait_for_the_world(machine, interfaces.reason, interfaces.message)
        chosen = choose(_request(machine, plans, interfaces), self._candidates.all())
        if isinstance(chosen, NoFit):
            return await self._wait_for_the_world(machine, Reason.NO_HYPERVISOR_FITS, chosen.message)
        unnumbered = next((one.network for one in interfaces if not one.network.is_numbered), None)
        if unnumbered is not None:
            message = f"VirtualNetwork {unnumbered.key.name} has no number and MTU of its tunnels yet"
            return await self._wait_for_the_world(machine, Reason.NETWORK_NOT_READY, message)
        placement = _placement(machine, chosen, interfaces)
        # No await between the plan and this: what was free then is free still.
        with (
            self._usage.assumed(uid_of(machine), chosen.name, demand_of(machine)),
            networks.claims.assumed(machine, placement),
        ):
            await self._keep_networks(interfaces)
            disks = []
            for plan in plans:
                volume = await self._prepare_volume(machine, plan, chosen)
                if volume is None:
                    return Failed("VolumeNotSeen", f"Volume {plan.volume_name} exists and is not seen yet")
                disks.append({"name": plan.name, "volumeName": plan.volume_name, "volumeUID": uid_of(volume)})
            if disks:
                placement["disks"] = disks
            await self._apply(machine, placed_status(machine, placement))
        self.pending.discard(key_of(machine))
        if find(machine, "Placed") is not None:
            # It was said that it has no place; what never waited needs no news.
            self._events.record(machine, reason=Reason.PLACED, action="Placing", note=f"placed on {chosen.name}")
        return Done()

    async def _keep_networks(self, interfaces: Sequence[InterfacePlan]) -> None:
        """No network goes once a machine has a place on it, also one that is deleted in this moment."""
        keys = {plan.network.key for plan in interfaces}
        networks = [network for key in keys if (network := self._store.get(NETWORKS, key)) is not None]
        for network in networks:
            await ensure_finalizer(self._client, self._store, NETWORKS, network, finalizer=NETWORK_IN_USE_FINALIZER)

    async def _prepare_volume(self, machine: Object, plan: DiskPlan, chosen: Candidate) -> Object | None:
        """The disk's Volume: made, placed beside the machine, and claimed for it."""
        volume = plan.volume
        if volume is None:
            try:
                volume = await self._client.create(
                    VOLUMES, volume_of(machine, plan.spec), field_manager=OPERATOR_FIELD_MANAGER
                )
            except AlreadyExists:
                return None
            self._store.put(VOLUMES, volume)
        else:
            volume = await ensure_finalizer(self._client, self._store, VOLUMES, volume)
        placement = volume_placement_of(volume)
        if not placement.get("hypervisor"):
            placement = first_placement(volume, hypervisor=chosen.name, agent=chosen.agent_name, pool=plan.pool)
        claim = {"vmName": machine["metadata"]["name"], "vmUID": uid_of(machine)}
        await apply_placement(self._client, self._store, volume, placement, claim)
        return volume

    async def _wait_for_the_world(self, machine: Object, reason: str, message: str) -> Outcome:
        """Say what is missing, unless it may come with the same `kubectl apply`."""
        if younger_than(machine, FIRST_STATUS_AFTER_S):
            return Wait(FIRST_STATUS_AFTER_S, reason)
        status = unplaced_status(machine, reason, message)
        conditions = ("Placed", "Ready", "Reconciling")
        if differs(machine, status, owned=("observedGeneration", *OWNED), owned_conditions=conditions):
            await self._apply(machine, status)
            self._events.record(machine, reason=reason, action="Placing", note=message, type_="Warning")
        return Done()

    async def _apply(self, machine: Object, status: Mapping[str, Any]) -> None:
        written = await self._client.apply_status(
            VIRTUAL_MACHINES, machine, status, field_manager=OPERATOR_FIELD_MANAGER
        )
        self._store.put_written(VIRTUAL_MACHINES, written)


def _placement(machine: Object, chosen: Candidate, interfaces: Sequence[InterfacePlan]) -> dict[str, Any]:
    """The next placement, but for the disks."""
    placement: dict[str, Any] = {
        "hypervisor": chosen.name,
        "agentName": chosen.agent_name,
        "token": next_token(machine),
    }
    return placement | {"interfaces": [plan.placed for plan in interfaces]} if interfaces else placement


def _request(machine: Object, plans: Sequence[DiskPlan], interfaces: Sequence[InterfacePlan]) -> Request:
    scheduling = machine["spec"].get("scheduling") or {}
    demand = demand_of(machine)
    request = Request(
        cores=demand.cores,
        memory_mib=demand.memory_mib,
        driver=scheduling.get("driver", ""),
        hypervisor_name=scheduling.get("hypervisorName", ""),
        match_labels=(scheduling.get("hypervisorSelector") or {}).get("matchLabels") or {},
        storage=tuple(plan.need for plan in plans),
        network_capabilities=network_capabilities_of(machine, interfaces),
        host_ports=host_ports_of(machine),
    )
    return with_networks(request, [plan.network for plan in interfaces])
