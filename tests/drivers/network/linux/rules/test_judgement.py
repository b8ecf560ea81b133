"""Which flows may go on, judged from the network alone; the kernel's own answers are in test_firewall."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.drivers.network.linux.firewalled import (
    ALLOW,
    DENY,
    EGRESS,
    ICMP,
    INGRESS,
    TCP,
    UDP,
    firewall,
    group,
    network,
    rule,
)
from tests.drivers.network.numbered import port
from virtplane_drivers.network.contract import Firewall, Route
from virtplane_drivers.network.linux.rules.judgement import Flow, Judge

ROUTER = (ip_address("10.0.0.1"), ip_address("fd00::1"))
OUTSIDE = "203.0.113.1"
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}


def flow(source: str, destination: str, protocol: str = "tcp", number: int = 80) -> Flow:
    return Flow(NUMBERS[protocol], ip_address(source), ip_address(destination), number)


def may(one: Firewall, asked: Flow) -> bool:
    """Machine 2 has the firewall, machine 3 none; machine 4 is in the group `front`."""
    lan = replace(network(port(2, one.name), port(3), port(4), firewalls=(one,)), groups=(group("front", port(4)),))
    return Judge(lan, ROUTER).lets_through(asked)


WEB = rule(INGRESS, ALLOW, protocol=TCP, ports=((80, 80), (8000, 8009)))
NO_RULE, SHUT = firewall(), firewall(ingress=DENY, egress=DENY)


@pytest.mark.parametrize(
    ("one", "asked", "expected"),
    [
        (NO_RULE, flow("10.0.0.3", "10.0.0.2"), True),
        (SHUT, flow("10.0.0.3", "10.0.0.2"), False),
        (SHUT, flow("10.0.0.2", "10.0.0.3"), False),
        (SHUT, flow("10.0.0.2", OUTSIDE), False),
        (SHUT, flow("10.0.0.3", "10.0.0.4"), True),
        (SHUT, flow("10.0.0.2", "10.0.0.1", "udp", 53), True),
        (SHUT, flow("10.0.0.2", "10.0.0.1", "udp", 123), False),
        (SHUT, flow("10.0.0.1", "10.0.0.2", "icmp"), True),
        (firewall(WEB, ingress=DENY), flow(OUTSIDE, "10.0.0.2"), True),
        (firewall(WEB, ingress=DENY), flow(OUTSIDE, "10.0.0.2", number=8005), True),
        (firewall(WEB, ingress=DENY), flow(OUTSIDE, "10.0.0.2", number=8010), False),
        (firewall(WEB, ingress=DENY), flow(OUTSIDE, "10.0.0.2", "udp"), False),
        (firewall(WEB, ingress=DENY), flow("fd00::3", "fd00::2"), True),
        (firewall(WEB, egress=DENY), flow("10.0.0.2", "10.0.0.3"), False),
        (firewall(rule(EGRESS, DENY, "203.0.113.0/24")), flow("10.0.0.2", OUTSIDE), False),
        (firewall(rule(EGRESS, DENY, "203.0.113.0/24")), flow("10.0.0.2", "198.51.100.1"), True),
        (firewall(rule(EGRESS, DENY, "203.0.113.0/24")), flow(OUTSIDE, "10.0.0.2"), True),
        (firewall(rule(INGRESS, ALLOW, protocol=ICMP), ingress=DENY), flow("fd00::3", "fd00::2", "icmpv6"), True),
        (firewall(rule(INGRESS, ALLOW, protocol=UDP), ingress=DENY), flow("fd00::3", "fd00::2", "icmpv6"), False),
        (firewall(rule(INGRESS, ALLOW, "@front"), ingress=DENY), flow("fd00::4", "fd00::2"), True),
        (firewall(rule(INGRESS, ALLOW, "@front"), ingress=DENY), flow("fd00::3", "fd00::2"), False),
        (firewall(rule(INGRESS, DENY), rule(INGRESS, ALLOW)), flow("10.0.0.3", "10.0.0.2"), False),
        (firewall(rule(INGRESS, ALLOW), rule(INGRESS, DENY)), flow("10.0.0.3", "10.0.0.2"), True),
        (firewall(rule(INGRESS, DENY, "@front")), flow("fd00::4", "fd00::2"), False),
        (firewall(rule(INGRESS, DENY, "@front")), flow("fd00::3", "fd00::2"), True),
        (firewall(rule(INGRESS, DENY, "@front")), flow("fe80::5054:1ff:fe00:4", "fe80::5054:1ff:fe00:2"), False),
        (firewall(rule(INGRESS, DENY, "@front")), flow("fe80::5054:1ff:fe00:3", "fe80::5054:1ff:fe00:2"), True),
        (firewall(rule(INGRESS, DENY, "@front")), flow("fe80::99", "fe80::5054:1ff:fe00:2"), False),
        (firewall(rule(INGRESS, ALLOW, "@front"), ingress=DENY), flow("fe80::99", "fe80::5054:1ff:fe00:2"), False),
        # Nobody claims such an address, so it may be machine 2's; the one that its MAC makes is.
        (SHUT, flow("fe80::99", "fe80::98"), False),
        (SHUT, flow("fe80::5054:1ff:fe00:3", "fe80::5054:1ff:fe00:4"), True),
        (SHUT, flow("fe80::5054:1ff:fe00:3", "fe80::5054:1ff:fe00:2"), False),
    ],
)
def test_a_flow_goes_on_when_both_ends_let_it_through(one: Firewall, asked: Flow, *, expected: bool) -> None:
    assert may(one, asked) is expected


def test_a_network_behind_a_machine_is_that_machine_s() -> None:
    routes = (Route(ip_network("10.99.0.0/16"), ip_address("10.0.0.2")),)
    lan = replace(network(port(2, "f1"), port(3), firewalls=(SHUT,)), routes=routes)
    assert not Judge(lan, ROUTER).lets_through(flow("10.0.0.3", "10.99.1.1"))
    assert Judge(replace(lan, routes=()), ROUTER).lets_through(flow("10.0.0.3", "10.99.1.1"))


def test_where_addresses_are_others_business_every_firewall_has_to_let_a_flow_through() -> None:
    ports = tuple(replace(one, addresses=()) for one in (port(2, "f1"), port(3, "f2")))
    firewalls = (firewall(), firewall(WEB, ingress=DENY, name="f2"))
    judge = Judge(replace(network(*ports, firewalls=firewalls), ipv4=None, ipv6=None), ())
    assert judge.lets_through(flow("192.0.2.1", "192.0.2.2"))
    assert not judge.lets_through(flow("192.0.2.1", "192.0.2.2", number=22))
