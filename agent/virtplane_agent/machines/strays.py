"""Machines that run here and that no object placed here describes. Absence is not an order: first the object is read.

A watch that is filtered by the agent's name says DELETED also when a machine was placed elsewhere, and an empty list
may be a restored database. Only an object that says so ends a guest.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from virtplane_agent.endpoints import Endpoint
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import NotFound
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object, uid_of
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_drivers.hypervisor.contract import Observed

_log = logging.getLogger(__name__)

LOOK_AGAIN_S = 60.0
"""No watch tells of what is placed elsewhere."""


class Strays:
    """Decides on machines without an object; keeps the list of orphans by Hypervisor."""

    def __init__(self, client: KubeClient, agent_name: str, cluster_id: str, on_change: Callable[[str], None]) -> None:
        """`on_change(hypervisor)` is called when its orphans became other ones."""
        self._client = client
        self._agent_name = agent_name
        self._cluster_id = cluster_id
        self._on_change = on_change
        self._orphans: dict[str, dict[str, dict[str, Any]]] = {}

    def orphans(self, hypervisor: str) -> list[dict[str, Any]]:
        """Hypervisor.status.orphans."""
        return sorted(self._orphans.get(hypervisor, {}).values(), key=lambda orphan: str(orphan["uid"]))

    def forget(self, uid: str) -> None:
        """The machine has an object again, or is gone."""
        for hypervisor, orphans in self._orphans.items():
            if orphans.pop(uid, None) is not None:
                self._on_change(hypervisor)

    async def reconcile(self, uid: str, endpoint: Endpoint) -> Outcome:
        """End a copy that was placed elsewhere; list what nothing describes; leave other clusters' machines alone."""
        observed = await endpoint.driver.observe(uid)
        if not observed.exists or observed.owner is None:
            self.forget(uid)
            return Done()
        if observed.owner.cluster_id != self._cluster_id:
            _log.info("machine %s belongs to another cluster (%s): left alone", uid, observed.owner.cluster_id)
            return Done()
        obj = await self._read(observed)
        if obj is None or uid_of(obj) != uid:
            self._list(endpoint.name, uid, observed)
            return Wait(LOOK_AGAIN_S, "an orphan may get an object again")
        placement = obj.get("status", {}).get("placement") or {}
        if placement.get("agentName") == self._agent_name:
            return Wait(1.0, "placed here; the watch has not said so yet")
        if placement.get("token", 0) > observed.owner.token and placement.get("hypervisor"):
            _log.warning("machine %s is placed on %s now: ending this copy", uid, placement["hypervisor"])
            await endpoint.driver.power_off(uid)
            await endpoint.driver.destroy(uid)
            self.forget(uid)
            return Done()
        self._list(endpoint.name, uid, observed)
        return Wait(LOOK_AGAIN_S, "it may be placed anew")

    async def _read(self, observed: Observed) -> Object | None:
        try:
            return await self._client.get(VIRTUAL_MACHINES, observed.name, observed.namespace)
        except NotFound:
            return None

    def _list(self, hypervisor: str, uid: str, observed: Observed) -> None:
        assert observed.owner is not None  # noqa: S101  # the caller looked
        orphan: Mapping[str, Any] = {
            "uid": uid,
            "namespace": observed.namespace,
            "name": observed.name,
            "token": observed.owner.token,
        }
        orphans = self._orphans.setdefault(hypervisor, {})
        if orphans.get(uid) != orphan:
            _log.warning("machine %s (%s/%s) has no object: it runs on", uid, observed.namespace, observed.name)
            orphans[uid] = dict(orphan)
            self._on_change(hypervisor)
