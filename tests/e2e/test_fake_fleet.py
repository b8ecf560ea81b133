"""Many machines and several agents, on the fake driver: what is tried here is all that is around a hypervisor."""

import json
from collections.abc import Callable, Iterator

import pytest
import yaml

from tests.agent.metrics.documented import undocumented
from tests.cluster.control_plane import ControlPlane
from tests.cluster.system import OPERATOR, SYSTEM_NAMESPACE, System
from tests.cluster.waiting import eventually
from tests.e2e.conftest import Images, Live, condition, pool, vm, volume
from tests.e2e.scraping import fetched, metrics_url, scraped

MACHINES = 100


@pytest.fixture(scope="module")
def fleet(installed: ControlPlane, start_system: Callable[[], System], images: Images) -> Iterator[Live]:
    """An operator and one agent with a fake hypervisor of 64 CPUs and 256 GiB."""
    system = start_system()
    running = Live(installed, system, images)
    system.start_operator()
    system.start_agent("fake-a", ["fake"], "--metrics-address", "127.0.0.1:0")
    running.apply(pool("fleet", default=True, fake={}))
    eventually(lambda: condition(running.get("vppool", "fleet"), "Ready").get("status") == "True", 30)
    yield running
    running.kubectl("delete", "vppool", "fleet", "--timeout=30s")


def states(live: Live, namespace: str) -> list[str]:
    machines = json.loads(live.kubectl("get", "vpvm", "-n", namespace, "-o", "json"))["items"]
    return [condition(machine, "Ready").get("status", "") for machine in machines]


def test_a_hundred_machines_get_ready_and_go_and_nothing_is_written_in_between(fleet: Live, namespace: str) -> None:
    disk = {"name": "root", "volume": {"size": "1Gi"}}
    fleet.apply(*(vm(f"vm-{number:03}", namespace, disk) for number in range(MACHINES)))
    eventually(lambda: states(fleet, namespace) == ["True"] * MACHINES, 60)

    used = fleet.kubectl("get", "vpvol", "-n", namespace, "-o", "jsonpath={.items[*].status.claim.vmName}").split()
    assert sorted(used) == [f"vm-{number:03}" for number in range(MACHINES)]
    writes = own_writes(fleet)
    # Two rounds of every loop that looks again by itself.
    heartbeats = lease_renewals(fleet)
    eventually(lambda: lease_renewals(fleet) >= heartbeats + 4, 60)
    assert own_writes(fleet) == writes

    fleet.kubectl("delete", "vpvm", "--all", "-n", namespace, "--wait=false")
    eventually(lambda: not fleet.kubectl("get", "vpvm,vpvol", "-n", namespace, "-o", "name"), 60)


def own_writes(live: Live) -> int:
    """Writes to objects of our group, counted by the API server."""
    return sum(
        count
        for kind, count in live.control_plane.requests_total().items()
        if kind.group == "virtplane.dev" and kind.verb not in ("GET", "LIST", "WATCH")
    )


def lease_renewals(live: Live) -> int:
    return sum(
        count
        for kind, count in live.control_plane.requests_total().items()
        if kind.resource == "leases" and kind.verb == "PUT" and kind.code == 200
    )


def test_an_agent_tells_of_its_machines_by_http_and_that_it_is_ready(fleet: Live, namespace: str) -> None:
    url = metrics_url(fleet.system, "fake-a")
    eventually(lambda: fetched(f"{url}/readyz") == (200, "ok\n"))
    running = {"hypervisor": "fake-a-fake", "power_state": "Running"}
    before = scraped(fleet.system, "fake-a", **running)["machines"]
    fleet.apply(vm("web", namespace))
    fleet.wait_ready("web", namespace)
    assert scraped(fleet.system, "fake-a", **running)["machines"] == before + 1
    assert scraped(fleet.system, "fake-a", kind="VirtualMachine", result="wait")["reconcile_passes_total"] > 0
    assert scraped(fleet.system, "fake-a", method="PATCH", code="200")["api_requests_total"] > 0
    text = fetched(f"{url}/metrics")[1]
    assert undocumented(text) == {}
    fleet.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=30s")
    assert scraped(fleet.system, "fake-a", **running)["machines"] == before


