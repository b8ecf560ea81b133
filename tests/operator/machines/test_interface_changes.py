"""Another spec.interfaces of a machine that has its place: one placement, or what is in its way."""

from typing import Any

import pytest

from tests.operator.machines.test_interfaces import CLUSTER, DELETED, FORWARD, LAN, MAC, SMALL, WAN, World, other
from tests.operator.objects import claimed, hypervisor, network, placed, vm
from virtplane_api.kube.resources import HYPERVISORS, VIRTUAL_MACHINES, Object
from virtplane_operator.machines.disks import Blocked
from virtplane_operator.machines.interface_changes import interface_change

ROW = claimed("lan", "lan", MAC, "10.20.0.9")
HELD_PORT = {"name": "other", "networkName": "lan"} | FORWARD


def changed(
    world: World,
    *interfaces: Object,
    has: list[Object] | None = None,
    hypervisor_status: Any = None,
    **status: Any,
) -> Any:
    """The next placement's interfaces of a machine that has `has`; a word and a message; or None."""
    seen = hypervisor_status or {"networkModes": ["NAT", "Isolated"]}
    world.store.put(HYPERVISORS, hypervisor() | {"status": seen})
    rows = [ROW] if has is None else has
    machine = vm(interfaces=interfaces, placement=placed(token=7, interfaces=rows, disks=["as before"]), status=status)
    world.store.put(VIRTUAL_MACHINES, machine)
    change = interface_change(world.store, world.catalog, world.claims, CLUSTER, machine)
    if change is None:
        return None
    if isinstance(change, Blocked):
        return str(change.reason), change.message
    assert (change.placement["token"], change.placement["disks"]) == (8, ["as before"])
    assert change.placement["hypervisor"] == "host-a-qemu"
    return change.placement.get("interfaces", [])


def world(*objects: Object) -> World:
    return World(network(), network("wan", ipv4={"cidr": "10.30.0.0/24"}), *objects)


@pytest.mark.parametrize(
    "asked",
    [
        LAN,
        LAN | {"macAddress": MAC},
        LAN | {"ipAddresses": ["10.20.0.9"]},
        LAN | {"linkState": "Down", "bandwidth": {"ingress": "1M"}, "model": "e1000e", "queues": 1, "bootOrder": 2},
    ],
    ids=["as it is", "its MAC address", "its IP address", "what takes no claim"],
)
def test_what_the_placement_has_changes_nothing(asked: Object) -> None:
    assert changed(world(), asked) is None


def test_a_machine_without_interfaces_has_nothing_to_change() -> None:
    assert changed(world(), has=[]) is None


def test_a_new_interface_is_claimed_beside_what_is_kept() -> None:
    rows = changed(world(), LAN, WAN)
    assert rows[0] == ROW
    assert (rows[1]["name"], rows[1]["networkUID"]) == ("wan", "wan-uid")
    assert rows[1]["ipAddresses"][0].startswith("10.30.0.")


def test_an_interface_that_goes_takes_its_claims_along() -> None:
    assert changed(world(), WAN, has=[ROW, claimed("wan", "wan", "52:54:00:00:00:02", "10.30.0.2")]) == [
        claimed("wan", "wan", "52:54:00:00:00:02", "10.30.0.2")
    ]
    assert changed(world()) == []


def test_an_interface_that_moves_gets_addresses_there() -> None:
    [row] = changed(world(), LAN | {"networkName": "wan"})
    assert (row["name"], row["networkUID"]) == ("lan", "wan-uid")
    assert row["ipAddresses"][0].startswith("10.30.0.")


def test_a_network_of_the_name_that_was_made_anew_is_not_the_one_that_the_machine_is_on() -> None:
    assert changed(World(network(uid="another-uid")), LAN) is None


def test_forwarded_ports_are_part_of_the_placement() -> None:
    assert changed(world(), LAN | FORWARD) == [ROW | FORWARD]
    assert changed(world(), LAN, has=[ROW | FORWARD]) == [ROW]
    assert changed(world(), LAN | FORWARD, has=[ROW | FORWARD]) is None


