"""Networks as their users meet them: the operator as a process on the real API server, hosts by hand."""

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.identities import Identities
from tests.cluster.system import OPERATOR, SYSTEM_NAMESPACE, System
from tests.cluster.waiting import eventually
from tests.operator.networks.scripted_host import ScriptedHost

Object = dict[str, Any]
LAN = {"name": "lan", "networkName": "lan"}
FORWARD = {"portForwards": [{"hostPort": 8080, "port": 80, "protocol": "TCP"}]}
UNDERLAY = {"address": "192.0.2.11", "mtu": 1500}
OPERATOR_USER = f"system:serviceaccount:{SYSTEM_NAMESPACE}:virtplane-operator"


@pytest.fixture(scope="module")
def system(installed: ControlPlane) -> Iterator[System]:
    """A running operator."""
    with System(lambda folder: Identities(installed.kubectl, folder, SYSTEM_NAMESPACE)) as running:
        running.start_operator()
        yield running
    installed.kubectl("delete", "leases", "-n", SYSTEM_NAMESPACE, "--all")


class Cluster:
    """A namespace with a host, and how a user speaks to it."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self.kubectl = control_plane.kubectl
        self.agent = f"host-{namespace.rpartition('-')[2]}"
        self.host = ScriptedHost(control_plane, self.agent)

    def apply(self, *objects: Object) -> None:
        self.kubectl("apply", "-n", self.namespace, "-f", "-", input=yaml.safe_dump_all(objects))

    def vm(self, name: str, *interfaces: Object, **spec: Any) -> Object:
        """A machine that may run on this test's host only."""
        body: Object = {"powerState": "Running", "cpu": {"cores": 1}, "memory": {"size": "32Mi"}}
        body |= {"interfaces": list(interfaces), "scheduling": {"hypervisorName": self.host.name}}
        return {"apiVersion": "virtplane.dev/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": name},
                "spec": body | spec}  # fmt: skip

    def network(self, name: str = "lan", cidr: str = "10.20.0.0/24", mode: str = "NAT") -> Object:
        spec = {"mode": mode, "ipv4": {"cidr": cidr}}
        return {"apiVersion": "virtplane.dev/v1alpha1", "kind": "VirtualNetwork", "metadata": {"name": name},
                "spec": spec}  # fmt: skip

    def get(self, kind: str, name: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, name, "-n", self.namespace, "-o", "json"))
        return found

    def delete(self, kind: str, name: str) -> None:
        self.kubectl("delete", kind, name, "-n", self.namespace, "--wait=false")

    def wait_placed(self, name: str) -> Object:
        eventually(lambda: bool(self.get("vpvm", name)["status"].get("placement", {}).get("hypervisor")))
        return self.get("vpvm", name)

    def wait_reason(self, kind: str, name: str, reason: str) -> str:
        """The message of Ready, once it has the reason."""
        eventually(lambda: self.ready(kind, name).get("reason") == reason)
        return str(self.ready(kind, name)["message"])

    def wait_event(self, name: str, reason: str) -> None:
        told = ("get", "events", "-n", self.namespace, "-o", "name")
        chosen = ("--field-selector", f"involvedObject.name={name},reason={reason}")
        eventually(lambda: bool(self.kubectl(*told, *chosen).strip()))

    def wait_used(self, used: int) -> Object:
        eventually(lambda: self.get("vpnet", "lan")["status"].get("used") == used)
        status: Object = self.get("vpnet", "lan")["status"]
        return status

    def ready(self, kind: str, name: str) -> Object:
        conditions = self.get(kind, name)["status"].get("conditions", [])
        return next((one for one in conditions if one["type"] == "Ready"), {})

    def end_machine(self, name: str) -> None:
        """Delete it, and say as its agent that nothing of it is left."""
        machine = self.get("vpvm", name)
        self.delete("vpvm", name)
        self.host.remove(machine)
        self.kubectl("wait", "--for=delete", f"vpvm/{name}", "-n", self.namespace, "--timeout=20s")

    def uid(self, network: str) -> str:
        return str(self.get("vpnet", network)["metadata"]["uid"])

    def operator_writes(self, resource: str, name: str) -> int:
        """How often the operator wrote an object, by the API server's audit log."""
        return sum(
            event["user"]["username"] == OPERATOR_USER
            and event["verb"] not in ("get", "list", "watch")
            and event["objectRef"].get("resource") == resource
            and event["objectRef"].get("namespace") == self.namespace
            and event["objectRef"].get("name") == name
            for event in self.control_plane.audit_events()
            if "objectRef" in event
        )


