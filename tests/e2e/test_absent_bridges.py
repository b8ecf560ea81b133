"""A bridge that hosts give and have not: machines wait for it, go where it is, and run on when it goes."""

from collections.abc import Iterator

import pytest

from tests.cluster.guest_processes import guest_processes
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, BRIDGE, Live, Object, condition, start_qemu_agent
from tests.e2e.test_given_networks import OTHER, machine, network, place_of

WHY = f"bridge {BRIDGE} does not exist on the host: make it (ip link add {BRIDGE} type bridge"


@pytest.fixture
def hosts(live: Live, namespace: str) -> Iterator[Live]:
    """Two hosts that give a bridge which neither has."""
    start_qemu_agent(live, OTHER)

    def both_say_so() -> bool:
        rows = [row for name in (AGENT, OTHER) for row in given(live, name)]
        return [row["name"] for row in rows if WHY in row.get("missing", "")] == [BRIDGE, BRIDGE]

    eventually(both_say_so, 30)
    yield live
    live.kubectl("delete", "vpvm", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)
    live.kubectl("delete", "vpnet", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)
    live.system.stop(OTHER)
    live.kubectl("delete", "vphv", f"{OTHER}-qemu", "--wait=false")


def given(live: Live, agent: str) -> list[Object]:
    if not live.kubectl("get", "vphv", f"{agent}-qemu", "--ignore-not-found", "-o", "name"):
        return []
    rows: list[Object] = live.get("vphv", f"{agent}-qemu").get("status", {}).get("hostNetworks", [])
    return rows


def ready(live: Live, kind: str, name: str, namespace: str, reason: str) -> str:
    """The message, once Ready has that reason."""
    return str(condition(live.wait_condition(kind, name, namespace, reason), "Ready")["message"])


def on_the_bridge(live: Live) -> bool:
    """Whether the network's port on the second host is one of its bridge."""
    links = live.system.host(OTHER).links()
    return any(link.get("master") == BRIDGE for link in links.values())


def test_machines_go_to_the_host_that_has_the_bridge_run_on_without_it_and_start_again_once_it_is_back(
    hosts: Live, namespace: str
) -> None:
    host = hosts.system.host(OTHER)

    def make_bridge() -> None:
        host.ip("link", "add", BRIDGE, "type", "bridge")
        host.ip("link", "set", BRIDGE, "up")

    office = network("office", namespace, mode="Bridge", bridge={"name": BRIDGE})
    hosts.apply(office, machine("one", namespace, "office"))
    nobody = f"2 cannot join bridge {BRIDGE} now: {AGENT}-qemu, {OTHER}-qemu ({WHY}"
    assert nobody in ready(hosts, "vpnet", "office", namespace, "NoHypervisor")
    assert nobody in ready(hosts, "vpvm", "one", namespace, "NoHypervisorFits")

    make_bridge()
    runs = hosts.wait_ready("one", namespace)
    hosts.apply(machine("two", namespace, "office"))
    hosts.wait_ready("two", namespace)
    # The first host is as good, by all else that is looked at.
    assert {place_of(hosts, name, namespace) for name in ("one", "two")} == {f"{OTHER}-qemu"}

    def pids() -> list[int]:
        return guest_processes(hosts.system.state_folder(OTHER) / "qemu" / runs["metadata"]["uid"])

    before = pids()
    assert on_the_bridge(hosts)
    host.ip("link", "delete", BRIDGE)
    assert WHY in ready(hosts, "vpnet", "office", namespace, "NoSuchBridge")
    hosts.set_power("two", namespace, "Stopped")
    hosts.wait_ready("two", namespace)
    hosts.set_power("two", namespace, "Running")
    said = ready(hosts, "vpvm", "two", namespace, "NoSuchBridge")
    assert said.startswith(f"interface lan on {OTHER}-qemu: network {namespace}/office: {WHY}")
    hosts.apply(machine("three", namespace, "office"))
    assert nobody in ready(hosts, "vpvm", "three", namespace, "NoHypervisorFits")
    eventually(lambda: WHY in condition(hosts.get("vpvm", "one", namespace), "Ready")["message"], 30)
    assert (pids(), hosts.wait_ready("one", namespace)["status"]["startTime"]) == (before, runs["status"]["startTime"])

    make_bridge()
    for name in ("two", "three"):
        hosts.wait_ready(name, namespace)
        assert place_of(hosts, name, namespace) == f"{OTHER}-qemu"
    eventually(lambda: on_the_bridge(hosts), 30)
    assert pids() == before
    eventually(lambda: condition(hosts.get("vpvm", "one", namespace), "Ready")["message"] == "", 30)
    hosts.wait_condition("vpnet", "office", namespace, "Served")
