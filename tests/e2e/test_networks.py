"""Real Linux guests on real networks of a host, from `kubectl apply` to a page of their web server."""

import http.server
import ipaddress
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
import yaml

from tests.cluster.guests.quickstart import ADDRESS_PREFIX, PAGE
from tests.cluster.network_leftovers import mounts_below, network_processes
from tests.cluster.system import OPERATOR
from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, Namespace
from tests.e2e.conftest import AGENT, BRIDGE, Live, Object, condition, finished, root_disk, start_qemu_agent, vm
from tests.e2e.scraping import scraped
from tests.e2e.test_actions import act


def network(name: str, namespace: str, **spec: object) -> Object:
    base = {"mode": "NAT", "ipv4": {"cidr": "10.20.0.0/24"}}
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "VirtualNetwork",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {field: value for field, value in (base | spec).items() if value is not None},
    }


def on(network_name: str, **interface: object) -> Object:
    return {"name": "lan", "networkName": network_name} | interface


def linux(live: Live, name: str, namespace: str, *interfaces: Object, **spec: object) -> Object:
    source = live.images.source("quickstart.qcow2")
    return vm(name, namespace, root_disk(source, "64Mi"), memory={"size": "128Mi"}, interfaces=list(interfaces), **spec)


def addresses(live: Live, machine: Object) -> list[str]:
    """What the guest says that DHCP gave it, boot by boot."""
    return re.findall(rf"^{ADDRESS_PREFIX}eth0 (\S+)", live.serial(machine), re.MULTILINE)


def claimed(machine: Object) -> str:
    return str(machine["status"]["placement"]["interfaces"][0]["ipAddresses"][0])


def page(host: Namespace, url: str) -> str:
    def fetch() -> str:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own
                return str(answer.read().decode().strip())
        except OSError:
            return ""

    return host.inside(fetch)


FETCH = "printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 2 {} 80 | busybox tail -n 1"
"""Busybox's wget does not run beside the libraries of the guest's agent."""


def told(live: Live, namespace: str, script: str) -> str:
    """What a shell in the guest `web` prints; empty while its agent is silent, or the script fails."""
    one = f"run-{uuid4().hex}"
    command = {"command": ["sh", "-c", script], "timeoutSeconds": 30}
    live.apply(act(one, namespace, "GuestCommand", guestCommand=command))
    done = finished(live, one, namespace)
    if condition(done, "Complete").get("status") != "True":
        return ""
    return str(done["status"]["guestCommand"]["stdout"]).strip()


@pytest.fixture(autouse=True)
def nothing_of_a_network_is_left(live: Live, namespace: str) -> Iterator[None]:
    yield
    live.kubectl("delete", "vpvm", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)
    live.kubectl("delete", "vpnet", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)
    folder, host = live.system.directory, live.system.host(AGENT)
    eventually(lambda: [*mounts_below(folder), *network_processes(folder)] == [], 30)
    eventually(lambda: set(host.links()) - {BRIDGE} == {"lo", "eth0"}, 30)  # a namespace's links go some time after it
    assert [line for line in host.run("nft", "list", "tables").splitlines() if "virtplane" in line] == []


class _OutsidePage(http.server.BaseHTTPRequestHandler):
    """Shows who asks, as the outside sees it."""

    def do_GET(self) -> None:
        asker = ipaddress.ip_address(self.client_address[0])
        seen = getattr(asker, "ipv4_mapped", None) or asker
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"the outside sees {seen}\n".encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its own name
        """Says nothing."""