@pytest.fixture
def cluster(installed: ControlPlane, system: System, namespace: str) -> Iterator[Cluster]:
    assert OPERATOR in system.pids
    running = Cluster(installed, namespace)
    yield running
    running.host.end(namespace)


def test_a_machine_is_placed_with_its_addresses_in_one_write_and_its_network_counts_it(cluster: Cluster) -> None:
    cluster.apply(cluster.network(), cluster.vm("web", LAN | {"ipAddresses": ["10.20.0.9"]}))
    machine = cluster.wait_placed("web")
    [row] = machine["status"]["placement"]["interfaces"]
    uid = cluster.uid("lan")
    assert (row["networkUID"], row["networkName"], row["ipAddresses"]) == (uid, "lan", ["10.20.0.9"])
    assert row["macAddress"].startswith("52:54:00:")
    assert cluster.operator_writes("virtualmachines", "web") == 1
    status = cluster.wait_used(1)
    assert (status["free"], status["hypervisorCount"]) == (252, 1)
    assert cluster.ready("vpnet", "lan")["reason"] == "NetworkNotReady"

    cluster.host.serves(uid, state="Failed", reason="ForwardingBlocked", message="chain FORWARD drops its packets")
    assert "chain FORWARD drops its packets" in cluster.wait_reason("vpnet", "lan", "ForwardingBlocked")
    cluster.host.serves(uid)
    cluster.wait_reason("vpnet", "lan", "Served")


def test_a_machine_waits_for_its_network_and_goes_on_when_it_comes(cluster: Cluster) -> None:
    cluster.apply(cluster.vm("web", LAN))
    message = cluster.wait_reason("vpvm", "web", "NetworkNotFound")
    assert message.startswith(f"spec.interfaces[0].networkName: there is no VirtualNetwork {cluster.namespace}/lan")
    cluster.apply(cluster.network())
    cluster.wait_placed("web")
    assert cluster.wait_reason("vpnet", "lan", "NetworkNotReady")


def test_an_address_goes_to_one_machine_and_to_the_next_when_that_one_is_gone(cluster: Cluster) -> None:
    asked = LAN | {"ipAddresses": ["10.20.0.9"]}
    cluster.apply(cluster.network(), cluster.vm("web", asked))
    cluster.wait_placed("web")
    cluster.apply(cluster.vm("db", asked))
    message = cluster.wait_reason("vpvm", "db", "AddressInUse")
    assert message == f"spec.interfaces[0].ipAddresses: 10.20.0.9 is held by VirtualMachine {cluster.namespace}/web"
    cluster.end_machine("web")
    assert cluster.wait_placed("db")["status"]["placement"]["interfaces"][0]["ipAddresses"] == ["10.20.0.9"]


def test_a_restarted_operator_knows_what_is_claimed(cluster: Cluster, system: System) -> None:
    cluster.apply(cluster.network(cidr="10.20.0.0/30"), cluster.vm("web", LAN))
    cluster.wait_placed("web")
    system.stop(OPERATOR)
    cluster.apply(cluster.vm("db", LAN))
    system.start_operator()
    assert "all 1 IPv4 addresses" in cluster.wait_reason("vpvm", "db", "AddressesExhausted")
    cluster.end_machine("web")
    assert cluster.wait_placed("db")["status"]["placement"]["interfaces"][0]["ipAddresses"] == ["10.20.0.2"]


def test_a_machine_goes_where_its_mode_and_its_host_ports_are_to_be_had(cluster: Cluster) -> None:
    cluster.apply(cluster.network("mesh", "10.30.0.0/24", "Overlay"), cluster.network())
    cluster.apply(cluster.vm("far", {"name": "a", "networkName": "mesh"}), cluster.vm("web", LAN | FORWARD))
    assert "1 lacks network mode Overlay" in cluster.wait_reason("vpvm", "far", "NoHypervisorFits")
    cluster.wait_placed("web")
    cluster.apply(cluster.vm("web2", LAN | FORWARD))
    message = cluster.wait_reason("vpvm", "web2", "NoHypervisorFits")
    assert f"1 has host port 8080/TCP in use by {cluster.namespace}/web" in message
    cluster.host.report(networkModes=["NAT", "Overlay"], underlay=UNDERLAY)
    cluster.wait_placed("far")
    cluster.end_machine("web")
    cluster.wait_placed("web2")


