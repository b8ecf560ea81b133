"""The client, the informer, the lease and the event recorder against a real API server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cluster.control_plane import ControlPlane
from virtplane_api.kube.client import UNANSWERED, KubeClient
from virtplane_api.kube.errors import AlreadyExists, ApiUnavailable, Conflict, Expired, Forbidden, Invalid, NotFound
from virtplane_api.kube.events import EventRecorder
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.lease import Lease, LeaseHeld, LeaseLost
from virtplane_api.kube.resources import EVENTS, LEASES, Key, Object, Resource

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap", namespaced=True)
MANAGER = "test"


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient.connect(control_plane.admin_kubeconfig) as connected:
        yield connected


def config_map(namespace: str, name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}, "data": data}


async def becomes(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_each_refusal_has_its_type(client: KubeClient, control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "none", namespace)
    made = await client.create(CONFIG_MAPS, config_map(namespace, "a"), field_manager=MANAGER)
    with pytest.raises(AlreadyExists):
        await client.create(CONFIG_MAPS, config_map(namespace, "a"), field_manager=MANAGER)
    await client.update(CONFIG_MAPS, made | {"data": {"x": "1"}}, field_manager=MANAGER)
    with pytest.raises(Conflict):
        await client.update(CONFIG_MAPS, made | {"data": {"x": "2"}}, field_manager=MANAGER)
    with pytest.raises(Invalid):
        await client.create(CONFIG_MAPS, config_map(namespace, "No_Name"), field_manager=MANAGER)
    async with KubeClient.connect(control_plane.client_kubeconfig("nobody", ())) as nobody:
        with pytest.raises(Forbidden):
            await nobody.get(CONFIG_MAPS, "a", namespace)
        assert nobody.requests == {("GET", "403"): 1}
    assert client.requests == {
        ("GET", "404"): 1,
        ("POST", "201"): 1,
        ("POST", "409"): 1,
        ("POST", "422"): 1,
        ("PUT", "200"): 1,
        ("PUT", "409"): 1,
    }


async def test_finalizers_are_set_only_on_the_very_object_that_was_read(client: KubeClient, namespace: str) -> None:
    read = await client.create(CONFIG_MAPS, config_map(namespace, "a"), field_manager=MANAGER)
    kept = await client.set_finalizers(CONFIG_MAPS, read, ["example.test/keep"], field_manager=MANAGER)
    assert kept["metadata"]["finalizers"] == ["example.test/keep"]
    with pytest.raises(Conflict):
        await client.set_finalizers(CONFIG_MAPS, read, [], field_manager=MANAGER)
    stranger = {"metadata": kept["metadata"] | {"uid": "00000000-0000-0000-0000-000000000000"}}
    with pytest.raises(Invalid, match=r"metadata\.uid"):
        await client.set_finalizers(CONFIG_MAPS, stranger, [], field_manager=MANAGER)
    freed = await client.set_finalizers(CONFIG_MAPS, kept, [], field_manager=MANAGER)
    assert "finalizers" not in freed["metadata"]


async def test_a_list_longer_than_a_page_is_read_whole(client: KubeClient, namespace: str) -> None:
    names = {f"page-{number}" for number in range(620)}
    one_at_a_time = asyncio.Semaphore(20)

    async def create(name: str) -> None:
        async with one_at_a_time:
            await client.create(CONFIG_MAPS, config_map(namespace, name), field_manager=MANAGER)

    await asyncio.gather(*(create(name) for name in names))
    listed, _version = await client.list_all(CONFIG_MAPS, namespace)
    assert names <= {item["metadata"]["name"] for item in listed}
    assert {item["kind"] for item in listed} == {"ConfigMap"}


@asynccontextmanager
async def informed(client: KubeClient, namespace: str, **options: Any) -> AsyncIterator[tuple[Informer, list[Key]]]:
    changed: list[Key] = []
    selector = f"metadata.namespace={namespace}"
    informer = Informer(client, CONFIG_MAPS, changed.append, field_selector=selector, **options)
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(20):
            await informer.synced.wait()
        yield informer, changed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_local_copy_follows_creation_change_and_deletion(
    client: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    key = Key(namespace, "a")
    async with informed(client, namespace) as (informer, changed):
        made = await client.create(CONFIG_MAPS, config_map(namespace, "a"), field_manager=MANAGER)
        await becomes(lambda: key in informer.objects)
        await client.update(CONFIG_MAPS, made | {"data": {"x": "1"}}, field_manager=MANAGER)
        await becomes(lambda: informer.objects[key].get("data") == {"x": "1"})
        control_plane.kubectl("delete", "configmap", "a", "-n", namespace)
        await becomes(lambda: key not in informer.objects)
        assert changed.count(key) >= 3


async def test_a_large_object_is_watched_whole(client: KubeClient, namespace: str) -> None:
    async with informed(client, namespace) as (informer, _changed):
        big = "x" * 700_000
        await client.create(CONFIG_MAPS, config_map(namespace, "big", blob=big), field_manager=MANAGER)
        await becomes(lambda: Key(namespace, "big") in informer.objects)
        assert informer.objects[Key(namespace, "big")]["data"]["blob"] == big


async def test_a_watch_that_expired_is_listed_anew_and_finds_what_was_deleted_meanwhile(
    client: KubeClient, namespace: str
) -> None:
    async with informed(client, namespace) as (informer, changed):
        ghost = Key(namespace, "ghost")
        informer.objects[ghost] = config_map(namespace, "ghost") | {
            "metadata": {"namespace": namespace, "name": "ghost", "resourceVersion": "1"}
        }
        informer._version = ""
        await informer._list()
        assert ghost not in informer.objects
        assert ghost in changed
    with pytest.raises(Expired):
        informer._take("ERROR", {"kind": "Status", "code": 410, "message": "too old"})


async def test_the_api_server_may_go_away_and_come_back(namespace: str) -> None:
    """On a control plane of its own: the others' must not be disturbed."""
    with ControlPlane() as own:
        async with KubeClient.connect(own.admin_kubeconfig) as client:
            own.kubectl("create", "namespace", namespace)
            async with informed(client, namespace) as (informer, _changed):
                await asyncio.to_thread(own.stop_apiserver)
                with pytest.raises(ApiUnavailable):
                    await client.get(CONFIG_MAPS, "a", namespace)
                assert client.requests["GET", UNANSWERED] > 0
                await asyncio.to_thread(own.start_apiserver)
                await client.create(CONFIG_MAPS, config_map(namespace, "after"), field_manager=MANAGER)
                await becomes(lambda: Key(namespace, "after") in informer.objects, timeout_s=40)


