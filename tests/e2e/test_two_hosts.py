"""Two agents that share a pool, and placements that nobody should have written: never two writers, at any moment."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.guest_processes import guest_processes
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, Object, condition, root_disk, start_qemu_agent, vm
from tests.e2e.invariants import two_writers
from tests.e2e.second_host import BOTH, OTHER, place, second_host


@pytest.fixture(scope="module")
def shared(live: Live) -> Iterator[Live]:
    with second_host(live):
        yield live


def machine_on(live: Live, agent: str, namespace: str) -> Object:
    disk = root_disk(live.images.source("deaf.img"), poolName=BOTH)
    live.apply(vm("web", namespace, disk, scheduling={"hypervisorName": f"{agent}-qemu"}))
    return live.wait_ready("web", namespace)


def pids_on(live: Live, agent: str, machine: Object) -> list[int]:
    return guest_processes(live.system.state_folder(agent) / "qemu" / machine["metadata"]["uid"])


@contextmanager
def never_two_writers(live: Live) -> Iterator[None]:
    """Looks again and again while the block runs."""
    found: list[str] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            found.extend(two_writers(live.system.directory))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()
    assert found == []


def test_a_machine_that_is_placed_elsewhere_ends_here_before_it_starts_there(shared: Live, namespace: str) -> None:
    machine = machine_on(shared, AGENT, namespace)
    token = machine["status"]["placement"]["token"]
    with never_two_writers(shared):
        for number, agent in enumerate([OTHER, AGENT, OTHER]):
            place(shared, "web", namespace, agent, token + 1 + number)
            eventually(lambda: len(pids_on(shared, agent, machine)) == 1, 60)  # noqa: B023  # called at once
            moved = shared.wait_ready("web", namespace)
            assert moved["status"]["host"]["hypervisor"] == f"{agent}-qemu"
        assert pids_on(shared, AGENT, machine) == []
    shared.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=60s", timeout_s=90)


def test_an_agent_that_comes_back_with_an_old_token_ends_its_stale_copy_first(shared: Live, namespace: str) -> None:
    machine = machine_on(shared, AGENT, namespace)
    token = machine["status"]["placement"]["token"]
    [stale] = pids_on(shared, AGENT, machine)
    with never_two_writers(shared):
        shared.system.stop(AGENT, grace_s=0)
        place(shared, "web", namespace, OTHER, token + 1)
        waiting = shared.wait_condition("vpvm", "web", namespace, "DiskInUse")
        message = condition(waiting, "Ready")["message"]
        assert f"in use by machine {namespace}/web" in message
        assert f"on {AGENT}-qemu under token {token}" in message
        assert pids_on(shared, AGENT, machine) == [stale]

        start_qemu_agent(shared)
        shared.wait_ready("web", namespace, 60)
        assert pids_on(shared, AGENT, machine) == []
        assert len(pids_on(shared, OTHER, machine)) == 1
    shared.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=60s", timeout_s=90)


def test_a_volume_on_a_shared_pool_follows_its_user_to_the_other_host(shared: Live, namespace: str) -> None:
    disk = {"name": "root", "volumeName": "data"}
    shared.apply(
        {
            "apiVersion": "virtplane.dev/v1alpha1",
            "kind": "Volume",
            "metadata": {"name": "data", "namespace": namespace},
            "spec": {"poolName": BOTH, "size": "1Mi", "source": shared.images.source("deaf.img")},
        },
        vm("first", namespace, disk, scheduling={"hypervisorName": f"{AGENT}-qemu"}),
    )
    shared.wait_ready("first", namespace)
    shared.apply(vm("second", namespace, disk, scheduling={"hypervisorName": f"{OTHER}-qemu"}))
    shared.wait_condition("vpvm", "second", namespace, "VolumeInUse")
    with never_two_writers(shared):
        shared.kubectl("delete", "vpvm", "first", "-n", namespace, "--timeout=60s", timeout_s=90)
        second = shared.wait_ready("second", namespace)
    assert len(pids_on(shared, OTHER, second)) == 1
    shared.kubectl("delete", "vpvm", "second", "-n", namespace, "--timeout=60s", timeout_s=90)
    shared.kubectl("delete", "vpvol", "data", "-n", namespace, "--timeout=60s", timeout_s=90)