def test_a_machine_goes_only_where_its_network_is_given_and_a_network_that_nobody_gives_says_so(
    cluster: Cluster,
) -> None:
    cluster.host.report(networkModes=["Bridge", "Routed"], hostNetworks=[{"name": "br-dmz"}], routedCIDRs=[])
    office = cluster.network("office", mode="Bridge")
    office["spec"] = {"mode": "Bridge", "bridge": {"name": "br-lan", "vlan": 20}}
    cluster.apply(office, cluster.network("lan", "10.22.4.0/24", "Routed"))
    not_given = "0 of 1 hypervisor fits: 1 gives no VLAN 20 of bridge br-lan to networks: "
    not_given += f"{cluster.host.name} (start its agent with --allow-bridge br-lan:20)"
    assert cluster.wait_reason("vpnet", "office", "NoHypervisor") == not_given
    not_routed = f"1 routes no 10.22.4.0/24 for networks: {cluster.host.name} "
    assert not_routed in cluster.wait_reason("vpnet", "lan", "NoHypervisor")

    cluster.apply(cluster.vm("phone", {"name": "a", "networkName": "office"}), cluster.vm("web", LAN))
    for machine, said in {"phone": not_given, "web": not_routed}.items():
        assert said in cluster.wait_reason("vpvm", machine, "NoHypervisorFits")
    vlans = {"first": 10, "last": 29}
    cluster.host.report(hostNetworks=[{"name": "br-lan", "vlans": vlans}], routedCIDRs=["10.22.0.0/16"])
    cluster.wait_placed("phone")
    cluster.wait_placed("web")
    # Its agent was started again with less: who is there stays, nobody else comes.
    cluster.host.report(hostNetworks=[], routedCIDRs=[])
    cluster.apply(cluster.vm("web2", LAN))
    assert not_routed in cluster.wait_reason("vpvm", "web2", "NoHypervisorFits")
    assert cluster.get("vpvm", "web")["status"]["placement"]["hypervisor"] == cluster.host.name
    # An older agent says nothing of it.
    cluster.host.report(hostNetworks=None, routedCIDRs=None)
    cluster.wait_placed("web2")


def test_a_machine_goes_to_a_host_that_has_the_bridge_once_one_has_it(cluster: Cluster) -> None:
    why = "bridge br-lan does not exist on the host: make it"
    row = {"name": "br-lan"}
    cluster.host.report(networkModes=["Bridge"], hostNetworks=[row | {"missing": why}])
    office = cluster.network("office", mode="Bridge")
    office["spec"] = {"mode": "Bridge", "bridge": row}
    cluster.apply(office, cluster.vm("web", {"name": "a", "networkName": "office"}))
    said = f"1 cannot join bridge br-lan now: {cluster.host.name} ({why})"
    assert cluster.wait_reason("vpnet", "office", "NoHypervisor") == f"0 of 1 hypervisor fits: {said}"
    assert said in cluster.wait_reason("vpvm", "web", "NoHypervisorFits")
    cluster.host.report(hostNetworks=[row])
    cluster.wait_placed("web")
    # Who is there stays, as its guest may run on.
    cluster.host.report(hostNetworks=[row | {"missing": why}])
    cluster.apply(cluster.vm("web2", {"name": "a", "networkName": "office"}))
    assert said in cluster.wait_reason("vpvm", "web2", "NoHypervisorFits")
    assert cluster.get("vpvm", "web")["status"]["placement"]["hypervisor"] == cluster.host.name


def test_a_hypervisor_with_as_many_networks_as_it_can_have_gets_machines_of_no_other_one(cluster: Cluster) -> None:
    cluster.apply(cluster.network(), cluster.network("dmz", "10.23.0.0/24"), cluster.vm("web", LAN))
    cluster.wait_placed("web")
    # Others came first: its agent makes no room for a network that it cannot report.
    others = [f"00000000-0000-4000-8000-{number:012}" for number in range(256)]
    cluster.host.serves(*others)
    full = "it has 256 networks, as many as a hypervisor can have, and this one is none of them"
    assert full in cluster.wait_reason("vpnet", "lan", "TooManyNetworks")
    cluster.apply(cluster.vm("mail", {"name": "a", "networkName": "dmz"}))
    said = f"1 has as many networks as it can have (256): {cluster.host.name}"
    assert said in cluster.wait_reason("vpvm", "mail", "NoHypervisorFits")
    cluster.host.serves(cluster.uid("lan"), *others[1:])
    cluster.wait_reason("vpnet", "lan", "Served")
    cluster.apply(cluster.vm("web2", LAN))
    cluster.wait_placed("web2")
    cluster.host.serves(cluster.uid("lan"), *others[2:])
    cluster.wait_placed("mail")


