"""One pass over one Volume of this host: observe, begin what is missing, report."""

import logging
import time
from collections.abc import Callable, Mapping

from virtplane_agent.placed import Placed
from virtplane_agent.reporting import Reporter
from virtplane_agent.volumes.desired import desired_volume, lost_message, pool_of, was_made
from virtplane_agent.volumes.status import hindered_status, in_use_status, removed_status, volume_status
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import Object, is_being_deleted, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Failed, Outcome, Wait
from virtplane_api.vocabulary import DeletionPolicy
from virtplane_drivers.errors import DriverError, Refused, Unavailable
from virtplane_drivers.storage.contract import Failure, ObservedVolume, Pool, StorageDriver, VolumeState

_log = logging.getLogger(__name__)

_POOL_AGAIN_S = 10.0
_LOOK_AGAIN_S = 60.0
"""Nothing tells of a file that goes away: what was made is looked at this often."""


class VolumeReconciler:
    """Passes over Volumes by UID. `on_ready(vm_uid)` is called when a machine may have waited for the Volume."""

    def __init__(
        self,
        storage: Mapping[str, StorageDriver],
        volumes: Placed,
        pools: Informer,
        reporter: Reporter,
        on_ready: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._volumes = volumes
        self._pools = pools
        self._reporter = reporter
        self._on_ready = on_ready
        self._clock = clock
        self._retry_at: dict[str, float] = {}

    async def reconcile(self, uid: str) -> Outcome:
        """One step of one Volume. One that is gone, or placed elsewhere, is left as it is: absence is no order."""
        volume = self._volumes.get(uid)
        if volume is None:
            self._reporter.forget(uid)
            self._retry_at.pop(uid, None)
            return Done()
        if is_being_deleted(volume):
            return await self._remove(volume)
        return await self._make(volume)

    async def _remove(self, volume: Object) -> Outcome:
        """Take the data away as the deletion policy says, once nobody may use the Volume."""
        claim = volume["status"].get("claim") or {}
        if claim.get("vmUID"):
            return await self._report(volume, in_use_status(volume, claim["vmName"]), Done())
        policy = volume["spec"].get("deletionPolicy", DeletionPolicy.RETAIN.value)
        if policy == DeletionPolicy.RETAIN:
            message = "deletionPolicy Retain: the data stays in the pool under the Volume's UID"
            return await self._report(volume, removed_status(volume, Reason.RETAINED, message), Done())
        found = self._pool_and_driver(volume)
        if isinstance(found, Failure):
            return await self._hindered(volume, found)
        pool, driver = found
        try:
            await driver.delete(pool, uid_of(volume))
        except DriverError as error:
            return await self._hindered(volume, _failure_of(error))
        return await self._report(volume, removed_status(volume, Reason.DELETED, ""), Done())

    async def _make(self, volume: Object) -> Outcome:
        found = self._pool_and_driver(volume)
        if isinstance(found, Failure):
            return await self._hindered(volume, found)
        pool, driver = found
        try:
            observed = await self._begin(volume, pool, driver)
        except DriverError as error:
            return await self._hindered(volume, _failure_of(error))
        outcome = self._outcome(uid_of(volume), observed)
        outcome = await self._report(volume, volume_status(volume, observed), outcome)
        if observed.state is not VolumeState.CREATING:
            self._wake_user(volume)
        return outcome

    def _pool_and_driver(self, volume: Object) -> tuple[Pool, StorageDriver] | Failure:
        pool = pool_of(volume, self._pools)
        if isinstance(pool, str):
            return Failure(Reason.POOL_NOT_FOUND, pool, _POOL_AGAIN_S)
        driver = self._storage.get(pool.type)
        return _no_driver(pool) if driver is None else (pool, driver)

    async def _begin(self, volume: Object, pool: Pool, driver: StorageDriver) -> ObservedVolume:
        """What is there, after asking for it where it is missing, or where its failure's time is over."""
        uid = uid_of(volume)
        observed = await driver.observe(pool, uid)
        failure = observed.failure
        if failure is not None:
            if failure.retry_after_s is None:
                return observed
            if self._clock() < self._retry_at.setdefault(uid, self._clock() + failure.retry_after_s):
                return observed
        if observed.state is None and was_made(volume):
            raise Unavailable(lost_message(volume), reason=Reason.VOLUME_LOST, retry_after_s=_POOL_AGAIN_S)
        if observed.state in (None, VolumeState.FAILED):
            self._retry_at.pop(uid, None)
            await driver.create(pool, desired_volume(volume))
            observed = await driver.observe(pool, uid)
        return observed

    def _outcome(self, uid: str, observed: ObservedVolume) -> Outcome:
        if observed.failure is not None and observed.failure.retry_after_s is not None:
            left_s = self._retry_at.setdefault(uid, self._clock() + observed.failure.retry_after_s) - self._clock()
            return Wait(max(0.1, left_s), observed.failure.reason)
        if observed.state is VolumeState.CREATING:
            return Wait(10.0, "the driver's event comes first")
        return Wait(_LOOK_AGAIN_S, "look again") if observed.state is VolumeState.READY else Done()

    async def _hindered(self, volume: Object, failure: Failure) -> Outcome:
        outcome = Failed(failure.reason, failure.message, failure.retry_after_s)
        return await self._report(volume, hindered_status(volume, failure), outcome)

    async def _report(self, volume: Object, status: Mapping[str, object], outcome: Outcome) -> Outcome:
        again_s = await self._reporter.report(volume, status)
        if again_s is not None and not isinstance(outcome, Failed):
            after_s = min(again_s, outcome.after_s) if isinstance(outcome, Wait) else again_s
            return Wait(after_s, "a state that may pass")
        return outcome

    def _wake_user(self, volume: Object) -> None:
        vm_uid = (volume["status"].get("claim") or {}).get("vmUID")
        if vm_uid:
            self._on_ready(vm_uid)


def _no_driver(pool: Pool) -> Failure:
    message = f"this agent has no storage driver for pools of type {pool.type}; start it with one (--drivers)"
    return Failure(Reason.NO_SUCH_DRIVER, message, None)


def _failure_of(error: DriverError) -> Failure:
    match error:
        case Unavailable():
            return Failure(error.reason, str(error), error.retry_after_s)
        case Refused():
            return Failure(error.reason, str(error), None)
        case _:
            return Failure(error.reason, str(error), 30.0)
