"""One holder at a time, and a sign of life: a Lease (coordination.k8s.io/v1) that its holder renews.

Whether another holder is alive is judged by this process's own monotonic clock: a Lease that did not change for its
duration since we first saw it so is free. Clocks of two machines are never compared.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from virtplane_api.kube.resources import LEASES, Object

_log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """The Lease is not ours for certain any more: whoever may act only while holding it must stop."""


class LeaseTaken(LeaseLost):
    """Another holder has the Lease."""


class LeaseNotRenewed(LeaseLost):
    """No renewal succeeded for as long as the Lease lasts: another may have it, or the API server is away."""


class LeaseHeld(Exception):
    """Another, living holder has the Lease."""

    def __init__(self, message: str, *, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class Lease:
    """A Lease that this process takes, keeps and gives back."""

    def __init__(
        self,
        client: KubeClient,
        *,
        name: str,
        namespace: str,
        identity: str,
        duration_s: int,
        renew_every_s: float,
        field_manager: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.identity = identity
        self._client = client
        self._namespace = namespace
        self._duration_s = duration_s
        self._renew_every_s = renew_every_s
        self._field_manager = field_manager
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)
        """resourceVersion of a foreign holder's Lease, and when we first saw it."""
        self._renewed_since_first_seen = False
        self._renewed_at: float | None = None
        """By our own clock; None: it was not ours when we last looked."""

    @property
    def is_held(self) -> bool:
        """Whether it is ours, and its last renewal is no older than it lasts."""
        return self._renewed_at is not None and self._clock() - self._renewed_at <= self._duration_s

    async def acquire(self, *, wait: bool) -> None:
        """Take the Lease; with `wait`, for as long as another living holder has it.

        Raises:
            LeaseHeld: without `wait`, it was renewed by another identity while we looked (one duration at most).
        """
        announced = ""
        while True:
            try:
                holder = await self._try()
            except ApiError as error:
                _log.warning("lease %s: %s", self.name, error)
            else:
                if holder == self.identity:
                    return
                if holder != announced:
                    _log.info("lease %s is held by %s", self.name, holder)
                    announced = holder
                if not wait and self._renewed_since_first_seen:
                    raise LeaseHeld(f"lease {self._namespace}/{self.name} is held by {holder}", holder=holder)
            await asyncio.sleep(min(self._renew_every_s, 2.0))

    async def keep(self) -> None:
        """Renew the Lease for ever.

        Raises:
            LeaseTaken: another has it.
            LeaseNotRenewed: it could not be renewed for as long as it lasts; `keep` may be called again.
        """
        renewed_at = self._clock()
        while True:
            await asyncio.sleep(self._renew_every_s)
            try:
                holder = await self._try()
            except ApiError as error:
                if self._clock() - renewed_at > self._duration_s:
                    raise LeaseNotRenewed(f"lease {self.name} not renewed for {self._duration_s} s: {error}") from error
                _log.warning("lease %s not renewed: %s", self.name, error)
                continue
            if holder != self.identity:
                raise LeaseTaken(f"lease {self.name} was taken by {holder}")
            renewed_at = self._clock()

    async def release(self) -> None:
        """Give the Lease back, so that the next holder need not wait; on failure it simply ends by time."""
        self._renewed_at = None
        try:
            lease = await self._client.get(LEASES, self.name, self._namespace)
            if lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"] |= {"holderIdentity": "", "renewTime": _micro_time()}
                await self._client.update(LEASES, lease, field_manager=self._field_manager)
        except ApiError as error:
            _log.warning("lease %s not released: %s", self.name, error)

    async def _try(self) -> str:
        """Take or renew the Lease if it is ours or free; the holder's identity after that."""
        asked_at = self._clock()
        holder = await self._holder()
        self._renewed_at = asked_at if holder == self.identity else None
        return holder

    async def _holder(self) -> str:
        try:
            lease = await self._client.get(LEASES, self.name, self._namespace)
        except NotFound:
            return await self._create()
        holder = lease["spec"].get("holderIdentity") or ""
        if holder not in ("", self.identity) and not self._expired(lease):
            return str(holder)
        if holder != self.identity:
            lease["spec"] |= {
                "holderIdentity": self.identity,
                "acquireTime": _micro_time(),
                "leaseTransitions": lease["spec"].get("leaseTransitions", 0) + 1,
            }
        lease["spec"] |= {"renewTime": _micro_time(), "leaseDurationSeconds": self._duration_s}
        try:
            await self._client.update(LEASES, lease, field_manager=self._field_manager)
        except Conflict:
            return str(holder) if holder != self.identity else "another"
        return self.identity

    async def _create(self) -> str:
        lease = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self.name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": self._duration_s,
                "acquireTime": _micro_time(),
                "renewTime": _micro_time(),
                "leaseTransitions": 0,
            },
        }
        try:
            await self._client.create(LEASES, lease, field_manager=self._field_manager)
        except AlreadyExists:
            return "another"
        return self.identity

    def _expired(self, lease: Object) -> bool:
        version = lease["metadata"]["resourceVersion"]
        seen_version, seen_at = self._seen
        if version != seen_version:
            self._renewed_since_first_seen = bool(seen_version)
            self._seen = (version, self._clock())
            return False
        duration_s = float(lease["spec"].get("leaseDurationSeconds", self._duration_s))
        return self._clock() - seen_at > duration_s


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
