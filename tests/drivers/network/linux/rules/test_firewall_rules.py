"""Firewalls as rules: how many there are, and how little changes."""

from dataclasses import replace

import pytest

from tests.drivers.network.linux.firewalled import ALLOW, DENY, EGRESS, INGRESS, TCP, firewall, group, network, rule
from tests.drivers.network.numbered import port
from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Refused
from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux.firewall import CAPABILITY, Firewalls
from virtplane_drivers.network.linux.links import router_sysctls
from virtplane_drivers.network.linux.names import tap_name
from virtplane_drivers.network.linux.rules.firewall import Way
from virtplane_drivers.network.linux.rules.router import router_ruleset
from virtplane_drivers.network.linux.rules.ruleset import Ruleset, changes

PEERS = firewall(rule(INGRESS, ALLOW, "@front"), ingress=DENY)
BRIDGED = "net/bridge/bridge-nf-call-iptables"


def ruleset(one: Network, way: Way = Way.BRIDGE_NETFILTER) -> Ruleset:
    return router_ruleset(one, None, (), way)


def chains(of: Ruleset) -> set[str]:
    return {f"{table.family} {chain.name}" for table in of for chain in table.chains}


def test_ports_of_one_firewall_share_its_chains_however_many_they_are() -> None:
    bare = network(*(port(number) for number in range(2, 202)))
    walled = replace(bare, ports=tuple(replace(one, firewall="f1") for one in bare.ports), firewalls=(firewall(),))
    more = chains(ruleset(walled)) - chains(ruleset(bare))
    assert {name for name in more if "firewall_" not in name} == {
        "bridge egress_f1",
        "bridge ingress_f1",
        "inet ingress_f1",
    }


def test_without_a_firewall_there_is_not_a_word_of_it() -> None:
    one = replace(network(port(2), firewalls=(firewall(),)), groups=(group("front", port(3)),))
    assert ruleset(one) == ruleset(network(port(2)))
    assert router_sysctls(one)[BRIDGED] == "0"
    assert BRIDGED not in router_sysctls(replace(one, ports=(port(2, "f1"),)))


def test_a_machine_more_in_a_group_or_under_a_firewall_is_an_element_more() -> None:
    before = replace(network(port(2, "f1"), firewalls=(PEERS,)), groups=(group("front", port(3)),))
    grown = replace(before, groups=(group("front", port(3), port(4)),))
    assert sorted(changes(ruleset(before), ruleset(grown)).splitlines()) == [
        "add element bridge virtplane group_ipv4_front { 10.0.0.4 }",
        "add element bridge virtplane group_ipv6_front { fd00::4 }",
        "add element inet virtplane group_ipv4_front { 10.0.0.4 }",
        "add element inet virtplane group_ipv6_front { fd00::4 }",
    ]
    other = firewall(name="f2")
    two = replace(before, ports=(port(2, "f1"), port(3, "f2")), firewalls=(PEERS, other))
    moved = replace(two, ports=(port(2, "f2"), port(3, "f1")))
    script = changes(ruleset(two), ruleset(moved))
    assert "chain" not in script
    added = script.split("add element bridge virtplane egress ")[1].splitlines()[0]
    assert f'"{tap_name(port(2))}" : goto egress_f2' in added


def test_who_is_denied_is_denied_by_its_mac_too_where_frames_still_have_it() -> None:
    denied = firewall(rule(INGRESS, DENY, "@front"), rule(EGRESS, ALLOW, "@front"))
    one = replace(network(port(2, "f1"), firewalls=(denied,)), groups=(group("front", port(3)),))
    bridged, routed = ruleset(one)
    rules = {(table.family, chain.name): chain.rules for table in (bridged, routed) for chain in table.chains}
    assert "ether saddr @group_mac_front drop" in rules["bridge", "ingress_f1"]
    assert "group_mac" not in str(rules["bridge", "egress_f1"])
    assert "group_mac" not in str(routed)
    (macs,) = (found.elements for found in bridged.sets if found.name == "group_mac_front")
    assert macs == {port(3).mac}


def test_cidrs_and_ports_that_overlap_are_one() -> None:
    overlapping = rule(
        EGRESS,
        DENY,
        *("10.0.0.0/8", "10.1.0.0/16", "::/0", "fd00::/64"),
        protocol=TCP,
        ports=((80, 90), (85, 99), (100, 100), (443, 443)),
    )
    (table, _) = ruleset(network(port(2, "f1"), firewalls=(firewall(overlapping),)))
    (chain,) = (chain for chain in table.chains if chain.name == "egress_f1")
    assert chain.rules == (
        "tcp dport { 443, 80-100 } ip daddr { 10.0.0.0/8 } drop",
        "tcp dport { 443, 80-100 } meta protocol ip6 drop",
        "accept",
    )


def test_a_kernel_whose_bridges_know_flows_needs_no_marks_of_them() -> None:
    one = network(port(2, "f1"), firewalls=(firewall(),))
    by_marks, by_itself = (str(ruleset(one, way)) for way in Way)
    assert "ct state established,related accept" not in str(ruleset(one)[0])
    assert "firewall_state" in by_marks
    assert "firewall_state" not in by_itself
    assert "ct state established,related accept" in str(ruleset(one, Way.BRIDGE_CONNTRACK)[0])


def test_a_host_without_any_way_refuses_networks_with_a_firewall_and_no_others() -> None:
    none = Firewalls()
    assert "modprobe br_netfilter" in none.missing
    none.check(network(port(2)))
    with pytest.raises(Refused, match="default/walled has a firewall: this kernel has no") as refused:
        none.check(network(port(2, "f1"), firewalls=(firewall(),)))
    assert refused.value.reason == Reason.FIREWALL_NOT_POSSIBLE
    assert CAPABILITY == "NetworkFirewall"