def test_a_machine_that_fits_nowhere_says_why_and_is_placed_once_there_is_room(fleet: Live, namespace: str) -> None:
    fleet.apply(vm("big", namespace, memory={"size": "200Gi"}), vm("bigger", namespace, memory={"size": "300Gi"}))
    fleet.wait_ready("big", namespace)
    waiting = fleet.wait_condition("vpvm", "bigger", namespace, "NoHypervisorFits")
    message = condition(waiting, "Ready")["message"]
    assert "of 1 hypervisor" in message or "of 2 hypervisors" in message
    assert "memory (need 300Gi, most free" in message

    fleet.apply(vm("second", namespace, memory={"size": "100Gi"}))
    fleet.wait_condition("vpvm", "second", namespace, "NoHypervisorFits")
    fleet.kubectl("delete", "vpvm", "big", "-n", namespace, "--timeout=30s")
    fleet.wait_ready("second", namespace)


def test_a_machine_waits_for_its_volume_and_its_pool_and_goes_on(fleet: Live, namespace: str) -> None:
    fleet.apply(vm("web", namespace, {"name": "data", "volumeName": "later"}))
    waiting = fleet.wait_condition("vpvm", "web", namespace, "VolumeNotFound")
    assert f"spec.disks[0].volumeName: there is no Volume {namespace}/later" in condition(waiting, "Ready")["message"]
    fleet.apply(volume("later", namespace, poolName="slow"))
    waiting = fleet.wait_condition("vpvm", "web", namespace, "PoolNotFound")
    assert "there is no StoragePool slow" in condition(waiting, "Ready")["message"]
    fleet.apply(pool("slow", fake={}))
    fleet.wait_ready("web", namespace)
    fleet.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=30s")
    fleet.kubectl("delete", "vpvol", "later", "-n", namespace, "--timeout=30s")
    fleet.kubectl("delete", "vppool", "slow", "--timeout=30s")


def test_a_pool_stays_until_its_last_volume_is_gone(fleet: Live, namespace: str) -> None:
    fleet.apply(pool("brief", fake={}), volume("data", namespace, poolName="brief"))
    fleet.wait_condition("vpvol", "data", namespace, "Made")
    fleet.kubectl("delete", "vppool", "brief", "--wait=false")
    ready = condition(fleet.wait_condition("vppool", "brief", "", "InUse"), "Ready")
    assert (ready["status"], ready["message"].partition(";")[0]) == (
        "False",
        f"deletion waits for 1 volume: {namespace}/data",
    )
    eventually(lambda: "InUse" in fleet.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}").split())
    assert fleet.get("vppool", "brief")["metadata"]["finalizers"]
    fleet.kubectl("delete", "vpvol", "data", "-n", namespace, "--timeout=30s")
    fleet.kubectl("wait", "--for=delete", "vppool/brief", "--timeout=30s")


def test_a_volume_that_a_machine_uses_is_not_deleted(fleet: Live, namespace: str) -> None:
    fleet.apply(volume("data", namespace), vm("web", namespace, {"name": "data", "volumeName": "data"}))
    fleet.wait_ready("web", namespace)
    fleet.kubectl("delete", "vpvol", "data", "-n", namespace, "--wait=false")
    ready = condition(fleet.wait_condition("vpvol", "data", namespace, "InUse"), "Ready")
    assert (ready["status"], ready["message"].partition(",")[0]) == ("False", "deletion waits for VirtualMachine web")
    eventually(
        lambda: "InUse" in fleet.kubectl("get", "events", "-n", namespace, "-o", "jsonpath={.items[*].reason}").split()
    )
    assert fleet.get("vpvol", "data", namespace)["status"]["host"]["state"] == "Present"
    fleet.set_power("web", namespace, "Stopped")
    fleet.wait_condition("vpvm", "web", namespace, "Stopped")
    fleet.set_power("web", namespace, "Running")
    fleet.wait_ready("web", namespace)
    assert condition(fleet.get("vpvol", "data", namespace), "Ready")["reason"] == "InUse"
    fleet.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=30s")
    fleet.kubectl("wait", "--for=delete", "vpvol/data", "-n", namespace, "--timeout=30s")