def test_a_network_stays_until_its_last_machine_and_its_last_host_have_left_it(cluster: Cluster) -> None:
    cluster.apply(cluster.network(), cluster.vm("web", LAN))
    cluster.wait_placed("web")
    cluster.host.serves(cluster.uid("lan"))
    cluster.delete("vpnet", "lan")

    def notes() -> str:
        return cluster.kubectl(
            "get", "events.events.k8s.io", "-n", cluster.namespace, "-o", "jsonpath={.items[*].note}"
        )

    machine = f"deletion waits for 1 machine: {cluster.namespace}/web and 1 hypervisor: {cluster.host.name}"
    eventually(lambda: machine in notes())
    assert cluster.wait_reason("vpnet", "lan", "InUse") == machine
    cluster.apply(cluster.vm("late", LAN))
    cluster.wait_reason("vpvm", "late", "NetworkDeleting")
    cluster.end_machine("web")
    eventually(lambda: f"deletion waits for 1 hypervisor: {cluster.host.name}" in notes())
    assert cluster.get("vpnet", "lan")["metadata"]["finalizers"] == ["virtplane.dev/network-in-use"]
    cluster.host.report(networks=[])
    cluster.kubectl("wait", "--for=delete", "vpnet/lan", "-n", cluster.namespace, "--timeout=20s")

    cluster.apply(cluster.network())
    assert cluster.wait_placed("late")["status"]["placement"]["interfaces"][0]["networkUID"] == cluster.uid("lan")


def test_of_two_routed_networks_the_younger_waits_for_the_older_to_go(cluster: Cluster) -> None:
    # As a user, not in one apply: which is the older counts by the second.
    cluster.apply(cluster.network("a-older", "10.77.0.0/16", "Routed"))
    cluster.apply(cluster.network("lan", "10.77.1.0/24", "Routed"), cluster.vm("web", LAN))
    assert f"{cluster.namespace}/a-older" in cluster.wait_reason("vpnet", "lan", "NetworksOverlap")
    cluster.wait_reason("vpvm", "web", "NetworksOverlap")
    cluster.delete("vpnet", "a-older")
    cluster.wait_placed("web")
    cluster.wait_reason("vpnet", "lan", "NetworkNotReady")


def test_of_two_machines_that_two_operators_gave_one_address_the_younger_is_told(cluster: Cluster) -> None:
    cluster.apply(cluster.network(), cluster.vm("web", LAN | {"ipAddresses": ["10.20.0.9"]}))
    placement = cluster.wait_placed("web")["status"]["placement"]
    # By a host that is not there it stays without a place, until another operator than ours has placed it.
    cluster.apply(cluster.vm("db", LAN, scheduling={"hypervisorName": "nowhere"}))
    cluster.wait_reason("vpvm", "db", "NoHypervisorFits")
    mac = {"macAddress": "52:54:00:00:00:0d"}
    given = placement | {"interfaces": [placement["interfaces"][0] | mac]}
    patch = json.dumps({"status": {"placement": given}})
    cluster.kubectl("patch", "vpvm", "db", "-n", cluster.namespace, "--subresource=status", "--type=merge", "-p", patch)

    def placed() -> Object:
        conditions = cluster.get("vpvm", "db")["status"]["conditions"]
        return next(one for one in conditions if one["type"] == "Placed")

    eventually(lambda: placed()["reason"] == "AddressInUse")
    told = f"10.20.0.9 is held by VirtualMachine {cluster.namespace}/web as well"
    assert placed()["status"] == "True"
    assert told in placed()["message"]
    assert not any(one["reason"] == "AddressInUse" for one in cluster.get("vpvm", "web")["status"]["conditions"])
    cluster.end_machine("web")
    eventually(lambda: placed()["reason"] == "Placed")


