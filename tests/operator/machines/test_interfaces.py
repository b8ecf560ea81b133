"""What a machine's interfaces need before it can have a place, and what is claimed for them."""

import re
from typing import Any

import pytest

from tests.operator.objects import DELETED_AT, claimed, network, placed, store_of, vm
from virtplane_api.kube.resources import NETWORKS, VIRTUAL_MACHINES, Object
from virtplane_operator.machines.disks import Blocked
from virtplane_operator.machines.interfaces import (
    InterfacePlan,
    host_ports_of,
    network_capabilities_of,
    plan_interfaces,
)
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.placement import HostPort
from virtplane_operator.world import Store

CLUSTER = "cluster-1"
LAN = {"name": "lan", "networkName": "lan"}
WAN = {"name": "wan", "networkName": "wan"}
MAC = "52:54:00:00:00:01"
TINY = {"cidr": "10.20.0.0/30"}
"""One address for machines, 10.20.0.2."""
SMALL = {"cidr": "10.20.0.0/29"}
V6 = {"cidr": "fd00:20::/64"}
FORWARD = {"portForwards": [{"hostPort": 8080, "port": 80, "protocol": "TCP"}]}
DELETED = {"deletionTimestamp": DELETED_AT}
EXCLUDED = [{"start": "10.20.0.4", "end": "10.20.0.7"}]


class World:
    """A store with all that listens to it."""

    def __init__(self, *objects: Object) -> None:
        self.store = Store()
        self.claims = Claims()
        self.catalog = Catalog(self.store, self.claims)
        self.store.listen(self.claims.observe)
        self.store.listen(self.catalog.observe)
        for obj in objects:
            self.store.put(NETWORKS if obj["kind"] == "VirtualNetwork" else VIRTUAL_MACHINES, obj)

    def plan(self, machine: Object) -> tuple[InterfacePlan, ...] | Blocked:
        return plan_interfaces(self.catalog, self.claims, CLUSTER, machine)

    def placed(self, machine: Object) -> list[dict[str, Any]]:
        plans = self.plan(machine)
        assert not isinstance(plans, Blocked), plans.message
        return [plan.placed for plan in plans]


def other(*ips: str, mac: str = MAC, name: str = "db", network: str = "lan") -> Object:
    """A placed machine that holds these."""
    return vm(name, uid=f"{name}-uid", placement=placed(interfaces=[claimed("lan", network, mac, *ips)]))


def test_a_machine_without_interfaces_needs_nothing() -> None:
    assert World().plan(vm()) == ()


def test_an_interface_gets_a_mac_address_and_one_address_of_each_family() -> None:
    world = World(network(ipv4=SMALL, ipv6=V6))
    [row] = world.placed(vm(interfaces=[LAN]))
    assert (row["name"], row["networkName"], row["networkUID"]) == ("lan", "lan", "lan-uid")
    assert row["macAddress"].startswith("52:54:00:")
    ipv4, ipv6 = row["ipAddresses"]
    assert ipv4 in [f"10.20.0.{last}" for last in range(2, 7)]
    assert ipv6.startswith(("fd00:20::", "fd00:20:0:0:"))


def test_a_bridge_of_unknown_addresses_gets_a_mac_address_alone() -> None:
    world = World(network(mode="Bridge", bridge={"name": "br-lan"}))
    [row] = world.placed(vm(interfaces=[LAN]))
    assert "ipAddresses" not in row


def test_a_bridge_whose_addresses_nobody_tells_has_them_claimed() -> None:
    """Shown as any other claim: the guest is set up by hand with what it says."""
    subnet = SMALL | {"addressing": "Static"}
    world = World(network(mode="Bridge", bridge={"name": "br-lan"}, ipv4=subnet))
    [row] = world.placed(vm(interfaces=[LAN]))
    assert len(row["ipAddresses"]) == 1


def test_a_machine_that_is_made_again_gets_what_it_had() -> None:
    world = World(network(ipv6=V6, ipv4=SMALL))
    assert world.placed(vm(interfaces=[LAN])) == world.placed(vm(uid="vm-2", interfaces=[LAN]))


