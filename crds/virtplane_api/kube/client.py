"""A thin client over the official one: it takes configuration, authentication and TLS from `kubernetes.aio`, and speaks
raw JSON on an aiohttp session, because the generated models cost memory and decode each object twice.

Every status apply carries the resourceVersion that it was computed from, and every apply to a main resource the uid:
without them a stale writer could overwrite newer facts, or re-create a deleted object.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from virtplane_api.kube.errors import ApiError, ApiUnavailable, OlderSchema, error_of
from virtplane_api.kube.older_schemas import OlderSchemas
from virtplane_api.kube.resources import Object, Resource

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
UNANSWERED = "none"


class KubeClient:
    """Requests to one API server, as one identity.

    Every method raises a subclass of `ApiError`; `ApiUnavailable` also when no answer came within `timeout_s`.
    """

    def __init__(
        self, configuration: Configuration, session: aiohttp.ClientSession, *, timeout_s: float = 30.0
    ) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """All that were sent, by method and code of the answer; without an answer by UNANSWERED."""
        self._older_schemas = OlderSchemas()
        self._configuration = configuration
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(timeout_s, 10.0))

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: Path | None = None, *, connections: int = 32) -> AsyncIterator[Self]:
        """A client from a kubeconfig file, or without one from $KUBECONFIG, ~/.kube/config or the pod it runs in."""
        configuration = await load_configuration(kubeconfig)
        connector = aiohttp.TCPConnector(limit=connections, ssl=RESTClientObject(configuration).ssl_context)
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            yield cls(configuration, session)

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """The object as it is now."""
        return await self._request("GET", resource.path(namespace, name))

    async def list_all(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> tuple[list[Object], str]:
        """All objects that the selectors admit (apiVersion and kind filled in); the resourceVersion to watch from."""
        params = _selectors(field_selector, label_selector) | {"limit": str(resource.page_size)}
        items: list[Object] = []
        while True:
            page = await self._request("GET", resource.path(namespace), params=params)
            items.extend(page["items"])
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            params["continue"] = metadata["continue"]
        for item in items:
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return items, metadata["resourceVersion"]

    async def create(self, resource: Resource, obj: Object, *, field_manager: str) -> Object:
        """Create the object; its namespace is that of its metadata. Raises AlreadyExists."""
        path = resource.path(obj["metadata"].get("namespace", ""))
        return await self._request("POST", path, params={"fieldManager": field_manager}, body=obj)

    async def update(self, resource: Resource, obj: Object, *, field_manager: str) -> Object:
        """Replace the object; its resourceVersion must be the one in `obj` (else Conflict)."""
        metadata = obj["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        return await self._request("PUT", path, params={"fieldManager": field_manager}, body=obj)

    async def apply_status(
        self, resource: Resource, read: Object, status: Mapping[str, Any], *, field_manager: str
    ) -> Object:
        """Server-side apply of the whole status that `field_manager` owns, computed from `read`.

        Fields that this manager owned and that `status` leaves out are removed; fields of the others stay. A field that
        another manager owns is taken over.

        Raises:
            Conflict: the object changed since it was read.
            NotFound: it is gone.
            OlderSchema: the CRD in the cluster lacks a field of `status`; where that lasts it is in the log.
        """
        metadata = read["metadata"]
        identity = {
            field: metadata[field] for field in ("name", "namespace", "resourceVersion", "uid") if field in metadata
        }
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": identity, "status": status}
        path = resource.path(metadata.get("namespace", ""), metadata["name"], "status")
        params = {"fieldManager": field_manager, "force": "true"}
        try:
            return await self._request("PATCH", path, params=params, body=body, content_type=_APPLY)
        except OlderSchema as error:
            self._older_schemas.refused(resource.kind, error)
            raise

    async def set_finalizers(
        self, resource: Resource, read: Object, finalizers: list[str], *, field_manager: str
    ) -> Object:
        """Replace metadata.finalizers of exactly the object that was read (by uid and resourceVersion).

        Raises:
            Conflict: the object changed since it was read.
            Invalid: it is another object of that name.
            NotFound: it is gone.
        """
        metadata = read["metadata"]
        patch = {
            "metadata": {
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
                "finalizers": finalizers,
            }
        }
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        return await self._request(
            "PATCH", path, params={"fieldManager": field_manager}, body=patch, content_type=_MERGE
        )

    async def delete(self, resource: Resource, read: Object) -> None:
        """Ask for the deletion of exactly the object that was read (by uid and resourceVersion).

        Raises:
            Conflict: the object changed since it was read, or is another one of that name.
            NotFound: it is gone.
        """
        metadata = read["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        }
        await self._request("DELETE", resource.path(metadata.get("namespace", ""), metadata["name"]), body=body)

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        *,
        namespace: str = "",
        field_selector: str = "",
        timeout_s: int = 300,
    ) -> AsyncIterator[AsyncIterator[Object]]:
        """Watch events after `resource_version` as `{type, object}`, until the server ends the stream.

        Of one namespace, or of all.

        Raises:
            Expired: the version is too old (as an ERROR event it is left to the caller).
        """
        params = _selectors(field_selector, "") | {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_s),
        }
        # The server ends the stream; a connection that is silent for longer than that, plus a margin, is dead.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=timeout_s + 30.0)
        try:
            async with self._send("GET", resource.path(namespace), params=params, timeout=timeout) as response:
                yield _lines(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnavailable(f"watch of {resource.plural}: {error!r}") from error

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        try:
            async with self._send(method, path, params=params, body=body, content_type=content_type) as response:
                answer: Object = orjson.loads(await response.read())
                return answer
        except ApiError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            raise ApiUnavailable(f"{method} {path}: {error!r}") from error

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,  # noqa: ASYNC109  # aiohttp's own, per read and in all
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": "application/json"}
        # Asked for each time: tokens of service accounts and exec plugins are renewed.
        for auth in (await self._configuration.auth_settings()).values():
            if auth["value"]:
                headers[auth["key"]] = auth["value"]
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = orjson.dumps(body)
        request = self._session.request(
            method,
            self._configuration.host + path,
            params=params,
            data=data,
            headers=headers,
            timeout=timeout or self._timeout,
            allow_redirects=False,
        )
        code = UNANSWERED
        try:
            response = await request
            code = str(response.status)
        finally:
            self.requests[method, code] += 1
        async with response:
            if response.status >= 300:
                raise error_of(response.status, _status_of(await response.read()), response.headers.get("Retry-After"))
            yield response


async def load_configuration(kubeconfig: Path | None = None) -> Configuration:
    """Host, TLS and credentials, as kubectl finds them; inside a pod its ServiceAccount's.

    Raises:
        kubernetes.aio.config.ConfigException: nothing to read, or nothing usable in it.
    """
    configuration = Configuration()
    if kubeconfig is not None:
        await kube_config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
        return configuration
    try:
        kube_config.load_incluster_config(client_configuration=configuration)
    except kube_config.ConfigException:
        await kube_config.load_kube_config(client_configuration=configuration)
    return configuration


def _selectors(field_selector: str, label_selector: str) -> dict[str, str]:
    named = {"fieldSelector": field_selector, "labelSelector": label_selector}
    return {name: value for name, value in named.items() if value}


def _status_of(body: bytes) -> dict[str, Any]:
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:200].decode(errors="replace")}
    return status if isinstance(status, dict) else {}


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[Object]:
    """One JSON document per line. Not `readline`: aiohttp bounds its lines below the size of a large object."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield orjson.loads(line)


async def wait_until_served(client: KubeClient, resource: Resource, *, retry_s: float = 2.0) -> None:
    """Return once the API server serves the resource to us; for a start before the CRDs are installed."""
    while True:
        try:
            await client.list_all(resource)
        except ApiError:
            await asyncio.sleep(retry_s)
        else:
            return