@pytest.mark.parametrize("machines", [60])
def test_many_machines_at_once_are_a_few_writes_of_their_network_and_none_at_rest(
    cluster: Cluster, machines: int
) -> None:
    cluster.apply(cluster.network())
    cluster.host.serves(cluster.uid("lan"))
    began = time.monotonic()
    cluster.apply(*(cluster.vm(f"vm-{number:02}", LAN) for number in range(machines)))
    status = cluster.wait_used(machines)
    took_s = time.monotonic() - began
    assert status["free"] == 253 - machines
    rows = json.loads(cluster.kubectl("get", "vpvm", "-n", cluster.namespace, "-o", "json"))["items"]
    claimed = [row["status"]["placement"]["interfaces"][0] for row in rows]
    assert len({row["ipAddresses"][0] for row in claimed}) == len({row["macAddress"] for row in claimed}) == machines
    # One when it was made, one with the first machine, and then one each 5 s.
    writes = cluster.operator_writes("virtualnetworks", "lan")
    assert writes <= 2 + math.ceil(took_s / 5)
    settled(cluster, lambda: cluster.operator_writes("virtualnetworks", "lan"))


def settled(cluster: Cluster, figure: Callable[[], int]) -> None:
    """The figure does not change while the operator's Lease is renewed: twice as long as anything is put off."""

    def renewed() -> str:
        lease = ("get", "lease", "virtplane-operator", "-n", SYSTEM_NAMESPACE)
        return cluster.kubectl(*lease, "-o", "jsonpath={.spec.renewTime}")

    before, times = figure(), {renewed()}

    def twice() -> bool:
        times.add(renewed())
        return len(times) == 3

    eventually(twice, 40)
    assert figure() == before


def test_an_overlay_has_its_number_and_its_mtu_before_the_first_machine_comes_in_one_write(cluster: Cluster) -> None:
    cluster.host.report(networkModes=["Overlay"], underlay=UNDERLAY)
    cluster.apply(cluster.network(mode="Overlay"), cluster.vm("web", LAN))
    cluster.wait_placed("web")
    status = cluster.wait_used(1)
    assert (status["mtu"], status["peers"]) == (1450, [{"agentName": cluster.agent, "address": "192.0.2.11"}])
    assert 4096 <= status["vni"] < 1 << 24
    # The network's first status, and the machine on it. The chart puts the finalizer on at creation.
    assert cluster.operator_writes("virtualnetworks", "lan") <= 2
    assert cluster.operator_writes("virtualmachines", "web") == 1
    vni = status["vni"]

    cluster.host.report(underlay=UNDERLAY | {"address": "192.0.2.12", "mtu": 9000})
    eventually(lambda: cluster.get("vpnet", "lan")["status"]["peers"][0]["address"] == "192.0.2.12")
    cluster.end_machine("web")
    status = cluster.wait_used(0)
    eventually(lambda: cluster.get("vpnet", "lan")["status"]["mtu"] == 8950)
    assert "peers" not in cluster.get("vpnet", "lan")["status"]
    assert status["vni"] == vni

    # Tunnels of less: nobody lacks what the network takes from now on.
    written = cluster.operator_writes("virtualnetworks", "lan")
    cluster.host.report(underlay=UNDERLAY | {"mtu": 1400})
    eventually(lambda: cluster.get("vpnet", "lan")["status"]["mtu"] == 1350)
    assert cluster.get("vpnet", "lan")["status"]["conditions"][0]["reason"] == "NoMachines"
    assert cluster.operator_writes("virtualnetworks", "lan") == written + 1


def test_a_host_that_comes_later_with_smaller_tunnels_gets_no_machine_of_the_network(cluster: Cluster) -> None:
    cluster.host.report(networkModes=["Overlay"], underlay=UNDERLAY)
    cluster.apply(cluster.network(mode="Overlay"), cluster.vm("web", LAN))
    cluster.wait_placed("web")
    cluster.host.report(underlay=UNDERLAY | {"mtu": 1400})
    cluster.apply(cluster.vm("late", LAN))
    assert "1 lacks tunnels of MTU 1450" in cluster.wait_reason("vpvm", "late", "NoHypervisorFits")