def test_machines_of_other_names_get_other_addresses() -> None:
    world = World(network())
    rows = [world.placed(vm(name, interfaces=[LAN]))[0] for name in ("web", "db", "ci")]
    assert len({row["macAddress"] for row in rows}) == 3
    assert len({row["ipAddresses"][0] for row in rows}) == 3


def test_what_is_asked_for_is_claimed_and_the_rest_chosen() -> None:
    world = World(network(ipv4=SMALL, ipv6=V6))
    asked = LAN | {"macAddress": "52:54:00:ab:cd:ef", "ipAddresses": ["fd00:20::9"]}
    [row] = world.placed(vm(interfaces=[asked]))
    assert row["macAddress"] == "52:54:00:ab:cd:ef"
    assert [":" in address for address in row["ipAddresses"]] == [False, True]
    assert row["ipAddresses"][1] == "fd00:20::9"


def test_what_another_machine_holds_is_not_chosen() -> None:
    machine = vm(interfaces=[LAN])
    [first] = World(network(ipv4=SMALL)).placed(machine)
    world = World(network(ipv4=SMALL), other(*first["ipAddresses"], mac=first["macAddress"]))
    [row] = world.placed(machine)
    assert row["ipAddresses"] != first["ipAddresses"]
    assert row["macAddress"] != first["macAddress"]


def test_what_another_network_holds_may_be_chosen() -> None:
    machine = vm(interfaces=[LAN])
    [first] = World(network(ipv4=SMALL)).placed(machine)
    world = World(network(ipv4=SMALL), other(*first["ipAddresses"], mac=first["macAddress"], network="wan"))
    assert world.placed(machine) == [first]


def test_an_interface_takes_nothing_that_a_later_one_of_the_machine_asks_for() -> None:
    two = {"cidr": "10.20.0.0/29", "excludedRanges": EXCLUDED}
    for asked in ("10.20.0.2", "10.20.0.3"):
        rows = World(network(ipv4=two)).placed(vm(interfaces=[LAN, LAN | {"name": "b", "ipAddresses": [asked]}]))
        assert sorted(row["ipAddresses"][0] for row in rows) == ["10.20.0.2", "10.20.0.3"]
        assert rows[1]["ipAddresses"] == [asked]


def test_two_interfaces_of_a_machine_never_get_the_same() -> None:
    rows = World(network(ipv4=SMALL)).placed(vm(interfaces=[LAN | {"name": f"n{index}"} for index in range(5)]))
    assert len({row["ipAddresses"][0] for row in rows}) == len({row["macAddress"] for row in rows}) == 5


def test_addresses_that_a_machine_holds_stay_with_it_whatever_became_of_the_network_s_spec() -> None:
    mine = claimed("lan", "lan", MAC, "10.20.0.5")
    machine = vm(placement={"token": 3, "interfaces": [mine]}, interfaces=[LAN])
    assert World(network(ipv4=SMALL | {"excludedRanges": EXCLUDED}), machine).placed(machine) == [mine]


def test_in_a_network_made_again_under_its_name_a_machine_gets_new_addresses() -> None:
    machine = vm(placement={"token": 3, "interfaces": [claimed("lan", "lan", MAC, "10.99.0.5")]}, interfaces=[LAN])
    [row] = World(network(uid="new-uid", ipv4=TINY), machine).placed(machine)
    assert (row["networkUID"], row["ipAddresses"]) == ("new-uid", ["10.20.0.2"])


def test_ports_of_the_host_are_gathered_from_all_interfaces() -> None:
    forwards = [{"hostPort": 8080, "port": 80, "protocol": "TCP"}, {"hostPort": 53000, "port": 53, "protocol": "UDP"}]
    machine = vm(interfaces=[LAN | {"portForwards": forwards[:1]}, WAN | {"portForwards": forwards[1:]}])
    assert host_ports_of(machine) == {HostPort(8080, "TCP"), HostPort(53000, "UDP")}