class _DualStack(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6  # both: bindv6only is 0 in a new namespace
    daemon_threads = True


@pytest.fixture
def outside_page(live: Live) -> Iterator[None]:
    """A web server in the outside of the agent's host, on port 80 of both families."""
    # A socket stays in the namespace that it was made in, whoever accepts on it.
    server = live.system.outside(AGENT).inside(lambda: _DualStack(("::", 80), _OutsidePage))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="outside")
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """The process does nothing in the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.usefixtures("outside_page")
def test_a_guest_gets_its_address_is_reached_by_a_forwarded_port_reaches_out_and_keeps_all_of_it(
    live: Live, namespace: str
) -> None:
    host = live.system.host(AGENT)
    forward = {"hostPort": 8080, "port": 80, "protocol": "TCP"}
    lan = network("lan", namespace, ipv6={"cidr": "fd00:20::/64"})
    live.apply(lan, linux(live, "web", namespace, on("lan", portForwards=[forward])))
    machine = live.wait_ready("web", namespace)
    address, address6 = machine["status"]["placement"]["interfaces"][0]["ipAddresses"]
    assert machine["status"]["interfaces"][0]["ipAddresses"] == [address, address6]
    eventually(lambda: addresses(live, machine) == [address], 120)
    eventually(lambda: page(host, "http://127.0.0.1:8080/") == PAGE, 30)
    shown = live.kubectl("get", "vpvm", "web", "-n", namespace)
    assert address in shown
    eventually(
        lambda: (
            live.kubectl("get", "vpnet", "lan", "-n", namespace, "--no-headers").split()[1:7]
            == ["NAT", "10.20.0.0/24", "1", "252", "1", "True"]
        ),
        30,
    )

    # Busybox of the guest knows no DHCPv6: the address is set by hand, the way out is what the router advertises.
    eventually(lambda: told(live, namespace, f"ip -6 address add {address6}/64 dev eth0 && echo set") == "set", 60)

    def reaches_out() -> bool:
        there = {OUTSIDE_IPV4: HOST_IPV4, OUTSIDE_IPV6: HOST_IPV6}
        seen = {outside: told(live, namespace, FETCH.format(outside)) for outside in there}
        return seen == {outside: f"the outside sees {own}" for outside, own in there.items()}

    eventually(reaches_out, 60)

    # What an agent does at its start would hide that it looks: this one has run for long. It
    # compares every 10 s, and is held so that this does not fall between the flush and our look.
    with suspended(live.system.pids[AGENT]):
        host.run("nft", "flush", "ruleset")
        assert page(host, "http://127.0.0.1:8080/") == ""
    eventually(lambda: page(host, "http://127.0.0.1:8080/") == PAGE, 15)
    eventually(reaches_out, 15)

    # The agent is gone: the guest goes on to be served.
    live.system.stop(AGENT, grace_s=0)
    assert page(host, "http://127.0.0.1:8080/") == PAGE
    start_qemu_agent(live)
    eventually(lambda: condition(live.get("vphv", f"{AGENT}-qemu"), "Ready").get("status") == "True", 30)

    live.set_power("web", namespace, "Stopped")
    live.wait_ready("web", namespace)
    live.set_power("web", namespace, "Running")
    live.wait_ready("web", namespace)
    eventually(lambda: addresses(live, machine) == [address, address], 120)
    assert claimed(live.get("vpvm", "web", namespace)) == address


def test_an_address_goes_from_a_deleted_machine_to_a_new_one_at_once(live: Live, namespace: str) -> None:
    host = live.system.host(AGENT)
    wanted = on("lan", ipAddresses=["10.20.0.77"], portForwards=[{"hostPort": 8081, "port": 80, "protocol": "TCP"}])
    live.apply(network("lan", namespace), linux(live, "old", namespace, wanted))
    old = live.wait_ready("old", namespace)
    eventually(lambda: addresses(live, old) == ["10.20.0.77"], 120)

    live.apply(linux(live, "new", namespace, wanted))
    waiting = live.wait_condition("vpvm", "new", namespace, "AddressInUse")
    why = f"10.20.0.77 is held by VirtualMachine {namespace}/old"
    assert why in condition(waiting, "Ready")["message"]
    event = re.compile(rf"^ +Warning +AddressInUse .*{re.escape(why)}", re.MULTILINE)
    eventually(lambda: event.search(live.kubectl("describe", "vpvm", "new", "-n", namespace)) is not None)
    live.kubectl("delete", "vpvm", "old", "-n", namespace, "--timeout=60s", timeout_s=90)
    new = live.wait_ready("new", namespace)
    eventually(lambda: addresses(live, new) == ["10.20.0.77"], 120)
    eventually(lambda: page(host, "http://127.0.0.1:8081/") == PAGE, 30)


def test_a_guest_whose_object_vanished_goes_on_to_be_served(live: Live, namespace: str) -> None:
    host = live.system.host(AGENT)
    forward = {"hostPort": 8082, "port": 80, "protocol": "TCP"}
    live.apply(network("lan", namespace), linux(live, "web", namespace, on("lan", portForwards=[forward])))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: page(host, "http://127.0.0.1:8082/") == PAGE, 120)
    # As by a restored database: no teardown of ours, the object is simply not there any more.
    live.system.stop(OPERATOR)
    live.system.stop(AGENT)
    live.kubectl("delete", "vpvm", "web", "-n", namespace, "--wait=false")
    live.kubectl("patch", "vpvm", "web", "-n", namespace, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    live.system.start_operator()
    start_qemu_agent(live)
    # Another one on the network: what it is to be is asked for anew, and web is not in it.
    live.apply(vm("other", namespace, root_disk(live.images.source("obedient.img")), interfaces=[on("lan")]))
    live.wait_ready("other", namespace)
    assert page(host, "http://127.0.0.1:8082/") == PAGE
    for pid in live.pids(machine):
        os.kill(pid, signal.SIGKILL)
    [disk] = machine["status"]["placement"]["disks"]
    # Nobody can know that the orphan has ended: a person takes the claim away.
    live.kubectl(
        "patch", "vpvol", disk["volumeName"], "-n", namespace, "--subresource=status", "--type=json",
        "-p", '[{"op":"remove","path":"/status/claim"}]',
    )  # fmt: skip


def test_a_machine_waits_for_its_network_and_a_network_for_its_machines(live: Live, namespace: str) -> None:
    live.apply(vm("early", namespace, root_disk(live.images.source("obedient.img")), interfaces=[on("later")]))
    waiting = live.wait_condition("vpvm", "early", namespace, "NetworkNotFound")
    assert f"there is no VirtualNetwork {namespace}/later" in condition(waiting, "Ready")["message"]
    live.apply(network("later", namespace, mode="Isolated"))
    live.wait_ready("early", namespace)
    live.kubectl("delete", "vpnet", "later", "-n", namespace, "--wait=false")
    live.apply(vm("late", namespace, root_disk(live.images.source("obedient.img")), interfaces=[on("later")]))
    live.wait_condition("vpvm", "late", namespace, "NetworkDeleting")
    assert live.exists("vpnet", "later", namespace)
    live.kubectl("delete", "vpvm", "early", "late", "-n", namespace, "--timeout=60s", timeout_s=90)
    eventually(lambda: not live.exists("vpnet", "later", namespace), 30)


@pytest.fixture
def no_tunnels(live: Live) -> Iterator[None]:
    """The agent is told of an address that its host has not got."""
    live.system.stop(AGENT)
    start_qemu_agent(live, AGENT, "--underlay-address", "192.0.2.99")
    name = f"{AGENT}-qemu"
    eventually(lambda: "Overlay" not in live.get("vphv", name)["status"]["networkModes"], 30)
    yield
    live.system.stop(AGENT)
    start_qemu_agent(live)
    eventually(lambda: "Overlay" in live.get("vphv", name)["status"]["networkModes"], 30)


@pytest.mark.usefixtures("no_tunnels")
def test_a_mode_that_no_hypervisor_has_is_said_plainly(live: Live, namespace: str) -> None:
    missing = live.get("vphv", f"{AGENT}-qemu")["status"]["missingCapabilities"]
    assert {
        "name": "NetworkOverlay",
        "message": "192.0.2.99 is no address of this host: name another one with --underlay-address",
    } in missing
    live.apply(network("wide", namespace, mode="Overlay"))
    nobody = live.wait_condition("vpnet", "wide", namespace, "NoHypervisor")
    assert "192.0.2.99 is no address of this host" in condition(nobody, "Ready")["message"]
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img")), interfaces=[on("wide")]))
    waiting = live.wait_condition("vpvm", "web", namespace, "NoHypervisorFits")
    assert "1 lacks network mode Overlay" in condition(waiting, "Ready")["message"]


def test_a_machine_is_not_placed_where_its_network_s_vlan_is_not_to_be_had(live: Live, namespace: str) -> None:
    live.apply(network("phones", namespace, mode="Bridge", ipv4=None, bridge={"name": BRIDGE, "vlan": 20}))
    live.wait_condition("vpnet", "phones", namespace, "NoHypervisor")
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img")), interfaces=[on("phones")]))
    waiting = live.wait_condition("vpvm", "web", namespace, "NoHypervisorFits")
    message = condition(waiting, "Ready")["message"]
    assert "1 lacks NetworkVLAN: " in message
    assert re.search("modprobe 8021q|--allow-bridge NAME:VLAN", message)


def test_two_networks_with_the_same_addresses_do_not_meet(live: Live, namespace: str) -> None:
    host = live.system.host(AGENT)
    for number in (1, 2):
        forward = {"hostPort": 8090 + number, "port": 80, "protocol": "TCP"}
        live.apply(
            network(f"lan-{number}", namespace),
            linux(live, f"web-{number}", namespace, on(f"lan-{number}", portForwards=[forward])),
        )
    machines = [live.wait_ready(f"web-{number}", namespace) for number in (1, 2)]
    for number, machine in enumerate(machines, 1):
        eventually(lambda: addresses(live, machine) == [claimed(machine)], 90)  # noqa: B023  # called at once
        eventually(lambda: page(host, f"http://127.0.0.1:{8090 + number}/") == PAGE, 30)  # noqa: B023


def test_what_is_applied_is_what_is_read_back(live: Live, namespace: str) -> None:
    mine = network("lan", namespace, mode="Isolated")
    live.apply(mine, vm("web", namespace, root_disk(live.images.source("obedient.img")), interfaces=[on("lan")]))
    live.wait_ready("web", namespace)
    live.kubectl("diff", "-f", "-", input=yaml.safe_dump(mine))


def test_a_guest_on_a_routed_network_is_reached_by_its_own_address_and_its_traffic_is_counted(
    live: Live, namespace: str
) -> None:
    host = live.system.host(AGENT)
    routed = network("routed", namespace, mode="Routed", ipv4={"cidr": "10.22.4.0/24"})
    live.apply(routed, linux(live, "web", namespace, on("routed")))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: page(host, f"http://{claimed(machine)}/") == PAGE, 120)

    def counted() -> dict[str, float]:
        return scraped(live.system, AGENT, namespace=namespace, name="web", interface="lan", network="routed")

    before = counted()
    assert before["interface_transmit_bytes_total"] > 0
    # Nobody in the guest listens there: what it answers is little, whatever it is sent.
    datagrams, payload = 200, bytes(1000)
    with host.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as flood:
        for _ in range(datagrams):
            flood.sendto(payload, (claimed(machine), 9))
    sent = datagrams * len(payload)
    eventually(lambda: counted()["interface_receive_bytes_total"] - before["interface_receive_bytes_total"] >= sent)
    assert counted()["interface_transmit_bytes_total"] - before["interface_transmit_bytes_total"] < sent / 2


def test_what_a_host_does_not_give_is_not_taken(live: Live, namespace: str) -> None:
    disk = root_disk(live.images.source("obedient.img"))
    live.apply(
        network("stolen", namespace, mode="Routed", ipv4={"cidr": "192.0.2.0/24"}),
        network("docker", namespace, mode="Bridge", ipv4=None, bridge={"name": "docker0"}),
        vm("thief", namespace, disk, interfaces=[on("stolen")]),
        vm("guest", namespace, disk, interfaces=[on("docker")]),
    )
    for network_name, name, missing in (
        ("stolen", "thief", f"routes no 192.0.2.0/24 for networks: {AGENT}-qemu (start its agent with --allow-routed"),
        ("docker", "guest", f"gives no bridge docker0 to networks: {AGENT}-qemu (start its agent with --allow-bridge"),
    ):
        for kind, one, reason in (("vpnet", network_name, "NoHypervisor"), ("vpvm", name, "NoHypervisorFits")):
            refused = live.wait_condition(kind, one, namespace, reason)
            assert missing in condition(refused, "Ready")["message"]
        assert "placement" not in refused["status"]
    assert "192.0.2." not in live.system.host(AGENT).run("ip", "route")


@pytest.fixture
def office(live: Live) -> Iterator[Namespace]:
    """A bridge of the host, with a DHCP server on it that is not ours."""
    host = live.system.host(AGENT)
    for command in (
        f"link add {BRIDGE} type bridge",
        f"link set {BRIDGE} up",
        f"address add 198.51.100.1/24 dev {BRIDGE}",
    ):
        host.run("ip", *command.split())
    argv = ["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={BRIDGE}", "--bind-interfaces"]
    argv += ["--leasefile-ro", "--pid-file", "--log-facility=/dev/null", "--dhcp-range=198.51.100.50,198.51.100.99"]
    server = subprocess.Popen(["nsenter", f"--net={host.path}", "--", "dnsmasq", *argv])
    yield host
    server.kill()
    server.wait()
    host.run("ip", "link", "delete", BRIDGE)


def test_a_guest_on_a_bridge_of_the_host_is_served_by_who_is_there(
    live: Live, namespace: str, office: Namespace
) -> None:
    live.apply(
        network("office", namespace, mode="Bridge", ipv4=None, bridge={"name": BRIDGE}),
        linux(live, "web", namespace, on("office")),
    )
    machine = live.wait_ready("web", namespace)
    eventually(lambda: len(addresses(live, machine)) == 1, 120)
    (address,) = addresses(live, machine)
    assert address.startswith("198.51.100.")
    eventually(lambda: page(office, f"http://{address}/") == PAGE, 30)
    assert BRIDGE in office.links()
    # Nobody told us: it is seen, and while the machine runs.
    eventually(lambda: live.kubectl("get", "vpvm", "web", "-n", namespace, "--no-headers").split()[5] == address, 30)
    live.set_power("web", namespace, "Stopped")
    assert "seenAddresses" not in live.wait_ready("web", namespace)["status"]["interfaces"][0]
    assert address not in live.kubectl("get", "vpvm", "web", "-n", namespace)