def test_a_host_that_is_new_to_an_overlay_becomes_a_peer_of_the_others(cluster: Cluster) -> None:
    second = ScriptedHost(cluster.control_plane, f"{cluster.agent}-b", modes=["Overlay"])
    second.report(underlay=UNDERLAY | {"address": "192.0.2.12"})
    cluster.host.report(networkModes=["Overlay"], underlay=UNDERLAY)
    cluster.apply(cluster.network(mode="Overlay"), cluster.vm("web", LAN))
    cluster.wait_used(1)
    cluster.apply(cluster.vm("db", LAN, scheduling={"hypervisorName": second.name}))

    def peers() -> list[str]:
        return [peer["address"] for peer in cluster.get("vpnet", "lan")["status"]["peers"]]

    eventually(lambda: peers() == ["192.0.2.11", "192.0.2.12"])
    second.end(cluster.namespace)


# --- interfaces that change -------------------------------------------------------------------------------------------


def placed_rows(machine: Object) -> list[Object]:
    rows: list[Object] = machine["status"]["placement"].get("interfaces", [])
    return rows


def test_interfaces_of_a_placed_machine_change_in_one_write_under_a_greater_token(cluster: Cluster) -> None:
    cluster.apply(cluster.network(), cluster.network("dmz", "10.30.0.0/24"), cluster.vm("web", LAN))
    before = cluster.wait_placed("web")
    writes = cluster.operator_writes("virtualmachines", "web")
    cluster.apply(cluster.vm("web", LAN | FORWARD, {"name": "dmz", "networkName": "dmz"}))
    # Its agent may have joined what it has not told of: it is asked for nothing else before it has spoken.
    cluster.apply(cluster.vm("db", LAN))
    cluster.wait_placed("db")
    assert cluster.get("vpvm", "web")["status"]["placement"] == before["status"]["placement"]
    cluster.host.says(before, interfaces=placed_rows(before))
    eventually(lambda: len(placed_rows(cluster.get("vpvm", "web"))) == 2)
    after = cluster.get("vpvm", "web")
    assert cluster.operator_writes("virtualmachines", "web") == writes + 1
    assert after["status"]["placement"]["token"] == before["status"]["placement"]["token"] + 1
    assert placed_rows(after)[0] == placed_rows(before)[0] | FORWARD
    assert placed_rows(after)[1]["ipAddresses"][0].startswith("10.30.0.")


def test_a_given_up_address_is_another_s_once_the_agent_says_that_the_guest_has_it_no_more(cluster: Cluster) -> None:
    wanted = LAN | {"ipAddresses": ["10.20.0.9"]}
    cluster.apply(cluster.network(), cluster.vm("web", wanted))
    machine = cluster.wait_placed("web")
    cluster.host.says(machine, interfaces=placed_rows(machine))
    cluster.apply(cluster.vm("web"))
    eventually(lambda: placed_rows(cluster.get("vpvm", "web")) == [])
    cluster.apply(cluster.vm("db", wanted))
    message = cluster.wait_reason("vpvm", "db", "AddressInUse")
    assert f"10.20.0.9 is held by VirtualMachine {cluster.namespace}/web" in message
    cluster.host.says(cluster.get("vpvm", "web"), interfaces=placed_rows(machine))
    assert not cluster.get("vpvm", "db")["status"].get("placement")
    cluster.host.says(cluster.get("vpvm", "web"), interfaces=[])
    cluster.wait_placed("db")


def test_what_was_given_up_and_never_reported_is_free_once_the_agent_has_heard_of_it(cluster: Cluster) -> None:
    nine, ten = (LAN | {"ipAddresses": [f"10.20.0.{number}"]} for number in (9, 10))
    cluster.apply(cluster.network(), cluster.network("wan", "10.21.0.0/24"))
    cluster.apply(cluster.vm("web", nine, {"name": "wan", "networkName": "wan"}))
    cluster.host.says(cluster.wait_placed("web"))
    cluster.apply(cluster.vm("db", nine))
    cluster.wait_reason("vpvm", "db", "AddressInUse")
    # The agent, which may be plugging both in this moment, has reported neither.
    cluster.apply(cluster.vm("web", ten))
    eventually(lambda: len(placed_rows(cluster.get("vpvm", "web"))) == 1)
    cluster.delete("vpnet", "wan")
    cluster.wait_event("wan", "InUse")
    cluster.host.says(cluster.get("vpvm", "web"))
    cluster.kubectl("wait", "--for=delete", "vpnet/wan", "-n", cluster.namespace, "--timeout=20s")
    [row] = placed_rows(cluster.wait_placed("db"))
    assert row["ipAddresses"] == ["10.20.0.9"]