def test_a_cordoned_hypervisor_gets_no_new_machine_and_keeps_its_own(fleet: Live, namespace: str) -> None:
    fleet.apply(vm("before", namespace))
    fleet.wait_ready("before", namespace)
    fleet.kubectl("patch", "vphv", "fake-a-fake", "--type=merge", "-p", '{"spec":{"unschedulable":true}}')
    fleet.apply(vm("after", namespace))
    waiting = fleet.wait_condition("vpvm", "after", namespace, "NoHypervisorFits")
    assert "1 unschedulable" in condition(waiting, "Ready")["message"]
    assert condition(fleet.get("vpvm", "before", namespace), "Ready")["status"] == "True"
    fleet.kubectl("patch", "vphv", "fake-a-fake", "--type=merge", "-p", '{"spec":{"unschedulable":null}}')
    fleet.wait_ready("after", namespace)


@pytest.mark.long
@pytest.mark.timeout(180)  # an agent is silent after 40 s, and not before
def test_machines_of_a_silent_agent_are_unknown_until_it_is_back_and_nothing_else_happens(
    fleet: Live, namespace: str
) -> None:
    fleet.system.start_agent("fake-b", ["fake"])
    fleet.apply(vm("web", namespace, scheduling={"hypervisorName": "fake-b-fake"}))
    before = fleet.wait_ready("web", namespace)
    fleet.system.stop("fake-b", grace_s=0)

    fleet.wait_condition("vpvm", "web", namespace, "AgentSilent", timeout_s=70)
    silent = fleet.get("vpvm", "web", namespace)
    assert silent["status"]["powerState"] == "Unknown"
    assert condition(silent, "Ready")["status"] == "Unknown"
    assert silent["status"]["placement"] == before["status"]["placement"]
    assert condition(fleet.get("vphv", "fake-b-fake"), "Ready")["reason"] == "AgentSilent"

    fleet.system.start_agent("fake-b", ["fake"])
    after = fleet.wait_ready("web", namespace)
    assert after["status"]["powerState"] == "Running"
    assert after["status"]["startTime"] == before["status"]["startTime"]
    eventually(lambda: condition(fleet.get("vphv", "fake-b-fake"), "Ready").get("status") == "True")
    fleet.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=30s")
    fleet.system.stop("fake-b")


def test_a_second_operator_waits_and_takes_over_when_the_first_one_ends(
    fleet: Live, namespace: str, start_system: Callable[[], System]
) -> None:
    second = start_system()
    second.start_operator()
    eventually(lambda: "is held by" in second.log(OPERATOR))
    assert "active as" not in second.log(OPERATOR)
    assert fleet.system.stop(OPERATOR) == 0
    eventually(lambda: "active as" in second.log(OPERATOR))
    fleet.apply(vm("web", namespace))
    fleet.wait_ready("web", namespace)
    assert second.stop(OPERATOR) == 0
    fleet.system.start_operator()


def test_a_second_agent_of_the_same_name_refuses_to_start(fleet: Live, start_system: Callable[[], System]) -> None:
    second = start_system()
    second.start_agent("fake-a", ["fake"])
    eventually(lambda: second.exit_code("fake-a") is not None, 60)
    assert second.exit_code("fake-a") == 3
    assert f"lease {SYSTEM_NAMESPACE}/virtplane-agent-fake-a is held by" in second.log("fake-a")


def test_the_operator_puts_the_finalizer_back_that_a_user_dropped(fleet: Live, namespace: str) -> None:
    fleet.apply(vm("web", namespace))
    fleet.wait_ready("web", namespace)
    fleet.kubectl("patch", "vpvm", "web", "-n", namespace, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    eventually(
        lambda: fleet.get("vpvm", "web", namespace)["metadata"].get("finalizers") == ["virtplane.dev/host-state"]
    )


def test_the_spec_that_a_user_applied_is_never_touched(fleet: Live, namespace: str) -> None:
    machine = vm("web", namespace, {"name": "root", "volume": {"size": "1Gi"}})
    fleet.apply(machine)
    fleet.wait_ready("web", namespace)
    seen = fleet.get("vpvm", "web", namespace)
    assert seen["spec"] == machine["spec"]
    assert seen["metadata"]["generation"] == 1
    unchanged = fleet.kubectl("diff", "-f", "-", input=yaml.safe_dump(machine))
    assert unchanged == ""
