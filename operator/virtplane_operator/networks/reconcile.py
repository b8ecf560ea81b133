"""A VirtualNetwork's status is the operator's alone: what is claimed in it, and what the Hypervisors report of it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.resources import HYPERVISORS, NETWORKS, Key, Object, is_being_deleted, uid_of
from virtplane_api.names import NETWORK_IN_USE_FINALIZER, OPERATOR_FIELD_MANAGER
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_operator.lifetime import ensure_finalizer, release
from virtplane_operator.networks.catalog import Catalog, Network
from virtplane_operator.networks.claims import Claims
from virtplane_operator.networks.demands import of_network
from virtplane_operator.networks.overlays import is_overlay
from virtplane_operator.networks.summary import (
    OWNED,
    OWNED_CONDITIONS,
    Row,
    network_status,
    report_of,
    row_of,
    with_old_figures,
)
from virtplane_operator.placement import Candidate, no_place_for_networks
from virtplane_operator.world import AgentHealth, Store

COUNT_EVERY_S = 5.0
"""A thousand machines that come at once are a few writes, not a thousand."""
_SHOWN = 3


class NetworkReconciler:
    """Passes over VirtualNetworks."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        catalog: Catalog,
        claims: Claims,
        health: AgentHealth,
        events: EventRecorder,
        reported: Callable[[], Iterable[Candidate]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._store = store
        self._catalog = catalog
        self._claims = claims
        self._health = health
        self._events = events
        self._reported = reported
        self._clock = clock
        self._counted_at: dict[Key, float] = {}
        """When used and free were written last."""

    async def reconcile(self, key: Key) -> Outcome:
        """Finalizer, end, sum: a network that went before its machines would leave them without anybody's care."""
        network = self._store.get(NETWORKS, key)
        if network is None:
            self._counted_at.pop(key, None)
            return Done()
        if is_being_deleted(network):
            users = self._users(uid_of(network))
            if users:
                return await self._sum_up(network, users)
            await release(self._client, self._store, NETWORKS, network, finalizer=NETWORK_IN_USE_FINALIZER)
            return Done()
        network = await ensure_finalizer(
            self._client, self._store, NETWORKS, network, finalizer=NETWORK_IN_USE_FINALIZER
        )
        return await self._sum_up(network, [])

    async def _sum_up(self, network: Object, users: Sequence[str]) -> Outcome:
        known, current = self._catalog.parse(network), network.get("status", {})
        rows = self._rows(known.uid)
        overlay = self._catalog.overlays.status(network, known.asked_mtu) if is_overlay(network) else {}
        # Where it is already it can be; and its tunnels are to be as these say.
        asked = of_network(replace(known, mtu=overlay.get("mtu")))
        no_fit = no_place_for_networks(asked, self._reported()) if not rows else None
        status = network_status(
            network,
            used=self._claims.used(known.uid),
            free=self._free(known),
            rows=rows,
            not_served=self._catalog.not_served(known),
            no_place=no_fit.message if no_fit is not None else "",
            users=users,
        )
        status |= overlay
        if not _differs(network, status):
            return Done()
        settled = with_old_figures(network, status)
        counts_differ = settled != status or "used" not in current
        # Mode and addresses are held from the first machine on: that one is counted at once.
        is_first = status["used"] > 0 and not current.get("used")
        wait_s = self._counted_at.get(known.key, -COUNT_EVERY_S) + COUNT_EVERY_S - self._clock()
        if counts_differ and not is_first and wait_s > 0 and not _differs(network, settled):
            return Wait(wait_s, "what changes with each machine was written a moment ago")
        if counts_differ:
            self._counted_at[known.key] = self._clock()
        written = await self._client.apply_status(NETWORKS, network, status, field_manager=OPERATOR_FIELD_MANAGER)
        self._store.put_written(NETWORKS, written)
        if users:
            [ready] = status["conditions"]
            self._events.record(
                network, reason=Reason.IN_USE, action="Deleting", note=ready["message"], type_="Warning"
            )
        return Done()

    def _free(self, network: Network) -> int | None:
        """Addresses left of the first family of the network that are claimed."""
        return None if network.counted is None else self._claims.left(network.uid, network.counted)

    def _rows(self, uid: str) -> list[Row]:
        rows = []
        for name in self._claims.hypervisors(uid):
            hypervisor = self._store.get(HYPERVISORS, Key("", name))
            silent = hypervisor is not None and self._health.is_silent(hypervisor["spec"]["agentName"])
            rows.append(row_of(name, hypervisor, uid, agent_is_silent=silent))
        return rows

    def _users(self, uid: str) -> list[str]:
        """Who keeps a network that is being deleted, for people; empty: nobody."""
        machines = [str(key) for key in self._claims.machines(uid)]
        # An agent that is silent may still have it: it says itself when not, or a person who deletes its Hypervisor.
        hypervisors = [
            key.name + (" (its agent is silent)" if self._health.is_silent(hypervisor["spec"]["agentName"]) else "")
            for key, hypervisor in self._store.all(HYPERVISORS).items()
            if report_of(hypervisor, uid) is not None
        ]
        return [
            f"{len(names)} {what}{'' if len(names) == 1 else 's'}: {', '.join(sorted(names)[:_SHOWN])}"
            + (", ..." if len(names) > _SHOWN else "")
            for what, names in (("machine", machines), ("hypervisor", hypervisors))
            if names
        ]


def _differs(network: Object, status: Mapping[str, Any]) -> bool:
    return differs(network, status, owned=OWNED, owned_conditions=OWNED_CONDITIONS)
