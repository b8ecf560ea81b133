"""kopf as the chassis: discovery, login, signals, liveness, and the watches of what changes rarely.

Its handlers only feed the store. Change handlers are not used: they write bookkeeping onto users' objects and react to
edges. Machines and volumes are watched by informers (docs/decisions/0002). The facts behind each setting were measured
with kopf 1.45.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import kopf
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from virtplane_api.kube.resources import Object, Resource
from virtplane_api.names import GROUP, VERSION
from virtplane_operator.runtime import KOPF_KINDS, Operator

_CONNECTIONS = 16
_STOP_WITHIN_S = 25.0


class _NoProgress(kopf.ProgressStorage):
    """kopf keeps nothing of its handlers on the objects."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any, **_: Any) -> Any:
        return essence


class _NoDiffBase(kopf.DiffBaseStorage):
    """kopf compares nothing: saves the annotation, and 40 % of its CPU per event."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


def registry_for(
    operator: Operator, configuration: Configuration, on_stop: Callable[[], Awaitable[None]]
) -> kopf.OperatorRegistry:
    """kopf's handlers: configure, log in, feed the store, stop."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        _configure(settings)

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return await _session(configuration)

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        # Tasks that still run after the clean-up, kopf waits 5 s for.
        await on_stop()

    for resource in KOPF_KINDS:
        _feed(registry, operator, resource)
    return registry


def _feed(registry: kopf.OperatorRegistry, operator: Operator, resource: Resource) -> None:
    @kopf.on.event(GROUP, VERSION, resource.plural, registry=registry, id=f"feed-{resource.plural}")
    async def take(event: Mapping[str, Any], **_: Any) -> None:
        obj: Object = event["object"]
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        if event["type"] == "DELETED":
            operator.store.remove(resource, obj)
        else:
            operator.store.put(resource, obj)


def _configure(settings: kopf.OperatorSettings) -> None:
    settings.posting.enabled = False
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.diffbase_storage = _NoDiffBase()
    # kopf strips the finalizer of this name from everything it sees: it must not be ours.
    settings.persistence.finalizer = f"{GROUP}/kopf-unused"
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    # No gathering of events: the store keeps the newest anyway, and the wait would be in every answer to a user.
    settings.queueing.batch_window = 0
    settings.process.ultimate_exiting_timeout = _STOP_WITHIN_S


async def _session(configuration: Configuration) -> kopf.AiohttpSession:
    """kopf's own session has no limit of connections."""
    headers = {"Accept": "application/json"}
    for auth in (await configuration.auth_settings()).values():
        if auth["value"]:
            headers[auth["key"]] = auth["value"]
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=RESTClientObject(configuration).ssl_context)
    session = aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False)
    return kopf.AiohttpSession(server=configuration.host, aiohttp_session=session)


async def run(
    operator: Operator,
    configuration: Configuration,
    stop: asyncio.Event,
    *,
    on_stop: Callable[[], Awaitable[None]],
    liveness_endpoint: str | None = None,
) -> None:
    """Watch until SIGTERM, SIGINT or `stop`; `on_stop` is to end all tasks of our own."""
    await kopf.operator(
        registry=registry_for(operator, configuration, on_stop),
        clusterwide=True,
        standalone=True,
        stop_flag=stop,
        liveness_endpoint=liveness_endpoint,
    )
