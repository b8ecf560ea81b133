"""Our finalizers: on before the first placement, off when nothing is left on a host."""

from datetime import UTC, datetime

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import NotFound
from virtplane_api.kube.resources import Object, Resource
from virtplane_api.models.common import HostState
from virtplane_api.names import HOST_STATE_FINALIZER, OPERATOR_FIELD_MANAGER
from virtplane_operator.world import Store

FIRST_STATUS_AFTER_S = 1.0
"""What an object waits for often comes with the same `kubectl apply`: nothing is said before this age."""


async def ensure_finalizer(
    client: KubeClient, store: Store, resource: Resource, obj: Object, *, finalizer: str = HOST_STATE_FINALIZER
) -> Object:
    """The object with our finalizer; it is put on where no admission policy did, or where a user dropped it."""
    finalizers = list(obj["metadata"].get("finalizers") or [])
    if finalizer in finalizers:
        return obj
    written = await client.set_finalizers(resource, obj, [*finalizers, finalizer], field_manager=OPERATOR_FIELD_MANAGER)
    store.put_written(resource, written)
    return written


def is_off_its_host(obj: Object) -> bool:
    """Whether no host holds anything of the object: it never had a place, or its agent says Removed for this token."""
    status = obj.get("status", {})
    placement, host = status.get("placement") or {}, status.get("host") or {}
    if host.get("state") == HostState.REMOVED and host.get("token") == placement.get("token"):
        return True
    return not placement.get("hypervisor") and (not host or host.get("state") == HostState.REMOVED)


async def release(
    client: KubeClient, store: Store, resource: Resource, obj: Object, *, finalizer: str = HOST_STATE_FINALIZER
) -> None:
    """Take our finalizer off an object that is being deleted."""
    finalizers = list(obj["metadata"].get("finalizers") or [])
    if finalizer not in finalizers:
        return
    finalizers.remove(finalizer)
    try:
        written = await client.set_finalizers(resource, obj, finalizers, field_manager=OPERATOR_FIELD_MANAGER)
    except NotFound:
        store.remove(resource, obj)
    else:
        store.put_written(resource, written)


def younger_than(obj: Object, age_s: float) -> bool:
    """Whether the object was made less than `age_s` ago, by the API server's clock against ours; a hint only."""
    created = datetime.fromisoformat(obj["metadata"]["creationTimestamp"])
    return -60.0 < (datetime.now(UTC) - created).total_seconds() < age_s
