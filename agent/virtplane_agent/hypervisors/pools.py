"""Which StoragePools this host reaches, and in what state: probed, never assumed."""

import asyncio
from collections.abc import Mapping
from typing import Any

from virtplane_agent.endpoints import Endpoint
from virtplane_agent.volumes.desired import pool_value
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.quantity import format_bytes
from virtplane_drivers.errors import DriverError
from virtplane_drivers.storage.contract import Pool, StorageDriver

_MAX_MESSAGE_CHARS = 1024


class PoolProbe:
    """Asks the storage drivers about the pools that concern a hypervisor."""

    def __init__(self, pools: Informer, storage: Mapping[str, StorageDriver]) -> None:
        self._pools = pools
        self._storage = storage

    async def reports(self, hypervisor: Object, endpoint: Endpoint) -> list[dict[str, Any]]:
        """Hypervisor.status.pools: those whose type it can use and whose selector names it."""
        labels = hypervisor["metadata"].get("labels") or {}
        concerned = [
            (value, uid_of(pool))
            for _key, pool in sorted(self._pools.objects.items())
            if (value := pool_value(pool)).type in endpoint.pool_types and _selects(pool, labels)
        ]
        # All at once: one that does not answer is waited for, and holds up no other.
        states = await asyncio.gather(*(self._probe(value) for value, _uid in concerned))
        return [
            {"name": value.name, "uid": uid, **state} for (value, uid), state in zip(concerned, states, strict=True)
        ]

    async def _probe(self, pool: Pool) -> dict[str, str]:
        try:
            facts = await self._storage[pool.type].probe(pool)
        except DriverError as error:
            return {"state": "Failed", "message": str(error)[:_MAX_MESSAGE_CHARS]}
        return {"state": "Ready", "capacity": format_bytes(facts.capacity_bytes)}


def _selects(pool: Object, labels: Mapping[str, str]) -> bool:
    wanted = (pool["spec"].get("hypervisorSelector") or {}).get("matchLabels") or {}
    return all(labels.get(name) == value for name, value in wanted.items())