@pytest.mark.parametrize("mode", ["Routed", "Isolated", "Bridge"])
def test_ports_are_not_forwarded_by_the_others(mode: str) -> None:
    assert World(network(mode=mode)).plan(vm(interfaces=[LAN | FORWARD])) == Blocked(
        "ForwardNotPossible",
        f"spec.interfaces[0].portForwards: VirtualNetwork lan is of mode {mode}, which forwards no ports; "
        "NAT, Overlay and User do",
    )


@pytest.mark.parametrize("mode", ["NAT", "Overlay", "User"])
def test_ports_are_forwarded_by_the_modes_that_can(mode: str) -> None:
    assert World(network(mode=mode)).placed(vm(interfaces=[LAN | FORWARD]))


# --- what is missing --------------------------------------------------------------------------------------------------

NAME, IPS = "spec.interfaces[0].networkName", "spec.interfaces[0].ipAddresses"
BROADCAST_GATEWAY = "spec.ipv4.gateway: 10.20.0.7 is the broadcast address of 10.20.0.0/29; take another one"
APART = "the guest could not tell them apart; make another machine with one of them"
OVERLAPPED = f"lan (10.20.0.0/24) of spec.interfaces[0]: {APART}"
ALL_HELD = "all 1 IPv4 addresses of VirtualNetwork lan (10.20.0.0/30) are held; the machine waits until one is free"

