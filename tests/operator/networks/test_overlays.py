"""Numbers, MTU and hosts of networks of mode Overlay: what is claimed when, and what stays."""

from typing import Any, cast

import pytest

from tests.operator.objects import claimed, condition, hypervisor, network, placed, vm
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.resources import HYPERVISORS, NETWORKS, VIRTUAL_MACHINES, Key, Object
from virtplane_api.overlay import MAX_VNI, MIN_VNI
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.networks.overlays import choose, facts_of, mtu_by
from virtplane_operator.runtime import Operator
from virtplane_operator.world import Store


class World:
    """Networks and Hypervisors in a store, and machines on them."""

    def __init__(self) -> None:
        self.store, self.claims = Store(), Claims()
        self.catalog = Catalog(self.store, self.claims)
        self.store.listen(self.claims.observe)
        self.store.listen(self.catalog.observe)
        self._version = 0

    def host(
        self, agent: str, address: str = "", mtu: int = 1500, *, driver: str = "qemu", ready: str = "True"
    ) -> None:
        """A Hypervisor with mode Overlay, where it has an address."""
        made = hypervisor(f"{agent}-{driver}", version=self._next())
        made["status"]["conditions"] = [condition("Ready", ready, "Running")]
        if address:
            made["status"] |= {"networkModes": ["Overlay"], "underlay": {"address": address, "mtu": mtu}}
        self.store.put(HYPERVISORS, made)

    def put(self, name: str, *, day: int = 1, status: dict[str, Any] | None = None, **spec: Any) -> Object:
        """A network that was made on a day of the month, or has another status now."""
        created = {"creationTimestamp": f"2026-11-{day:02}T00:00:00Z"}
        mode = {"mode": "Overlay"}
        made = network(name, version=self._next(), status=status, metadata=created, **(mode | spec))
        self.store.put(NETWORKS, made)
        return made

    def use(self, name: str, *hypervisors: str) -> None:
        """A machine on each of them."""
        for number, one in enumerate(hypervisors):
            row = claimed("lan", name, f"52:54:00:00:00:{number:02x}")
            machine = f"{name}-{number}"
            placement = placed(one, interfaces=[row])
            self.store.put(VIRTUAL_MACHINES, vm(machine, uid=machine, version=self._next(), placement=placement))

    def status(self, made: Object) -> dict[str, Any]:
        return self.catalog.overlays.status(made, made["spec"].get("mtu"))

    def claim(self, made: Object) -> Object:
        """The network as it is once its status was written."""
        written = made | {"status": self.status(made)}
        written["metadata"] = made["metadata"] | {"resourceVersion": str(self._next())}
        self.store.put(NETWORKS, written)
        return written

    def refusal(self, name: str) -> tuple[str, str]:
        """Reason and message; empty: it is served."""
        parsed = self.catalog.get(Key("shop", name))
        assert parsed is not None
        why = self.catalog.not_served(parsed)
        return (why.reason, why.message) if why is not None else ("", "")

    def _next(self) -> int:
        self._version += 1
        return self._version


@pytest.fixture
def world() -> World:
    return World()


# --- numbers ---


def test_a_number_is_chosen_by_the_uid_and_the_next_one_where_that_is_held() -> None:
    first = choose("a", {})
    assert MIN_VNI <= first <= MAX_VNI
    assert choose("a", {}) == first
    assert choose("a", {first: "b", first + 1: "c"}) == first + 2


def test_numbers_begin_anew_behind_the_last_one() -> None:
    first = choose("a", {})
    assert choose("a", dict.fromkeys(range(first, MAX_VNI + 1))) == MIN_VNI


def test_a_network_keeps_the_number_that_it_has_and_nobody_else_gets_it(world: World) -> None:
    taken = choose("young-uid", {})
    old = world.put("old", status={"vni": taken})
    young = world.put("young", day=2)
    assert (world.status(old)["vni"], world.status(young)["vni"]) == (taken, taken + 1)


def test_a_number_that_is_being_written_is_taken_already(world: World) -> None:
    first = world.put("first")
    number = world.status(first)["vni"]
    assert world.status(first)["vni"] == number
    world.put("second", day=2)
    assert choose("first-uid", world.catalog.overlays._holders) != number  # what others meet


def test_the_number_of_a_network_that_went_is_free(world: World) -> None:
    number = choose("young-uid", {})
    old = world.put("old", status={"vni": number})
    world.store.remove(NETWORKS, old)
    assert world.status(world.put("young"))["vni"] == number


def test_of_two_networks_with_one_number_the_younger_takes_another_while_nobody_is_on_it(world: World) -> None:
    old = world.put("old", day=1, status={"vni": 5000})
    young = world.put("young", day=2, status={"vni": 5000, "mtu": 1450})
    world.use("young", "host-a-qemu")
    assert world.status(young)["vni"] == 5000
    assert world.refusal("old") == ("", "")
    reason, message = world.refusal("young")
    assert reason == "VNIInUse"
    assert "its number 5000 is held by VirtualNetwork shop/old" in message

    for machine in list(world.store.all(VIRTUAL_MACHINES).values()):
        world.store.remove(VIRTUAL_MACHINES, machine)
    assert world.status(old)["vni"] == 5000
    assert world.status(young)["vni"] != 5000
    assert world.refusal("young") == ("", "")


# --- MTU ---


def test_the_mtu_is_what_the_least_of_all_ready_hosts_tunnels_takes(world: World) -> None:
    world.host("host-a", "192.0.2.11", 9000)
    world.host("host-b", "192.0.2.12", 1500)
    world.host("host-c", "192.0.2.13", 1400, ready="Unknown")
    world.host("host-d")
    assert world.status(world.put("lan"))["mtu"] == 1450


