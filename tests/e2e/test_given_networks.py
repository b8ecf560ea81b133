"""Two hosts that give different things to networks: machines go where theirs are to be had, and stay there."""

from collections.abc import Iterator

import pytest

from tests.cluster.guest_processes import guest_processes
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, BRIDGE, Live, Object, condition, start_qemu_agent, vm

OTHER = "host-b"
PHONES = "br-phones"
ROUTED = "10.23.0.0/16"
GIVES_MORE = ("--allow-bridge", PHONES, "--allow-routed", ROUTED)


def network(name: str, namespace: str, **spec: object) -> Object:
    kind = {"apiVersion": "virtplane.dev/v1alpha1", "kind": "VirtualNetwork"}
    return kind | {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def machine(name: str, namespace: str, network_name: str) -> Object:
    return vm(name, namespace, interfaces=[{"name": "lan", "networkName": network_name}])


def place_of(live: Live, name: str, namespace: str) -> str:
    return str(live.get("vpvm", name, namespace)["status"]["placement"]["hypervisor"])


def start_other(live: Live, *flags: str) -> None:
    """The second host's agent, until its Hypervisor says what it gives now."""
    live.system.stop(OTHER) if OTHER in live.system.pids else None
    start_qemu_agent(live, OTHER, *flags)
    bridges = sorted({BRIDGE, *flags} & {BRIDGE, PHONES})
    cidrs = sorted({"10.22.0.0/16", *flags} & {"10.22.0.0/16", ROUTED})

    def said() -> bool:
        status = live.get("vphv", f"{OTHER}-qemu")["status"]
        rows = status.get("hostNetworks", ())
        # The bridge of the other tests is on no host here.
        is_there = {row["name"] for row in rows if "missing" not in row} == {*bridges} - {BRIDGE}
        return is_there and ([row["name"] for row in rows], status.get("routedCIDRs")) == (bridges, cidrs)

    eventually(said, 30)


@pytest.fixture
def hosts(live: Live, namespace: str) -> Iterator[Live]:
    """A second host, which has a bridge, and gives that and addresses that the first one does not give."""
    start_qemu_agent(live, OTHER, *GIVES_MORE)
    eventually(lambda: live.kubectl("get", "vphv", f"{OTHER}-qemu", "--ignore-not-found", "-o", "name") != "", 30)
    host = live.system.host(OTHER)
    host.ip("link", "add", PHONES, "type", "bridge")
    host.ip("link", "set", PHONES, "up")
    start_other(live, *GIVES_MORE)
    yield live
    live.kubectl("delete", "vpvm", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)
    live.kubectl("delete", "vpnet", "--all", "-n", namespace, "--timeout=60s", timeout_s=90)
    live.system.stop(OTHER)
    host.ip("link", "delete", PHONES)
    live.kubectl("delete", "vphv", f"{OTHER}-qemu", "--wait=false")


def test_machines_go_to_the_host_that_gives_what_their_network_takes_and_stay_when_it_gives_that_no_more(
    hosts: Live, namespace: str
) -> None:
    hosts.apply(
        network("phones", namespace, mode="Bridge", bridge={"name": PHONES}),
        network("lab", namespace, mode="Routed", ipv4={"cidr": "10.23.4.0/24"}),
        network("nowhere", namespace, mode="Bridge", bridge={"name": "br-none"}),
        *(machine(name, namespace, "phones") for name in ("one", "two")),
        machine("three", namespace, "lab"),
    )
    nobody = hosts.wait_condition("vpnet", "nowhere", namespace, "NoHypervisor")
    assert (
        f"2 give no bridge br-none to networks: {AGENT}-qemu, {OTHER}-qemu (start the agent of one with --allow-bridge "
        "br-none)"
    ) in condition(nobody, "Ready")["message"]
    # The first host is as good, by all else that is looked at, and becomes better with each of them.
    machines = [hosts.wait_ready(name, namespace) for name in ("one", "two", "three")]
    assert {place_of(hosts, name, namespace) for name in ("one", "two", "three")} == {f"{OTHER}-qemu"}

    def pids() -> list[list[int]]:
        folder = hosts.system.state_folder(OTHER) / "qemu"
        return [guest_processes(folder / one["metadata"]["uid"]) for one in machines]

    before = pids()
    assert [len(found) for found in before] == [1, 1, 1]
    start_other(hosts)
    hosts.wait_condition("vpnet", "phones", namespace, "NetworkNotAllowed")
    hosts.apply(machine("late", namespace, "phones"), machine("later", namespace, "lab"))
    for name, missing in {"late": f"2 give no bridge {PHONES} to", "later": "2 route no 10.23.4.0/24 for"}.items():
        waiting = hosts.wait_condition("vpvm", name, namespace, "NoHypervisorFits")
        assert missing in condition(waiting, "Ready")["message"]
    assert pids() == before
    assert {place_of(hosts, name, namespace) for name in ("one", "two", "three")} == {f"{OTHER}-qemu"}

    start_other(hosts, *GIVES_MORE)
    for name in ("late", "later"):
        hosts.wait_ready(name, namespace)
        assert place_of(hosts, name, namespace) == f"{OTHER}-qemu"
    assert pids() == before


def test_a_machine_that_runs_on_a_network_that_is_given_no_more_gets_another_interface_and_keeps_that_one(
    hosts: Live, namespace: str
) -> None:
    on_phones = {"name": "lan", "networkName": "phones"}
    spare = {"name": "spare", "networkName": "spare"}

    def asks_for(*interfaces: Object) -> Object:
        hosts.apply(vm("one", namespace, interfaces=list(interfaces)))
        return hosts.wait_ready("one", namespace)

    hosts.apply(
        network("phones", namespace, mode="Bridge", bridge={"name": PHONES}),
        network("spare", namespace, mode="Isolated", ipv4={"cidr": "10.40.0.0/24"}),
    )
    started = asks_for(on_phones)
    assert place_of(hosts, "one", namespace) == f"{OTHER}-qemu"
    start_other(hosts)
    hosts.wait_condition("vpnet", "phones", namespace, "NetworkNotAllowed")

    both = asks_for(on_phones, spare)
    assert [row["name"] for row in both["status"]["interfaces"]] == ["lan", "spare"]
    assert (both["status"]["startTime"], "pendingChanges" in both["status"]) == (started["status"]["startTime"], False)

    def says() -> str:
        return str(condition(hosts.get("vpvm", "one", namespace), "Ready")["message"])

    eventually(lambda: says() != "", 30)
    assert says().startswith(f"interface lan on {OTHER}-qemu: the host does not give its bridge {PHONES} to networks")
    # The guest has both: each by a tap that its network serves.
    for name in ("phones", "spare"):
        assert hosts.taps(name, namespace)
    start_other(hosts, *GIVES_MORE)
    eventually(lambda: says() == "", 30)
