"""Two hosts, joined by one link, and one network over both, with real Linux guests on it."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.cluster.guests.quickstart import ADDRESS_PREFIX
from tests.cluster.network_leftovers import mounts_below, network_processes
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, Object, condition, finished, root_disk, start_qemu_agent, vm
from tests.e2e.second_host import BOTH, OTHER, place, second_host

UNDERLAY = {AGENT: "198.51.100.1", OTHER: "198.51.100.2"}
WIDE = {"mode": "Overlay", "ipv4": {"cidr": "10.20.0.0/24"}, "dns": {"domain": "shop.test"}}


@dataclass
class Hosts:
    """A running Virtplane with two hosts, and how one acts in their guests."""

    live: Live
    namespace: str
    acts: int = field(default=0)

    def guest(self, name: str, agent: str) -> Object:
        source = self.live.images.source("quickstart.qcow2")
        return vm(
            name,
            self.namespace,
            root_disk(source, "64Mi", poolName=BOTH),
            memory={"size": "128Mi"},
            interfaces=[{"name": "lan", "networkName": "wide"}],
            scheduling={"hypervisorName": f"{agent}-qemu"},
        )

    def get(self, kind: str, name: str) -> Object:
        return self.live.get(kind, name, self.namespace)

    def run(self, name: str, script: str) -> str:
        """What a shell in the guest prints; empty while its agent is silent, or the script fails."""
        self.acts += 1
        act = f"run-{self.acts}"
        command = {"command": ["sh", "-c", script], "timeoutSeconds": 20}
        body = {"vmName": name, "type": "GuestCommand", "guestCommand": command}
        metadata = {"name": act, "namespace": self.namespace}
        kind = {"apiVersion": "virtplane.dev/v1alpha1", "kind": "VirtualMachineAction"}
        self.live.apply(kind | {"metadata": metadata, "spec": body})
        done = finished(self.live, act, self.namespace)
        if condition(done, "Complete").get("status") != "True":
            return ""
        return str(done["status"]["guestCommand"]["stdout"]).strip()

    def says(self, name: str, script: str, answer: str) -> None:
        """Waits until that is what the shell prints."""
        eventually(lambda: self.run(name, script) == answer, 120, interval_s=0.5)

    def address(self, name: str) -> str:
        return str(self.get("vpvm", name)["status"]["placement"]["interfaces"][0]["ipAddresses"][0])

    def serves(self, *names: str) -> None:
        """Each has a page of its own, once it has its address."""
        for name in names:
            self.live.wait_ready(name, self.namespace)
            self.says(name, "ip -4 -o address show eth0 | grep -c inet", "1")
            self.says(name, f"echo page of {name} >/www/index.html; cat /www/index.html", f"page of {name}")

    def move(self, name: str, agent: str) -> None:
        """As an operator that takes a stopped machine to another host."""
        token = self.get("vpvm", name)["status"]["placement"]["token"] + 1
        place(self.live, name, self.namespace, agent, token)

    def peers(self) -> dict[str, str]:
        peers = self.get("vpnet", "wide")["status"].get("peers", [])
        return {peer["agentName"]: peer["address"] for peer in peers}


@pytest.fixture(scope="module")
def joined(live: Live) -> Iterator[Live]:
    """A second host, a link between both, and a pool that both reach."""
    first, second = (live.system.host(agent) for agent in UNDERLAY)
    first.ip("link", "add", "under", "type", "veth", "peer", "name", "under", "netns", str(second.path))
    for agent, address in UNDERLAY.items():
        host = live.system.host(agent)
        host.ip("address", "add", f"{address}/24", "dev", "under")
        host.ip("link", "set", "under", "up")
    live.system.stop(AGENT)
    start_qemu_agent(live, AGENT, "--underlay-address", UNDERLAY[AGENT])
    with second_host(live, "--underlay-address", UNDERLAY[OTHER]):
        yield live


@pytest.fixture
def hosts(joined: Live, namespace: str) -> Iterator[Hosts]:
    yield Hosts(joined, namespace)
    joined.kubectl("delete", "vpact,vpvm", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)
    joined.kubectl("delete", "vpnet", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)
    folder = joined.system.directory
    eventually(lambda: [*mounts_below(folder), *network_processes(folder)] == [], 30)
    for agent in UNDERLAY:
        host = joined.system.host(agent)
        eventually(lambda: set(host.links()) == {"lo", "eth0", "under"}, 30)  # noqa: B023  # called at once
        assert "virtplane" not in host.run("nft", "list", "tables")
        assert host.run("ss", "-Hlun", "sport", "=", "4790") == ""


def test_guests_of_two_hosts_fetch_each_other_s_page_by_name_also_after_one_came_to_the_other_host(
    hosts: Hosts,
) -> None:
    live, namespace = hosts.live, hosts.namespace
    wide = {"apiVersion": "virtplane.dev/v1alpha1", "kind": "VirtualNetwork"}
    live.apply(wide | {"metadata": {"name": "wide", "namespace": namespace}, "spec": WIDE})
    live.apply(hosts.guest("web", AGENT), hosts.guest("db", OTHER))
    hosts.serves("web", "db")
    assert hosts.peers() == UNDERLAY
    status = hosts.get("vpnet", "wide")["status"]
    assert status["mtu"] == 1450
    hosts.says("web", "cat /sys/class/net/eth0/mtu", "1450")
    hosts.says("web", "wget -qO- http://db.shop.test/", "page of db")
    hosts.says("db", "wget -qO- http://web.shop.test/", "page of web")

    address = hosts.address("db")
    live.set_power("db", namespace, "Stopped")
    live.wait_ready("db", namespace)
    hosts.move("db", AGENT)
    eventually(lambda: hosts.get("vpvm", "db")["status"]["host"]["hypervisor"] == f"{AGENT}-qemu", 120)
    live.wait_ready("db", namespace)
    live.set_power("db", namespace, "Running")
    hosts.serves("db")
    hosts.says("web", "wget -qO- http://db.shop.test/", "page of db")
    assert hosts.address("db") == address
    machine = hosts.get("vpvm", "db")
    assert f"{ADDRESS_PREFIX}eth0 {address}" in live.serial(machine)
    eventually(lambda: hosts.peers() == {AGENT: UNDERLAY[AGENT]}, 30)
    assert hosts.get("vpnet", "wide")["status"]["vni"] == status["vni"]

    # And back, while the other one goes on to serve.
    live.set_power("db", namespace, "Stopped")
    live.wait_ready("db", namespace)
    hosts.move("db", OTHER)
    eventually(lambda: hosts.get("vpvm", "db")["status"]["host"]["hypervisor"] == f"{OTHER}-qemu", 120)
    live.set_power("db", namespace, "Running")
    hosts.serves("db")
    hosts.says("db", "wget -qO- http://web.shop.test/", "page of web")
    hosts.says("web", f"wget -qO- http://{address}/", "page of db")


def test_a_hypervisor_says_what_its_tunnels_go_over(hosts: Hosts) -> None:
    for agent, address in UNDERLAY.items():
        status = hosts.live.get("vphv", f"{agent}-qemu")["status"]
        assert status["underlay"] == {"address": address, "mtu": 1500}
        assert ipaddress.ip_address(status["underlay"]["address"])
        assert "Overlay" in status["networkModes"]