def test_an_underlay_of_ipv6_takes_twenty_bytes_more(world: World) -> None:
    world.host("host-a", "2001:db8::11", 1500)
    assert world.status(world.put("lan"))["mtu"] == 1430


def test_the_mtu_stays_from_the_first_machine_to_the_last(world: World) -> None:
    world.host("host-a", "192.0.2.11", 1500)
    lan = world.claim(world.put("lan"))
    world.host("host-a", "192.0.2.11", 9000)
    assert world.status(lan)["mtu"] == 8950  # nobody is on it
    world.use("lan", "host-a-qemu")
    assert world.status(lan)["mtu"] == 1450
    world.host("host-a", "192.0.2.11", 9000, ready="Unknown")
    assert world.status(lan)["mtu"] == 1450


def test_an_mtu_that_is_asked_for_is_given_if_it_fits(world: World) -> None:
    world.host("host-a", "192.0.2.11", 1500)
    assert world.status(world.put("lan", mtu=1400))["mtu"] == 1400
    world.put("jumbo", mtu=9000)
    reason, message = world.refusal("jumbo")
    assert reason == "NetworkInvalid"
    assert message.startswith("spec.mtu: 9000 does not fit into the tunnels of hypervisor host-a-qemu, which take 1450")
    world.host("host-a", "192.0.2.11", 9100)
    assert world.refusal("jumbo") == ("", "")
    assert world.status(world.put("jumbo", mtu=9000))["mtu"] == 9000


def test_without_a_host_that_has_the_mode_there_is_no_mtu_yet(world: World) -> None:
    world.host("host-a")
    lan = world.put("lan")
    assert "mtu" not in world.status(lan)
    parsed = world.catalog.parse(world.claim(lan))
    assert not parsed.is_numbered


@pytest.mark.parametrize(
    ("status", "mtu"),
    [
        ({}, 0),
        ({"networkModes": ["Overlay"]}, 0),
        ({"networkModes": ["NAT"], "underlay": {"address": "192.0.2.11", "mtu": 1500}}, 0),
        ({"networkModes": ["Overlay"], "underlay": {"address": "192.0.2.11", "mtu": 1500}}, 1450),
    ],
)
def test_a_host_has_tunnels_where_it_has_the_mode_and_says_what_it_goes_over(status: Object, mtu: int) -> None:
    assert mtu_by({"status": status}) == mtu


# --- hosts ---


def test_the_hosts_of_a_network_are_those_with_machines_on_it_once_each(world: World) -> None:
    world.host("host-b", "192.0.2.12")
    world.host("host-a", "192.0.2.11")
    world.host("host-a", "192.0.2.11", driver="lxc")
    world.host("host-c", "192.0.2.13")
    world.host("host-d")
    lan = world.put("lan")
    assert "peers" not in world.status(lan)
    world.use("lan", "host-b-qemu", "host-a-qemu", "host-a-lxc", "host-d-qemu", "gone-qemu")
    assert world.status(lan)["peers"] == [
        {"agentName": "host-a", "address": "192.0.2.11"},
        {"agentName": "host-b", "address": "192.0.2.12"},
    ]


def test_what_networks_follow_from_is_told_from_what_else_a_hypervisor_reports() -> None:
    before, after = hypervisor(), hypervisor(version=2, networks=[{"uid": "lan-uid", "state": "Ready"}])
    assert facts_of(before) == facts_of(after)
    after["status"]["underlay"] = {"address": "192.0.2.11", "mtu": 1500}
    assert facts_of(before) != facts_of(after)
    assert facts_of(None) != facts_of(before)


@pytest.mark.parametrize(
    ("mode", "host", "waits"),
    [
        ("Overlay", "host-b-qemu", False),
        ("Overlay", "host-a-qemu", True),
        ("NAT", "host-b-qemu", True),
    ],
)
async def test_the_others_hear_of_a_host_at_once_and_of_one_more_machine_in_a_while(
    mode: str, host: str, *, waits: bool
) -> None:
    client = cast("KubeClient", object())  # nothing is asked of it
    operator = Operator(client, system_namespace="virtplane-system", identity="test", cluster_id="cluster-1")
    status = {"used": 1, "hypervisors": [{"name": "host-a-qemu", "state": "Ready"}]}
    operator.store.put(NETWORKS, network("lan", mode=mode, status=status))
    loop = operator._loops[NETWORKS.plural]
    loop._queued.clear()  # of the network itself
    operator.store.put(VIRTUAL_MACHINES, vm(placement=placed(host, interfaces=[claimed()])))
    assert (Key("shop", "lan") in loop._timers, Key("shop", "lan") in loop._queued) == (waits, not waits)


async def test_a_network_is_counted_anew_when_a_guest_lets_go_long_after_its_placement_did() -> None:
    client = cast("KubeClient", object())  # nothing is asked of it
    operator = Operator(client, system_namespace="virtplane-system", identity="test", cluster_id="cluster-1")
    operator.store.put(NETWORKS, network("lan", status={"used": 1}))
    host = {"hypervisor": "host-a-qemu", "token": 8, "state": "Present"}
    given_up = placed(token=8, interfaces=[])
    kept, gone = (
        vm(version=version, placement=given_up, status={"host": host} | rows)
        for version, rows in ((101, {"interfaces": [claimed()]}), (102, {}))
    )
    operator.store.put(VIRTUAL_MACHINES, kept)
    loop = operator._loops[NETWORKS.plural]
    loop._queued.clear()
    loop._timers.clear()
    operator.store.put(VIRTUAL_MACHINES, gone)
    assert Key("shop", "lan") in loop._timers
