"""The whole agent, killed at points all over its start, its adoption of guests, and its work, with a real API server.

`make test-long` runs it: each point takes seconds. What a driver does between two awaits is tried in
tests/drivers/qemu/recovery, at every one of them.
"""

import contextlib
import signal

import pytest

from tests.cluster.guests.boot_sector import GREETING
from tests.cluster.network_leftovers import mounts_below, network_processes
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, Object, root_disk, start_qemu_agent, vm
from tests.e2e.test_networks import network, nothing_of_a_network_is_left, on

__all__ = ["nothing_of_a_network_is_left"]

STEP = 151
"""Callbacks between two points; a start with one machine takes some 1,500."""
POINTS = 12

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def killed_agent(live: Live, fatal: int) -> None:
    """Runs the agent until it is killed at the point, or has come past its work and idles, and is killed then."""
    live.system.start_agent(
        AGENT,
        ["qemu"],
        "--allow-source",
        live.images.server.address,
        "--qemu-accelerator",
        "tcg",
        module=["tests.e2e.killed_agent", str(fatal)],
    )
    with contextlib.suppress(AssertionError):
        eventually(lambda: live.system.exit_code(AGENT) is not None, 8)
    # An agent that could not even start has another code.
    assert live.system.stop(AGENT, grace_s=0) == -signal.SIGKILL, live.system.log(AGENT)[-1000:]


def guest(live: Live, name: str, namespace: str) -> Object:
    disk = root_disk(live.images.source("obedient.img"))
    return vm(name, namespace, disk, terminationGracePeriodSeconds=1, interfaces=[on("lan")])


@pytest.fixture
def bystander(live: Live, namespace: str) -> tuple[str, list[int], list[str]]:
    """A guest that runs all the time, whatever happens to those who look after it; its processes and its tap."""
    live.apply(network("lan", namespace), guest(live, "bystander", namespace))
    machine = live.wait_ready("bystander", namespace)
    return "bystander", live.pids(machine), live.taps("lan", namespace)


def network_is_of(live: Live, *machines: Object) -> bool:
    """Whether the host has one network, in one piece, for the interfaces of these machines and no others."""
    folder, host = live.system.directory, live.system.host(AGENT)
    namespaces = [path for path in mounts_below(folder) if "/netns/" in path]
    namespace = machines[0]["metadata"]["namespace"]
    counts = (len(namespaces), len(network_processes(folder)), len(set(host.links()) - {"lo", "eth0"}))
    if counts != (1, 1, 1) or len(live.taps("lan", namespace)) != len(machines):
        return False
    (reservations,) = live.system.runtime_folder(AGENT).rglob("reservations")
    interfaces = [one["status"]["placement"]["interfaces"][0] for one in machines]
    reserved = [line.split(",")[:2] for line in reservations.read_text().splitlines() if line[:1].isalnum()]
    return sorted(reserved) == sorted([one["macAddress"], one["ipAddresses"][0]] for one in interfaces)


def test_machines_are_made_and_deleted_whenever_the_agent_is_killed(
    live: Live, namespace: str, bystander: tuple[str, list[int], list[str]]
) -> None:
    name, pids, taps = bystander
    for number in range(POINTS):
        fatal = 60 + number * STEP
        live.system.stop(AGENT)
        live.apply(guest(live, "web", namespace))
        killed_agent(live, fatal)
        start_qemu_agent(live)
        machine = live.wait_ready("web", namespace, 60)
        assert len(live.pids(machine)) == 1
        eventually(lambda: GREETING in live.serial(machine))  # noqa: B023  # called at once
        still = live.get("vpvm", name, namespace)
        eventually(lambda: network_is_of(live, still, machine))  # noqa: B023
        assert set(taps) < set(live.taps("lan", namespace))

        live.system.stop(AGENT)
        live.kubectl("delete", "vpvm", "web", "-n", namespace, "--wait=false")
        killed_agent(live, fatal)
        start_qemu_agent(live)
        eventually(lambda: not live.exists("vpvm", "web", namespace), 60)
        assert live.pids(machine) == []

        still = live.get("vpvm", name, namespace)
        assert live.pids(still) == pids
        assert live.serial(still).count(GREETING) == 1
        eventually(lambda: network_is_of(live, still))  # noqa: B023
        assert live.taps("lan", namespace) == taps
