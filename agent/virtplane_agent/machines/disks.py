"""Whether a machine's disks can be attached: each one's Volume is ours to use and made, as its own storage says."""

from virtplane_agent.endpoints import Endpoints
from virtplane_agent.machines.status import Hindrance
from virtplane_agent.placed import Placed
from virtplane_agent.volumes.desired import lost_message, pool_of, was_made
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import NotFound
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import VOLUMES, Object, uid_of
from virtplane_drivers.attachment import Attachment
from virtplane_drivers.errors import DriverError
from virtplane_drivers.storage.contract import VolumeState


class Disks:
    """Looks up what is behind a machine's disks."""

    def __init__(self, client: KubeClient, volumes: Placed, pools: Informer, endpoints: Endpoints) -> None:
        self._client = client
        self._volumes = volumes
        self._pools = pools
        self._endpoints = endpoints

    async def attachments(self, machine: Object) -> list[tuple[str, Attachment]] | Hindrance:
        """How each disk is reached, in the order of the placement; or the first disk that cannot be, and why."""
        found = []
        for placed in machine["status"]["placement"].get("disks") or ():
            attachment = await self._attachment(machine, placed["name"], placed["volumeName"], placed["volumeUID"])
            if isinstance(attachment, Hindrance):
                return attachment
            found.append((placed["name"], attachment))
        return found

    async def _attachment(self, machine: Object, disk: str, name: str, uid: str) -> Attachment | Hindrance:
        volume = self._volumes.get(uid)
        if volume is None or _claimed_by(volume) != uid_of(machine):
            # Of a pool that hosts share the Volume may be another agent's; and our copy may be behind the machine's.
            try:
                volume = await self._client.get(VOLUMES, name, machine["metadata"]["namespace"])
            except NotFound:
                return Hindrance("VolumeNotFound", f"disk {disk}: Volume {name} is gone")
        if uid_of(volume) != uid:
            return Hindrance("VolumeReplaced", f"disk {disk}: Volume {name} was deleted and made again", stalled=True)
        if _claimed_by(volume) != uid_of(machine):
            return Hindrance("VolumeNotClaimed", f"disk {disk}: Volume {name} is not given to this machine")
        pool = pool_of(volume, self._pools)
        if isinstance(pool, str):
            return Hindrance("PoolNotFound", f"disk {disk}: {pool}")
        try:
            observed = await self._endpoints.storage[pool.type].observe(pool, uid)
        except DriverError as error:
            return Hindrance(error.reason, f"disk {disk}: {error}")
        if observed.state is VolumeState.READY and observed.attachment is not None:
            return observed.attachment
        if observed.failure is not None:
            return Hindrance("VolumeFailed", f"disk {disk}: Volume {name}: {observed.failure.message}")
        if observed.state is None and was_made(volume):
            return Hindrance("VolumeLost", f"disk {disk}: Volume {name}: {lost_message(volume)}")
        return Hindrance("VolumeNotReady", f"disk {disk}: Volume {name} is being made")


def _claimed_by(volume: Object) -> str:
    return str((volume.get("status", {}).get("claim") or {}).get("vmUID", ""))
