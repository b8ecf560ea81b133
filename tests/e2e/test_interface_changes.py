"""Interfaces of a real Linux that runs: added, removed, their cables pulled, ports of the host forwarded to them."""

from uuid import uuid4

from tests.cluster.guests.quickstart import PAGE
from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Namespace
from tests.e2e.conftest import AGENT, Live, Object, condition, finished, root_disk, start_qemu_agent, vm
from tests.e2e.test_actions import act
from tests.e2e.test_networks import linux, network, nothing_of_a_network_is_left, on, page

__all__ = ["nothing_of_a_network_is_left"]
FORWARD = {"portForwards": [{"hostPort": 8085, "port": 80, "protocol": "TCP"}]}
DMZ = {"name": "dmz", "networkName": "dmz"}


URL = "http://127.0.0.1:8085/"


def macs_in_guest(live: Live, namespace: str) -> set[str]:
    """Of all its adapters but the loopback."""
    name, command = f"look-{uuid4().hex}", {"command": ["sh", "-c", "cat /sys/class/net/*/address"]}
    live.apply(act(name, namespace, "GuestCommand", guestCommand=command))
    result = finished(live, name, namespace)["status"].get("guestCommand", {})
    return {*result.get("stdout", "").split()} - {"00:00:00:00:00:00"}


def macs(machine: Object) -> set[str]:
    return {row["macAddress"] for row in machine["status"]["placement"].get("interfaces", ())}


def router(live: Live, name: str, namespace: str) -> Namespace:
    uid = live.get("vpnet", name, namespace)["metadata"]["uid"]
    return Namespace(next(live.system.directory.rglob(f"netns/{uid}")))


def test_a_running_guest_gets_loses_and_is_reached_by_interfaces(live: Live, namespace: str) -> None:
    host = live.system.host(AGENT)

    def changed(*interfaces: Object) -> Object:
        live.apply(linux(live, "web", namespace, *interfaces))
        return live.wait_ready("web", namespace)

    live.apply(network("lan", namespace), network("dmz", namespace, mode="Isolated", ipv4={"cidr": "10.30.0.0/24"}))
    started = changed(on("lan"))
    eventually(lambda: macs_in_guest(live, namespace) == macs(started), 120)
    assert page(host, URL) == ""

    changed(on("lan", **FORWARD))
    eventually(lambda: page(host, URL) == PAGE, 120)

    both = changed(on("lan", **FORWARD), DMZ)
    assert len(macs(both)) == 2
    assert macs(started) < macs(both)
    eventually(lambda: macs_in_guest(live, namespace) == macs(both), 30)
    assert [row["networkName"] for row in both["status"]["interfaces"]] == ["lan", "dmz"]

    changed(on("lan", linkState="Down", bandwidth={"ingress": "10M", "egress": "5M"}, **FORWARD), DMZ)
    assert page(host, URL) == ""
    eventually(lambda: router(live, "lan", namespace).run("tc", "qdisc").count(" tbf ") == 2, 20)
    # The agent ends, is asked for more meanwhile, and comes again.
    live.system.stop(AGENT, grace_s=0)
    live.apply(linux(live, "web", namespace, on("lan", **FORWARD)))
    start_qemu_agent(live)
    last = live.wait_ready("web", namespace)
    eventually(lambda: macs_in_guest(live, namespace) == macs(started), 30)
    eventually(lambda: page(host, URL) == PAGE, 30)
    assert " tbf " not in router(live, "lan", namespace).run("tc", "qdisc")
    assert [row["networkName"] for row in last["status"]["interfaces"]] == ["lan"]
    live.kubectl("delete", "vpnet", "dmz", "-n", namespace, "--timeout=30s", timeout_s=60)

    changed(on("lan"))
    eventually(lambda: page(host, URL) == "", 30)
    # Another name and another MAC, and the address that it has.
    [address] = started["status"]["placement"]["interfaces"][0]["ipAddresses"]
    last = changed({"name": "net0", "networkName": "lan", "ipAddresses": [address]})
    assert macs(last).isdisjoint(macs(started))
    eventually(lambda: macs_in_guest(live, namespace) == macs(last), 30)
    last = live.wait_ready("web", namespace)
    assert [(row["name"], row["ipAddresses"]) for row in last["status"]["interfaces"]] == [("net0", [address])]
    assert last["status"]["startTime"] == started["status"]["startTime"]
    assert "pendingChanges" not in last["status"]


def test_an_address_of_an_adapter_that_a_guest_keeps_is_given_to_nobody(live: Live, namespace: str) -> None:
    wanted, disk = on("lan", ipAddresses=["10.20.0.77"]), root_disk(live.images.source("obedient.img"))
    live.apply(network("lan", namespace), vm("old", namespace, disk, interfaces=[wanted]))
    live.wait_ready("old", namespace)
    live.apply(vm("old", namespace, disk))
    old = live.wait_ready("old", namespace)
    assert "interfaces" not in old["status"]["placement"]
    assert [row["field"] for row in old["status"]["pendingChanges"]] == ["spec.interfaces[lan]"]
    assert old["status"]["interfaces"][0]["ipAddresses"] == ["10.20.0.77"]

    live.apply(vm("new", namespace, disk, interfaces=[wanted]))
    waiting = live.wait_condition("vpvm", "new", namespace, "AddressInUse")
    assert f"10.20.0.77 is held by VirtualMachine {namespace}/old" in condition(waiting, "Ready")["message"]
    live.apply(vm("old", namespace, disk, restartedAt="2030-01-01T00:00:00Z"))
    live.wait_ready("new", namespace)
    assert "interfaces" not in live.wait_ready("old", namespace)["status"]


def test_machines_that_swap_their_addresses_have_each_other_s_once_one_is_stopped(live: Live, namespace: str) -> None:
    disk = root_disk(live.images.source("obedient.img"))

    def ask(web: str, db: str) -> None:
        asked = {"web": web, "db": db}
        live.apply(*(vm(name, namespace, disk, interfaces=[on("lan", ipAddresses=[asked[name]])]) for name in asked))

    def have() -> list[list[str]]:
        """What each guest may use, as its agent says."""
        machines = [live.get("vpvm", name, namespace) for name in ("web", "db")]
        return [machine["status"]["interfaces"][0]["ipAddresses"] for machine in machines]

    live.apply(network("lan", namespace))
    ask("10.20.0.77", "10.20.0.78")
    live.wait_ready("web", namespace)
    live.wait_ready("db", namespace)
    ask("10.20.0.78", "10.20.0.77")
    waiting = live.wait_condition("vpvm", "web", namespace, "AddressInUse")
    assert "and this machine wait for each other's addresses: stop one" in condition(waiting, "Ready")["message"]
    assert have() == [["10.20.0.77"], ["10.20.0.78"]]
    live.set_power("web", namespace, "Stopped")
    eventually(lambda: have() == [["10.20.0.78"], ["10.20.0.77"]], 60)
    live.set_power("web", namespace, "Running")
    live.wait_ready("web", namespace)
    live.wait_ready("db", namespace)