def test_a_change_that_cannot_be_had_is_said_and_comes_when_it_can(cluster: Cluster) -> None:
    cluster.apply(cluster.network(), cluster.vm("web", LAN | FORWARD), cluster.vm("db", LAN))
    before = cluster.wait_placed("db")
    for machine in before, cluster.wait_placed("web"):
        cluster.host.says(machine, interfaces=placed_rows(machine))
    cluster.apply(cluster.vm("db", LAN | FORWARD))

    def placed() -> Object:
        conditions = cluster.get("vpvm", "db")["status"]["conditions"]
        return next(one for one in conditions if one["type"] == "Placed")

    eventually(lambda: placed()["reason"] == "HostPortInUse")
    assert "spec.interfaces is not in effect: " in placed()["message"]
    assert f"8080/TCP of its host is held by VirtualMachine {cluster.namespace}/web" in placed()["message"]
    assert cluster.get("vpvm", "db")["status"]["placement"] == before["status"]["placement"]
    cluster.apply(cluster.vm("web", LAN))
    eventually(lambda: placed_rows(cluster.get("vpvm", "db"))[0].get("portForwards") == FORWARD["portForwards"])
    eventually(lambda: placed()["reason"] == "Placed")


def test_machines_that_swap_their_addresses_wait_until_one_is_stopped_and_never_both_have_one(
    cluster: Cluster, system: System
) -> None:
    def asking(nine: str, ten: str, **web: Any) -> list[Object]:
        wanted = {"web": LAN | {"ipAddresses": [nine]}, "db": LAN | {"ipAddresses": [ten]}}
        return [cluster.vm("web", wanted["web"], **web), cluster.vm("db", wanted["db"])]

    def in_use() -> dict[str, set[str]]:
        """By each guest, as far as anybody can know; never one address by both."""
        found = {}
        for name in ("web", "db"):
            machine = cluster.get("vpvm", name)
            rows = [*placed_rows(machine), *machine["status"].get("interfaces", [])]
            found[name] = {text for row in rows for text in row["ipAddresses"]}
        assert not found["web"] & found["db"]
        return found

    def told(name: str) -> str:
        conditions = cluster.get("vpvm", name)["status"]["conditions"]
        return next(str(one["message"]) for one in conditions if one["type"] == "Placed")

    def agent_follows() -> bool:
        """It takes up what is placed, and says so; whether both have what they ask for."""
        for name in ("web", "db"):
            machine = cluster.get("vpvm", name)
            if machine["status"]["host"]["token"] != machine["status"]["placement"]["token"]:
                cluster.host.says(machine, interfaces=placed_rows(machine))
        return in_use() == {"web": {"10.20.0.10"}, "db": {"10.20.0.9"}}

    cluster.apply(cluster.network(), *asking("10.20.0.9", "10.20.0.10"))
    for name in ("web", "db"):
        machine = cluster.wait_placed(name)
        cluster.host.says(machine, interfaces=placed_rows(machine), powerState="Running")
    before = in_use()
    cluster.apply(*asking("10.20.0.10", "10.20.0.9"))
    each_other = "and this machine wait for each other's addresses: stop one of them"
    eventually(lambda: each_other in told("web") and each_other in told("db"))
    assert f"10.20.0.10 is held by VirtualMachine {cluster.namespace}/db; " in told("web")
    assert in_use() == before
    settled(cluster, lambda: sum(cluster.operator_writes("virtualmachines", name) for name in ("web", "db")))

    cluster.apply(*asking("10.20.0.10", "10.20.0.9", powerState="Stopped"))
    cluster.host.says(cluster.get("vpvm", "web"), powerState="Stopped")
    # It gives way. Before its agent has heard of that nobody has what it gave up, for another operator either.
    eventually(lambda: placed_rows(cluster.get("vpvm", "web"))[0]["ipAddresses"] != ["10.20.0.9"])
    system.stop(OPERATOR)
    system.start_operator()
    eventually(lambda: "10.20.0.9 is held by VirtualMachine" in told("db") and "wait for each other" not in told("db"))
    assert len(in_use()["web"]) == 2
    assert in_use()["db"] == {"10.20.0.10"}
    eventually(agent_follows)
    eventually(lambda: all(" wait" not in told(name) and "held" not in told(name) for name in ("web", "db")))
