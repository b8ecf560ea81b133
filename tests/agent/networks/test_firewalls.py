"""Which firewall a port gets: rules of machine and network, in which order, and the addresses of peers."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.agent.objects import network, placed_interface, vm
from virtplane_agent.networks.desired import network_value, ports_of
from virtplane_agent.networks.firewalls import firewall_value, names_peers, with_firewalls
from virtplane_api.kube.resources import Object
from virtplane_api.vocabulary import FirewallAction, FirewallDirection, FirewallProtocol
from virtplane_drivers.network.contract import FirewallRule, Network

ALLOW, DENY = FirewallAction.ALLOW, FirewallAction.DENY
FRONT = {"matchLabels": {"role": "front"}}


def rule(name: str = "web", **spec: Any) -> Object:
    return {"name": name, "direction": "Ingress", "action": "Allow"} | spec


def machine(
    number: int, of: Object | None = None, *addresses: str, labels: Object | None = None, **spec: Any
) -> Object:
    joined = of or network()
    held = addresses or (f"10.20.0.{number}",)
    placed = placed_interface("eth0", joined, *held, mac=f"52:54:00:00:00:0{number}")
    made = vm(f"web-{number}", uid=f"vm-{number}", interfaces=[placed], **spec)
    return made | {"metadata": made["metadata"] | {"labels": labels or {}}}


def resolved(lan: Object, *machines: Object, peers: tuple[Object, ...] = ()) -> Network:
    value = network_value(lan, ports_of(machines, lan["metadata"]["uid"]))
    return with_firewalls(value, lan, machines, (*machines, *peers))


def test_without_a_firewall_of_either_a_port_has_none() -> None:
    value = resolved(network(), machine(1))
    assert (value.ports[0].firewall, value.firewalls, value.groups) == ("", (), ())


@pytest.mark.parametrize(
    ("of_machine", "of_network", "ingress", "egress"),
    [
        ({}, {}, ALLOW, ALLOW),
        ({}, {"ingress": "Deny"}, DENY, ALLOW),
        ({"egress": "Deny"}, {"ingress": "Deny"}, DENY, DENY),
        ({"ingress": "Allow"}, {"ingress": "Deny", "egress": "Deny"}, ALLOW, DENY),
        ({"ingress": "Deny", "egress": "Deny"}, {"ingress": "Allow"}, DENY, DENY),
    ],
)
def test_a_default_is_the_machine_s_else_the_network_s_else_allow(
    of_machine: Object, of_network: Object, ingress: FirewallAction, egress: FirewallAction
) -> None:
    value = firewall_value([{"defaults": of_machine}, {"defaults": of_network}])
    assert (value.ingress, value.egress) == (ingress, egress)


def test_the_machine_s_rules_come_before_the_network_s_each_in_the_order_of_its_list() -> None:
    lan = network(firewall={"rules": [rule("b", protocol="ICMP"), rule("a", protocol="UDP")]})
    value = resolved(lan, machine(1, lan, firewall={"rules": [rule("z", protocol="TCP"), rule("b", action="Deny")]}))
    assert [(one.protocol, one.action) for one in value.firewalls[0].rules] == [
        (FirewallProtocol.TCP, ALLOW),
        (FirewallProtocol.ANY, DENY),
        (FirewallProtocol.ICMP, ALLOW),
        (FirewallProtocol.UDP, ALLOW),
    ]
    assert value.ports[0].firewall == value.firewalls[0].name


def test_a_rule_is_told_as_it_says() -> None:
    spec = rule(
        direction="Egress",
        protocol="TCP",
        ports=[{"port": 80}, {"port": 443, "endPort": 450}],
        cidrs=["192.0.2.0/24", "2001:db8::/32"],
    )
    (told,) = firewall_value([{"rules": [spec]}]).rules
    assert told == FirewallRule(
        FirewallDirection.EGRESS,
        ALLOW,
        FirewallProtocol.TCP,
        ((80, 80), (443, 450)),
        is_of_everybody=False,
        cidrs=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
    )


def test_machines_with_the_same_rules_share_a_firewall_and_others_do_not() -> None:
    lan = network(firewall={"defaults": {"ingress": "Deny"}})
    value = resolved(lan, machine(1, lan), machine(2, lan), machine(3, lan, firewall={"rules": [rule()]}))
    first, second, third = (port.firewall for port in value.ports)
    assert first == second != third
    assert {one.name for one in value.firewalls} == {first, third}
    assert resolved(lan, machine(3, lan, firewall={"rules": [rule()]})).ports[0].firewall == third


def test_a_group_has_the_addresses_of_labelled_machines_on_this_network_wherever_they_run() -> None:
    lan = network(firewall={"rules": [rule(peers=FRONT)]})
    dmz = network("dmz")
    here = machine(1, lan, "10.20.0.1", "fd00:20::1", labels={"role": "front", "tier": "1"})
    elsewhere = machine(2, lan, labels={"role": "front"})
    others = (machine(3, lan, labels={"role": "back"}), machine(4, lan), machine(5, dmz, labels={"role": "front"}))
    value = resolved(lan, here, peers=(elsewhere, *others))
    (group,) = value.groups
    assert [str(address) for address in group.addresses] == ["10.20.0.1", "10.20.0.2", "fd00:20::1"]
    assert set(group.macs) == {one["status"]["placement"]["interfaces"][0]["macAddress"] for one in (here, elsewhere)}
    (told,) = value.firewalls[0].rules
    assert (told.is_of_everybody, told.groups) == (False, (group.name,))


def test_labels_that_nobody_carries_let_nobody_in_and_no_labels_at_all_every_machine() -> None:
    for labels, expected in (({"role": "none"}, []), ({}, ["10.20.0.1", "10.20.0.2"])):
        lan = network(firewall={"rules": [rule(peers={"matchLabels": labels})]})
        value = resolved(lan, machine(1, lan), peers=(machine(2, lan, labels={"a": "b"}),))
        assert list(value.groups[0].addresses) == [ip_address(address) for address in expected]
        assert not value.firewalls[0].rules[0].is_of_everybody


def test_a_machine_more_in_a_group_changes_no_rule() -> None:
    lan = network(firewall={"rules": [rule(peers=FRONT)]})
    before = resolved(lan, machine(1, lan))
    after = resolved(lan, machine(1, lan), peers=(machine(2, lan, labels={"role": "front"}),))
    assert (before.firewalls, before.ports) == (after.firewalls, after.ports)
    assert before.groups != after.groups


def test_rules_that_name_no_machines_need_none() -> None:
    plain, naming = {"rules": [rule(cidrs=["192.0.2.0/24"])]}, {"rules": [rule(peers=FRONT)]}
    assert not names_peers(network(firewall=plain), [machine(1, firewall=plain)])
    assert names_peers(network(firewall=naming), [])
    assert names_peers(network(), [machine(1), machine(2, firewall=naming)])
