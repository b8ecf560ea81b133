"""A namespace for one test, and its end: orderly while somebody cares for its objects, by force when nobody does."""

import contextlib
import http
import json
import time
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

from tests.cluster.control_plane import ApiError, ControlPlane

GROUP = "/apis/virtplane.dev/v1alpha1"
ORDERLY_END_S = 15.0


@contextlib.contextmanager
def fresh_namespace(control_plane: ControlPlane, prefix: str = "test") -> Iterator[str]:
    """A namespace of a name never used before, deleted at the end.

    The end does not wait for the namespace itself (Kubernetes takes 5 s at least), only for Virtplane's objects in it,
    whose finalizers the operator removes. Without an operator nobody would: after `ORDERLY_END_S` they are dropped,
    with a warning, because what they stood for on a host is then an orphan.
    """
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    control_plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        yield name
    finally:
        control_plane.request("DELETE", f"/api/v1/namespaces/{name}")
        _end_objects(control_plane, name)


def _end_objects(control_plane: ControlPlane, namespace: str) -> None:
    deadline = time.monotonic() + ORDERLY_END_S
    kinds = _namespaced_kinds(control_plane)
    for kind in kinds:  # at once: the namespace controller would begin after 5 s
        control_plane.request("DELETE", f"{GROUP}/namespaces/{namespace}/{kind}")
    while left := [item for kind in kinds for item in _items(control_plane, namespace, kind)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for path, item in left:
        warnings.warn(f"{path} kept its finalizers {item['metadata'].get('finalizers')}; dropped", stacklevel=2)
        _drop_finalizers(control_plane, path)


def nobody_serves(control_plane: ControlPlane, namespace: str) -> None:
    """Take the finalizers off all of Virtplane's objects in it: there is no operator, and they stand for nothing."""
    for kind in _namespaced_kinds(control_plane):
        for path, item in _items(control_plane, namespace, kind):
            if item["metadata"].get("finalizers"):
                _drop_finalizers(control_plane, path)


def kinds_are_read(control_plane: ControlPlane) -> bool:
    """Whether the API server lists all of Virtplane's kinds: of one that is a moment old it says "(re)initializing"."""
    try:
        for kind in _kinds(control_plane):
            control_plane.request("GET", f"{GROUP}/{kind['name']}?limit=1")
    except ApiError as error:
        if error.code not in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
            raise
        return False
    return True


def _drop_finalizers(control_plane: ControlPlane, path: str) -> None:
    with contextlib.suppress(ApiError):  # it may end in this moment
        control_plane.request(
            "PATCH", path, {"metadata": {"finalizers": None}}, content_type="application/merge-patch+json"
        )


def _namespaced_kinds(control_plane: ControlPlane) -> list[str]:
    return [found["name"] for found in _kinds(control_plane) if found["namespaced"]]


def _kinds(control_plane: ControlPlane) -> list[dict[str, Any]]:
    """Virtplane's APIResources; none where the chart is not installed."""
    try:
        resources = json.loads(control_plane.request("GET", GROUP))["resources"]
    except ApiError as error:
        if error.code == http.HTTPStatus.NOT_FOUND:
            return []
        raise
    return [found for found in resources if "/" not in found["name"]]


def _items(control_plane: ControlPlane, namespace: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
    folder = f"{GROUP}/namespaces/{namespace}/{kind}"
    items = json.loads(control_plane.request("GET", folder))["items"]
    return [(f"{folder}/{item['metadata']['name']}", item) for item in items]
