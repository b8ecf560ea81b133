"""What serves a real guest's networks is killed: while the agent looks on, and while it is away."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.guests.quickstart import PAGE
from tests.cluster.network_leftovers import network_processes
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, Object, condition, finished, start_qemu_agent
from tests.e2e.test_actions import act
from tests.e2e.test_networks import addresses, claimed, linux, network, nothing_of_a_network_is_left, on, page

__all__ = ["nothing_of_a_network_is_left"]
URL, OTHER_URL = "http://127.0.0.1:8095/", "http://127.0.0.1:8096/"

ASK = """
cd $(dirname $(grep -l $mac /sys/class/net/*/address))
ip link set ${PWD##*/} up
udhcpc -i ${PWD##*/} -s /etc/network.sh -n -q -t 5 -T 1 >/dev/null 2>&1 && ip -4 address show dev ${PWD##*/}
"""
"""Who has such an adapter sets it up: in a usual guest by itself, as it comes."""
RESOLVE = "read -r _ domain </etc/resolv.conf && nslookup web.$domain 10.20.0.1"


def plain(host_port: int) -> Object:
    """An interface on the network of mode User."""
    forward = {"hostPort": host_port, "port": 80, "protocol": "TCP"}
    return {"name": "plain", "networkName": "plain", "portForwards": [forward]}


class Guest:
    """The machine `web`, and what it is told to run."""

    def __init__(self, live: Live, namespace: str) -> None:
        self.live, self.namespace = live, namespace
        self.started_at = self.object()["status"]["startTime"]

    def object(self) -> Object:
        return self.live.get("vpvm", "web", self.namespace)

    def interface(self, name: str) -> Object:
        rows = self.object()["status"]["interfaces"]
        return next(dict(row) for row in rows if row["name"] == name)

    def run(self, script: str) -> str:
        """What it printed."""
        name = f"run-{uuid4().hex}"
        command = {"command": ["sh", "-c", script], "timeoutSeconds": 30}
        self.live.apply(act(name, self.namespace, "GuestCommand", guestCommand=command))
        return str(finished(self.live, name, self.namespace)["status"].get("guestCommand", {}).get("stdout", ""))

    def is_given(self, interface: str) -> bool:
        """Whether it asks by DHCP for the interface's address, and is given it."""
        row = self.interface(interface)
        return f" {row['ipAddresses'][0]}/" in self.run(f"mac={row['macAddress']}\n{ASK}")

    def reasons(self) -> list[str]:
        events = json.loads(self.live.kubectl("get", "events.events.k8s.io", "-n", self.namespace, "-o", "json"))
        return [event["reason"] for event in events["items"] if event["regarding"]["name"] == "web"]


def pid_of(live: Live, program: str) -> int | None:
    """Of the one that serves a network of this system."""
    pids = network_processes(live.system.directory)
    return next((pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().startswith(program)), None)


def kill(live: Live, program: str) -> None:
    pid = pid_of(live, program)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}/fd/0").exists())  # of a child of the agent its entry stays for a moment


def start_agent(live: Live) -> None:
    start_qemu_agent(live)
    eventually(lambda: condition(live.get("vphv", f"{AGENT}-qemu"), "Ready").get("status") == "True", 30)


@pytest.fixture
def guest(live: Live, namespace: str) -> Guest:
    """A guest that is up, on a network with a dnsmasq, and on one with a passt."""
    user = network("plain", namespace, mode="User", ipv4={"cidr": "10.21.0.0/24"})
    live.apply(network("lan", namespace), user, linux(live, "web", namespace, on("lan"), plain(8095)))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: addresses(live, machine) == [claimed(machine)], 120)
    eventually(lambda: page(live.system.host(AGENT), URL) == PAGE, 30)
    return Guest(live, namespace)


@pytest.mark.timeout(240)
def test_a_guest_is_served_again_when_what_serves_its_networks_was_killed(
    live: Live, namespace: str, guest: Guest
) -> None:
    def agent_is_away(kill_it: Callable[[], None]) -> None:
        live.system.stop(AGENT, grace_s=0)
        kill_it()
        start_agent(live)

    # --- passt, of a network of mode User: without an agent a guest does not notice that there is none ---
    live.system.stop(AGENT, grace_s=0)
    assert page(live.system.host(AGENT), URL) == PAGE
    start_agent(live)
    assert page(live.system.host(AGENT), URL) == PAGE
    for times, dies in enumerate((lambda killing: killing(), agent_is_away), 1):
        dies(lambda: kill(live, "passt"))
        eventually(lambda: guest.reasons().count("InterfaceReconnected") == times, 30)  # noqa: B023  # called at once
        eventually(lambda: guest.is_given("plain"), 30)  # it may still be about to see its adapter
        eventually(lambda: page(live.system.host(AGENT), URL) == PAGE, 10)

    # --- dnsmasq, of a network of mode NAT ---
    for dies in (lambda killing: killing(), agent_is_away):
        dies(lambda: kill(live, "dnsmasq"))
        eventually(lambda: pid_of(live, "dnsmasq") is not None, 10)
        assert guest.is_given("lan")
        assert guest.interface("lan")["ipAddresses"][0] in guest.run(RESOLVE).split("Name:")[-1]

    # --- passt again, which is told of its ports at its start ---
    live.apply(linux(live, "web", namespace, on("lan"), plain(8096)))
    eventually(lambda: guest.reasons().count("InterfaceReconnected") == 3, 30)
    eventually(lambda: guest.is_given("plain"), 30)
    eventually(lambda: page(live.system.host(AGENT), OTHER_URL) == PAGE, 10)

    machine = live.wait_ready("web", namespace)
    assert machine["status"]["startTime"] == guest.started_at
    assert "pendingChanges" not in machine["status"]
