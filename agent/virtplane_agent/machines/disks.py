"""Whether a machine's disks can be attached: each one's Volume is ours to use and made, as its own storage says."""

from dataclasses import dataclass

from virtplane_agent.endpoints import Endpoints
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.placed import Placed
from virtplane_agent.volumes.desired import lost_message, pool_of, was_made
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiUnavailable, NotFound
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import VOLUMES, Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_drivers.attachment import Attachment
from virtplane_drivers.errors import DriverError
from virtplane_drivers.storage.contract import VolumeState


@dataclass(frozen=True, slots=True)
class AttachedDisk:
    """One disk of a machine, and how it is reached."""

    name: str
    attachment: Attachment
    claim_is_confirmed: bool
    """The API server has just said that the Volume is given to this machine."""


class Disks:
    """Looks up what is behind a machine's disks."""

    def __init__(self, client: KubeClient, volumes: Placed, pools: Informer, endpoints: Endpoints) -> None:
        self._client = client
        self._volumes = volumes
        self._pools = pools
        self._endpoints = endpoints

    async def attachments(self, machine: Object) -> list[AttachedDisk] | Hindrance:
        """How each disk is reached, in the order of the placement; or the first disk that cannot be, and why."""
        found = []
        for placed in machine["status"]["placement"].get("disks") or ():
            disk = await self._attached(machine, placed["name"], placed["volumeName"], placed["volumeUID"])
            if isinstance(disk, Hindrance):
                return disk
            found.append(disk)
        return found

    async def _attached(self, machine: Object, disk: str, name: str, uid: str) -> AttachedDisk | Hindrance:
        # Read anew: whose the Volume is may have changed since the watch last spoke, and of a pool that hosts share it
        # may be another agent's.
        confirmed = True
        try:
            volume = await self._client.get(VOLUMES, name, machine["metadata"]["namespace"])
        except NotFound:
            return Hindrance(Reason.VOLUME_NOT_FOUND, f"disk {disk}: Volume {name} is gone")
        except ApiUnavailable:
            known = self._volumes.get(uid)
            if known is None:
                raise
            # A machine that crashed while the API server is away is started again by what was last known; its driver
            # takes no disk from another machine then.
            volume, confirmed = known, False
        attachment = await self._attachment(machine, disk, volume, name, uid)
        return attachment if isinstance(attachment, Hindrance) else AttachedDisk(disk, attachment, confirmed)

    async def _attachment(
        self, machine: Object, disk: str, volume: Object, name: str, uid: str
    ) -> Attachment | Hindrance:
        if uid_of(volume) != uid:
            return Hindrance(
                Reason.VOLUME_REPLACED, f"disk {disk}: Volume {name} was deleted and made again", Progress.STALLED
            )
        if _claimed_by(volume) != uid_of(machine):
            return Hindrance(Reason.VOLUME_NOT_CLAIMED, f"disk {disk}: Volume {name} is not given to this machine")
        pool = pool_of(volume, self._pools)
        if isinstance(pool, str):
            return Hindrance(Reason.POOL_NOT_FOUND, f"disk {disk}: {pool}")
        storage = self._endpoints.storage.get(pool.type)
        if storage is None:
            message = f"disk {disk}: this agent has no storage driver for pools of type {pool.type}"
            return Hindrance(Reason.NO_SUCH_DRIVER, message, Progress.STALLED)
        try:
            observed = await storage.observe(pool, uid)
        except DriverError as error:
            return Hindrance(error.reason, f"disk {disk}: {error}")
        if observed.state is VolumeState.READY and observed.attachment is not None:
            return observed.attachment
        if observed.failure is not None:
            return Hindrance(Reason.VOLUME_FAILED, f"disk {disk}: Volume {name}: {observed.failure.message}")
        if observed.state is None and was_made(volume):
            return Hindrance(Reason.VOLUME_LOST, f"disk {disk}: Volume {name}: {lost_message(volume)}")
        return Hindrance(Reason.VOLUME_NOT_READY, f"disk {disk}: Volume {name} is being made")


def _claimed_by(volume: Object) -> str:
    return str((volume.get("status", {}).get("claim") or {}).get("vmUID", ""))