def test_another_address_takes_the_place_of_the_one_of_its_family() -> None:
    dual = World(network(ipv4={"cidr": "10.20.0.0/24"}, ipv6={"cidr": "fd00:20::/64"}))
    row = claimed("lan", "lan", MAC, "10.20.0.9", "fd00:20::9")
    assert changed(dual, LAN | {"ipAddresses": ["10.20.0.10"]}, has=[row]) == [
        row | {"ipAddresses": ["10.20.0.10", "fd00:20::9"]}
    ]


def test_a_change_beside_an_interface_whose_network_is_being_deleted_is_had() -> None:
    ending = World(network(metadata=DELETED), network("wan", ipv4={"cidr": "10.30.0.0/24"}))
    assert [row["name"] for row in changed(ending, LAN, WAN)] == ["lan", "wan"]
    assert changed(ending, WAN, LAN | {"name": "again"}, has=[])[0] == "NetworkDeleting"


def test_the_order_follows_the_spec() -> None:
    rows = [ROW, claimed("wan", "wan", "52:54:00:00:00:02", "10.30.0.2")]
    assert changed(world(), WAN, LAN, has=rows) == rows[::-1]


@pytest.mark.parametrize(
    ("asked", "objects", "reason", "words"),
    [
        (LAN | {"ipAddresses": ["10.20.0.5"]}, [other("10.20.0.5")], "AddressInUse", "held by VirtualMachine shop/db"),
        (LAN | {"ipAddresses": ["10.99.0.5"]}, [], "AddressNotInNetwork", "10.99.0.5 is not in 10.20.0.0/24"),
        (LAN | {"macAddress": "52:54:00:00:00:77"}, [], "MacAddressKept", f"the interface has {MAC} and keeps it"),
        (LAN | {"networkName": "none"}, [], "NetworkNotFound", "there is no VirtualNetwork shop/none"),
        (LAN | {"networkName": "far"}, [network("far", mode="Routed", ipv4=SMALL)], "NicNotAttachable",
         "VirtualNetwork far is of mode Routed, which host-a-qemu has not"),
        (LAN | FORWARD, [vm("db", uid="db-uid", placement=placed(interfaces=[claimed("x", "wan") | FORWARD]))],
         "HostPortInUse", "host port 8080/TCP of its host is held by VirtualMachine shop/db"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_said_and_no_part_of_the_change_is(
    asked: Object, objects: list[Object], reason: str, words: str
) -> None:
    found = changed(world(*objects), asked, WAN)
    assert found[0] == reason
    assert words in found[1]


@pytest.mark.parametrize(
    ("claims", "underlay_mtu", "reason", "words"),
    [
        (
            {"vni": 5000, "mtu": 1450},
            1400,
            "NicNotAttachable",
            "has tunnels of MTU 1450, and those of host-a-qemu take 1350",
        ),
        ({}, 1500, "NetworkNotReady", "VirtualNetwork wide has no number and MTU of its tunnels yet"),
        ({"vni": 5000, "mtu": 1450}, 1500, "", ""),
    ],
    ids=["smaller tunnels", "not numbered yet", "as large"],
)
def test_an_overlay_comes_to_a_placed_machine_only_where_its_host_s_tunnels_fit(
    claims: Object, underlay_mtu: int, reason: str, words: str
) -> None:
    wide = network("wide", mode="Overlay", ipv4={"cidr": "10.50.0.0/24"}) | {"status": claims}
    modes: Object = {"networkModes": ["NAT", "Overlay"], "underlay": {"address": "192.0.2.1", "mtu": underlay_mtu}}
    found = changed(world(wide), LAN, {"name": "wide", "networkName": "wide"}, hypervisor_status=modes)
    if not reason:
        assert [row["name"] for row in found] == ["lan", "wide"]
        return
    assert found[0] == reason
    assert words in found[1]


def test_a_host_port_of_another_host_s_machine_is_free() -> None:
    there = vm("db", uid="db-uid", placement=placed("host-b-qemu", interfaces=[claimed("x", "wan") | FORWARD]))
    assert changed(world(there), LAN | FORWARD) == [ROW | FORWARD]


def test_an_interface_that_comes_back_before_its_guest_has_let_go_of_it_gets_what_it_had() -> None:
    seen: Object = {"host": {"hypervisor": "host-a-qemu", "token": 7, "state": "Present"}, "interfaces": [ROW]}
    assert changed(world(), LAN, has=[], **seen) == [ROW]


def test_an_interface_whose_network_takes_what_the_host_lacks_is_not_had_unless_it_is_there_already() -> None:
    status: Object = {
        "networkModes": ["NAT", "Isolated"],
        "missingCapabilities": [{"name": "NetworkFirewall", "message": "x"}],
    }
    networks = network(), network("wan", ipv4={"cidr": "10.30.0.0/24"}, firewall={})
    reason, message = changed(World(*networks), LAN, WAN, hypervisor_status=status)
    assert reason == "NicNotAttachable"
    assert "spec.interfaces[1].networkName: VirtualNetwork wan takes NetworkFirewall, which host-a-qemu has" in message
    assert message.endswith(": x")
    row = claimed("wan", "wan", "52:54:00:00:00:02", "10.30.0.2")
    assert changed(World(*networks), WAN, LAN, has=[row], hypervisor_status=status)[0] == row


_GIVES = {
    "networkModes": ["NAT", "Bridge", "Routed"],
    "hostNetworks": [{"name": "br-dmz", "vlans": {"first": 20, "last": 29}}],
    "routedCIDRs": ["10.22.0.0/16"],
}


@pytest.mark.parametrize(
    ("spec", "not_given"),
    [
        ({"mode": "Bridge", "bridge": {"name": "br-dmz", "vlan": 20}}, ""),
        ({"mode": "Routed", "ipv4": {"cidr": "10.22.4.0/24"}}, ""),
        (
            {"mode": "Bridge", "bridge": {"name": "br-dmz"}},
            (
                "takes bridge br-dmz, which host-a-qemu does not give to networks; a placed machine is not moved for "
                "it: start its agent with --allow-bridge br-dmz"
            ),
        ),
        (
            {"mode": "Routed", "ipv4": {"cidr": "10.22.4.0/24"}, "ipv6": {"cidr": "fd00:22::/64"}},
            (
                "takes fd00:22::/64, which host-a-qemu does not give to networks; a placed machine is not moved for "
                "it: start its agent with --allow-routed fd00:22::/64"
            ),
        ),
    ],
    ids=["a VLAN that is given", "addresses that are routed", "a bridge that is not", "addresses that are not"],
)
def test_a_network_that_the_host_does_not_give_comes_to_no_placed_machine_and_leaves_none(
    spec: Object, not_given: str
) -> None:
    networks, wide = (network(), network("wide", **spec)), {"name": "wide", "networkName": "wide"}
    found = changed(World(*networks), LAN, wide, hypervisor_status=_GIVES)
    if not_given:
        assert found == ("NicNotAttachable", f"spec.interfaces[1].networkName: VirtualNetwork wide {not_given}")
    else:
        assert [row["name"] for row in found] == ["lan", "wide"]
    silent = {"networkModes": _GIVES["networkModes"]}
    assert [row["name"] for row in changed(World(*networks), LAN, wide, hypervisor_status=silent)] == ["lan", "wide"]
    has = claimed("wide", "wide", "52:54:00:00:00:02")
    without_its_mode = _GIVES | {"networkModes": ["NAT"]}
    for status in (_GIVES, without_its_mode):
        found = changed(World(*networks), wide, LAN, has=[has], hypervisor_status=status)
        assert [row["name"] for row in found] == ["wide", "lan"]


def test_an_interface_of_another_name_may_take_over_the_address_of_the_one_that_it_replaces() -> None:
    seen = {"host": {"hypervisor": "host-a-qemu", "token": 7, "state": "Present"}, "interfaces": [ROW]}
    asked = {"name": "net0", "networkName": "lan", "ipAddresses": ["10.20.0.9"], "macAddress": "52:54:00:00:00:55"}
    assert changed(world(), asked, has=[ROW], **seen) == [claimed("net0", "lan", "52:54:00:00:00:55", "10.20.0.9")]