def lease(client: KubeClient, namespace: str, identity: str, **options: Any) -> Lease:
    settings: dict[str, Any] = {"duration_s": 2, "renew_every_s": 0.2} | options
    return Lease(client, name="one", namespace=namespace, identity=identity, field_manager=MANAGER, **settings)


async def test_a_second_holder_is_refused_while_the_first_renews(client: KubeClient, namespace: str) -> None:
    first = lease(client, namespace, "first")
    await first.acquire(wait=False)
    keeping = asyncio.create_task(first.keep())
    try:
        with pytest.raises(LeaseHeld, match="held by first"):
            await lease(client, namespace, "second").acquire(wait=False)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_lease_that_is_given_back_is_free_at_once(client: KubeClient, namespace: str) -> None:
    first = lease(client, namespace, "first", duration_s=3600)
    assert not first.is_held
    await first.acquire(wait=False)
    assert first.is_held
    await first.release()
    assert not first.is_held
    second = lease(client, namespace, "second", duration_s=3600)
    async with asyncio.timeout(10):
        await second.acquire(wait=True)
    held = await client.get(LEASES, "one", namespace)
    assert held["spec"]["holderIdentity"] == "second"
    assert held["spec"]["leaseTransitions"] == 1


async def test_the_lease_of_a_dead_holder_is_taken_after_its_duration_and_the_dead_one_learns_of_it(
    client: KubeClient, namespace: str
) -> None:
    first = lease(client, namespace, "first")
    await first.acquire(wait=False)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(20):
        await lease(client, namespace, "second").acquire(wait=True)
    assert loop.time() - began >= 2
    assert not first.is_held
    with pytest.raises(LeaseLost, match="was taken by second"):
        async with asyncio.timeout(20):
            await first.keep()


async def test_an_event_says_what_happened_once(
    client: KubeClient, control_plane: ControlPlane, namespace: str
) -> None:
    about = await client.create(CONFIG_MAPS, config_map(namespace, "a"), field_manager=MANAGER)
    recorder = EventRecorder(client, controller="virtplane.dev/test", instance="test-0")
    for _ in range(3):
        recorder.record(about, reason="Started", action="Start", note="the guest runs")
    recorder.record(about, reason="Stopped", action="Stop", note="x" * 5000, type_="Warning")
    writing = asyncio.create_task(recorder.run())
    try:
        listed: list[Object] = []
        async with asyncio.timeout(20):
            while len(listed) < 2:
                listed, _version = await client.list_all(EVENTS, namespace)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert sorted((event["reason"], event["type"]) for event in listed) == [
        ("Started", "Normal"),
        ("Stopped", "Warning"),
    ]
    assert recorder._queue.empty()
    shown = json.loads(control_plane.kubectl("get", "events", "-n", namespace, "-o", "json"))
    assert {item["involvedObject"]["uid"] for item in shown["items"]} == {about["metadata"]["uid"]}
    assert datetime.fromisoformat(listed[0]["eventTime"]) <= datetime.now(UTC)
