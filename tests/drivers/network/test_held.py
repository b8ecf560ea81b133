"""Which ports of before stay served while a hypervisor holds them."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from virtplane_api.vocabulary import FirewallAction, FirewallDirection, ForwardProtocol, NetworkMode
from virtplane_drivers.network.contract import AddressGroup, Firewall, FirewallRule, Network, Port, PortForward
from virtplane_drivers.network.held import still_served, with_held

FORWARD = PortForward(ForwardProtocol.TCP, 8080, 80)
OLD = Port("vm-old", "old", "lan", "52:54:00:00:00:01", (ip_address("10.20.0.9"),), (FORWARD,))
OTHER = Port("vm-new", "new", "lan", "52:54:00:00:00:02", (ip_address("10.20.0.10"),))


def network(*ports: Port) -> Network:
    return Network("net-1", "shop", "lan", NetworkMode.NAT, ports=ports)


@pytest.mark.parametrize("now", [(), (OTHER,)], ids=["nobody", "another"])
def test_one_that_is_not_asked_for_any_more_may_go_on(now: tuple[Port, ...]) -> None:
    assert still_served(network(OLD), network(*now)) == (OLD,)


@pytest.mark.parametrize(
    "now",
    [
        replace(OTHER, mac=OLD.mac),
        replace(OTHER, addresses=OLD.addresses),
        replace(OTHER, forwards=(PortForward(ForwardProtocol.TCP, 8080, 81),)),
    ],
    ids=["MAC", "address", "host port"],
)
def test_what_another_one_is_given_is_that_one_s(now: Port) -> None:
    assert still_served(network(OLD), network(now)) == ()


def test_one_that_is_asked_for_is_as_it_is_asked_for() -> None:
    changed = replace(OLD, addresses=(ip_address("10.20.0.11"),))
    assert still_served(network(OLD), network(changed)) == ()
    udp = replace(OTHER, forwards=(PortForward(ForwardProtocol.UDP, 8080, 81),))
    assert still_served(network(OLD), network(udp)) == (OLD,)


def behind(name: str, *groups: str) -> Firewall:
    rule = FirewallRule(FirewallDirection.INGRESS, FirewallAction.ALLOW, is_of_everybody=False, groups=groups)
    return Firewall(name, FirewallAction.DENY, FirewallAction.ALLOW, (rule,))


def test_it_stays_behind_its_firewall() -> None:
    peers, others = AddressGroup("peers", OTHER.addresses), AddressGroup("others", ())
    walled = replace(OLD, firewall="old")
    before = replace(network(walled), firewalls=(behind("old", "peers"), behind("gone", "others")))
    before = replace(before, groups=(peers, others))
    now = with_held(before, network(OTHER), (walled,))
    assert now.ports == (OTHER, walled)
    assert now.firewalls == before.firewalls[:1]
    assert now.groups == (peers,)


def test_what_both_name_is_as_it_is_now() -> None:
    now_empty, walled = AddressGroup("peers", ()), replace(OLD, firewall="old")
    before = replace(
        network(walled), firewalls=(behind("old", "peers"),), groups=(AddressGroup("peers", OLD.addresses),)
    )
    described = replace(
        network(replace(OTHER, firewall="new")), firewalls=(behind("new", "peers"),), groups=(now_empty,)
    )
    now = with_held(before, described, (walled,))
    assert {one.name for one in now.firewalls} == {"old", "new"}
    assert now.groups == (now_empty,)


def test_who_was_let_in_is_let_in_still_but_not_who_has_that_one_s_address_now() -> None:
    third = Port("vm-third", "third", "lan", "52:54:00:00:00:03", (ip_address("10.20.0.11"),))
    walled, elsewhere = replace(OLD, firewall="old"), (ip_address("10.20.0.12"),)
    peers = AddressGroup("peers", (*OTHER.addresses, *third.addresses, *elsewhere))
    before = replace(network(walled, OTHER, third), firewalls=(behind("old", "peers"),), groups=(peers,))
    heir = replace(third, machine_uid="vm-heir")
    now = with_held(before, network(OTHER, heir), (walled,))
    assert now.groups == (AddressGroup("peers", (*OTHER.addresses, *elsewhere)),)