BLOCKED: list[tuple[str, list[dict[str, Any]], list[Object], str, str]] = [
    ("no such network", [LAN], [], "NetworkNotFound",
     f"{NAME}: there is no VirtualNetwork shop/lan; the machine waits for it"),
    ("a network of another namespace", [LAN], [network(metadata={"namespace": "lab"})], "NetworkNotFound",
     f"{NAME}: there is no VirtualNetwork shop/lan; the machine waits for it"),
    ("a network that is being deleted", [LAN], [network(metadata=DELETED)], "NetworkDeleting",
     f"{NAME}: VirtualNetwork lan is being deleted; the machine waits for another of its name"),
    ("a network that contradicts itself", [LAN], [network(ipv4=SMALL | {"gateway": "10.20.0.7"})], "NetworkInvalid",
     f"{NAME}: VirtualNetwork lan: {BROADCAST_GATEWAY}"),
    ("outside", [LAN | {"ipAddresses": ["10.30.0.9"]}], [network()], "AddressNotInNetwork",
     f"{IPS}: 10.30.0.9 is not in 10.20.0.0/24 of VirtualNetwork lan"),
    ("the network's own", [LAN | {"ipAddresses": ["10.20.0.0"]}], [network()], "AddressNotInNetwork",
     f"{IPS}: 10.20.0.0 is the address of the network 10.20.0.0/24 itself"),
    ("the broadcast address", [LAN | {"ipAddresses": ["10.20.0.255"]}], [network()], "AddressNotInNetwork",
     f"{IPS}: 10.20.0.255 is the broadcast address of 10.20.0.0/24"),
    ("the router's anycast address", [LAN | {"ipAddresses": ["fd00:20::"]}], [network(ipv6=V6)], "AddressNotInNetwork",
     f"{IPS}: fd00:20:: is the address of the network fd00:20::/64 itself"),
    ("the gateway's", [LAN | {"ipAddresses": ["10.20.0.1"]}], [network()], "AddressInUse",
     f"{IPS}: 10.20.0.1 is the gateway of VirtualNetwork lan"),
    ("excluded", [LAN | {"ipAddresses": ["10.20.0.5"]}], [network(ipv4=SMALL | {"excludedRanges": EXCLUDED})],
     "AddressExcluded", f"{IPS}: 10.20.0.5 is excluded by excludedRanges of VirtualNetwork lan"),
    ("held by another", [LAN | {"ipAddresses": ["10.20.0.9"]}], [network(), other("10.20.0.9")], "AddressInUse",
     f"{IPS}: 10.20.0.9 is held by VirtualMachine shop/db"),
    ("asked for twice", [LAN | {"ipAddresses": ["10.20.0.9"]}, LAN | {"name": "b", "ipAddresses": ["10.20.0.9"]}],
     [network()], "AddressInUse",
     "spec.interfaces[1].ipAddresses: 10.20.0.9 is asked for by spec.interfaces[0] too"),
    ("a family that the network has not", [LAN | {"ipAddresses": ["fd00::9"]}], [network()], "AddressNotInNetwork",
     f"{IPS}: VirtualNetwork lan has no IPv6 addresses, so not fd00::9 either"),
    ("an address of a bridge of unknown ones", [LAN | {"ipAddresses": ["10.20.0.9"]}],
     [network(mode="Bridge", bridge={"name": "br-lan"})], "AddressNotInNetwork",
     f"{IPS}: VirtualNetwork lan has no IPv4 addresses, so not 10.20.0.9 either"),
    ("a MAC address that is held", [LAN | {"macAddress": MAC}], [network(), other("10.20.0.9")], "MacAddressInUse",
     f"spec.interfaces[0].macAddress: {MAC} is held by VirtualMachine shop/db in network lan"),
    ("all held", [LAN], [network(ipv4=TINY), other("10.20.0.2")], "AddressesExhausted",
     f"{NAME}: {ALL_HELD}"),
    ("one left for two interfaces", [LAN, LAN | {"name": "b"}], [network(ipv4=TINY)], "AddressesExhausted",
     f"spec.interfaces[1].networkName: {ALL_HELD}"),
    ("two networks that overlap", [LAN, WAN], [network(), network("wan", ipv4={"cidr": "10.20.0.0/16"})],
     "NetworksOverlap",
     f"spec.interfaces[1].networkName: VirtualNetwork wan (10.20.0.0/16) overlaps {OVERLAPPED}"),
    ("one host port twice", [LAN | FORWARD, WAN | FORWARD], [network(), network("wan", ipv4={"cidr": "10.30.0.0/16"})],
     "HostPortInUse",
     "spec.interfaces[1].portForwards: host port 8080/TCP is asked for by spec.interfaces[0] too"),
    ("queues of a model that has one", [LAN | {"model": "e1000e", "queues": 2}], [network()], "NotSupported",
     "spec.interfaces[0].queues: model e1000e has one pair of queues; use model virtio, or leave queues out"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("interfaces", "others", "reason", "message"), [row[1:] for row in BLOCKED], ids=[row[0] for row in BLOCKED]
)
def test_what_is_missing_is_said_with_the_path_of_what_names_it(
    interfaces: list[dict[str, Any]], others: list[Object], reason: str, message: str
) -> None:
    assert World(*others).plan(vm(interfaces=interfaces)) == Blocked(reason, message)


def test_a_machine_s_own_claims_are_no_hindrance_to_it() -> None:
    asked = LAN | {"ipAddresses": ["10.20.0.9"], "macAddress": MAC}
    mine = claimed("lan", "lan", MAC, "10.20.0.9")
    machine = vm(placement={"token": 3, "interfaces": [mine]}, interfaces=[asked])
    assert World(network(), machine).placed(machine) == [mine]


SLAAC = {"cidr": "fd00:20::/64", "addressing": "SLAAC"}
DENY_FRONT = {
    "rules": [{"name": "x", "direction": "Ingress", "action": "Deny", "peers": {"matchLabels": {"role": "front"}}}]
}


def test_of_a_family_that_machines_choose_in_nothing_is_claimed() -> None:
    world = World(network(ipv4={"cidr": "10.20.0.0/24"}, ipv6=SLAAC), network("alone", ipv6=SLAAC))
    [row] = world.placed(vm(interfaces=[LAN]))
    assert [address.count(":") for address in row["ipAddresses"]] == [0]
    [row] = world.placed(vm(interfaces=[{"name": "lan", "networkName": "alone"}]))
    assert "ipAddresses" not in row


@pytest.mark.parametrize(
    ("addresses", "machine", "reason", "message"),
    [
        (
            {"ipv6": SLAAC},
            {"interfaces": [LAN | {"ipAddresses": ["fd00:20::9"]}]},
            "AddressNotClaimed",
            r"spec.interfaces\[0\].ipAddresses: machines choose .* of VirtualNetwork lan \(SLAAC\), so that fd00",
        ),
        (
            {"ipv4": {"cidr": "10.20.0.0/24"}, "ipv6": SLAAC},
            {"interfaces": [LAN], "firewall": DENY_FRONT},
            "FirewallNotPossible",
            r"spec.firewall.rules\[0\].peers: .* \(SLAAC\)",
        ),
        (
            {"ipv6": SLAAC},
            {"interfaces": [LAN | FORWARD]},
            "ForwardNotPossible",
            r"spec.interfaces\[0\].portForwards: VirtualNetwork lan has IPv6 by SLAAC alone",
        ),
    ],
)
def test_what_takes_a_known_address_is_not_to_be_had_where_machines_choose(
    addresses: dict[str, Any], machine: dict[str, Any], reason: str, message: str
) -> None:
    blocked = World(network(**addresses)).plan(vm(**machine))
    assert isinstance(blocked, Blocked)
    assert blocked.reason == reason
    assert re.match(message, blocked.message)
    known: dict[str, Any] = {family: {"cidr": subnet["cidr"]} for family, subnet in addresses.items()}
    assert not isinstance(World(network(**known)).plan(vm(**machine)), Blocked)


def test_a_port_leads_to_the_ipv4_address_of_a_machine_that_chose_its_other_one() -> None:
    world = World(network(ipv4={"cidr": "10.20.0.0/24"}, ipv6=SLAAC))
    assert not isinstance(world.plan(vm(interfaces=[LAN | FORWARD])), Blocked)


OFFICE = {"mode": "Bridge", "bridge": {"name": "br-lan"}}
PHONES = {"mode": "Bridge", "bridge": {"name": "br-lan", "vlan": 20}}
WALL: dict[str, Any] = {"defaults": {"ingress": "Deny"}}


@pytest.mark.parametrize(
    ("networks", "machines", "needed"),
    [
        ({}, {}, set()),
        (OFFICE, {}, set()),
        (PHONES, {}, {"NetworkVLAN"}),
        ({"firewall": WALL}, {}, {"NetworkFirewall"}),
        (PHONES | {"firewall": WALL}, {}, {"NetworkFirewall", "NetworkVLAN"}),
        (OFFICE, {"firewall": {}}, {"NetworkFirewall"}),
        ({"firewall": WALL}, {"interfaces": []}, set()),
        ({}, {"firewall": WALL, "interfaces": []}, set()),
    ],
)
def test_a_machine_needs_of_its_host_what_its_networks_and_its_own_firewall_need(
    networks: dict[str, Any], machines: dict[str, Any], needed: set[str]
) -> None:
    machine = vm(**({"interfaces": [LAN]} | machines))
    plans = World(network(**networks)).plan(machine)
    assert not isinstance(plans, Blocked)
    assert network_capabilities_of(machine, plans) == needed


def test_two_interfaces_may_be_on_one_network() -> None:
    assert len(World(network()).placed(vm(interfaces=[LAN, LAN | {"name": "b"}]))) == 2


def test_a_machine_of_a_routed_network_waits_while_an_older_one_has_its_addresses() -> None:
    older = network("old", mode="Routed", ipv4={"cidr": "10.20.0.0/16"}, metadata={"namespace": "lab"})
    younger = network(mode="Routed", metadata={"creationTimestamp": "2026-11-25T00:00:00Z"})
    blocked = World(older, younger).plan(vm(interfaces=[LAN]))
    assert isinstance(blocked, Blocked)
    assert blocked.reason == "NetworksOverlap"
    assert blocked.message == (
        f"{NAME}: VirtualNetwork lan: its addresses 10.20.0.0/24 overlap 10.20.0.0/16 of VirtualNetwork lab/old, which "
        "was there before, and the routes of both are the hosts'; change the cidr of one of them"
    )


def test_the_store_is_all_that_is_read() -> None:
    store = store_of(network())
    assert not isinstance(plan_interfaces(Catalog(store, Claims()), Claims(), CLUSTER, vm(interfaces=[LAN])), Blocked)
