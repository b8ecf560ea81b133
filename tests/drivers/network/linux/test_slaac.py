"""Guests that make IPv6 addresses of what their router advertises: Linux's own client, a real dnsmasq, real rules."""

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv6Network, ip_address

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network import numbered
from tests.drivers.network.linux import firewalled
from tests.drivers.network.linux.dnsmasq import dhcp_client as dhcp
from tests.drivers.network.linux.firewalled import ALLOW, DENY, INGRESS, Walled, firewall, group, rule, walled_host
from tests.drivers.network.linux.host import OUTSIDE_IPV6, Namespace
from tests.drivers.network.linux.rules.services import PORT, reaches, seen_as, service
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import Addressing, NetworkMode
from virtplane_drivers.errors import Refused
from virtplane_drivers.network.contract import Firewall, Network, NetworkState, Port
from virtplane_drivers.network.linux.eui64 import by_mac
from virtplane_drivers.network.linux.names import tap_name
from virtplane_drivers.network.linux.rules.affected import affected
from virtplane_drivers.network.linux.rules.judgement import Flow, Judge

PREFIX = IPv6Network("fd00::/64")
CHOSEN = "fd00::1234:5678:9abc:def0"


def port(number: int, wall: str = "") -> Port:
    """Of machine `number`, with an IPv4 address alone."""
    one = numbered.port(number, wall)
    return replace(one, addresses=one.addresses[:1])


def network(
    *ports: Port,
    mode: NetworkMode = NetworkMode.NAT,
    gateway: str | None = "fd00::1",
    firewalls: tuple[Firewall, ...] = (),
) -> Network:
    one = firewalled.network(*ports, mode=mode, firewalls=firewalls)
    assert one.ipv6 is not None
    router = ip_address(gateway) if gateway is not None else None
    return replace(one, ipv6=replace(one.ipv6, addressing=Addressing.SLAAC, gateway=router))


def made(number: int) -> str:
    """The address that machine `number` makes of its MAC."""
    return str(by_mac(PREFIX, port(number).mac))


@pytest.fixture
async def walled(root: None) -> AsyncIterator[Walled]:
    async with walled_host() as one:
        yield one


def guest(walled: Walled, one: Port) -> Namespace:
    """A Linux on the tap's place, which is told of IPv4 and finds IPv6 by itself, as it is made."""
    at = walled.host.guest(walled.router().path, one.mac, f"{one.addresses[0]}/24", port=tap_name(one))
    assert [at.sysctl(f"net/ipv6/conf/eth0/{name}") for name in ("accept_ra", "autoconf", "forwarding")] == list("110")
    return at


def own(at: Namespace) -> set[str]:
    """Its usable IPv6 addresses that are not link-local."""
    links = at.ip("-6", "address", "show", "dev", "eth0", "scope", "global", "-tentative") or ()
    return {one["local"] for link in links for one in link.get("addr_info", ()) if "local" in one}


async def test_a_guest_makes_itself_an_address_by_which_it_reaches_its_router_its_neighbours_and_the_world(
    walled: Walled,
) -> None:
    await walled.driver.apply(network(port(2), port(3)))
    second, third = guest(walled, port(2)), guest(walled, port(3))
    eventually(lambda: (own(second), own(third)) == ({made(2)}, {made(3)}), interval_s=0.05)
    second.reaches("fd00::1")
    second.reaches(made(3))
    second.reaches(OUTSIDE_IPV6)
    second.ip("address", "add", f"{CHOSEN}/64", "dev", "eth0")
    third.reaches(CHOSEN)
    advertised = second.inside(dhcp.advertised)
    assert advertised is not None
    assert (advertised.is_managed, advertised.lifetime_s, advertised.dns) == (False, 1800, ("fd00::1",))
    assert advertised.prefixes == {str(PREFIX): (True, True)}
    assert second.inside(lambda: dhcp.solicited6(port(2).mac, timeout_s=0.7)) is None


async def test_where_no_router_leads_out_guests_have_addresses_and_no_default_route(walled: Walled) -> None:
    one = network(port(2), port(3), mode=NetworkMode.ISOLATED, gateway=None)
    await walled.driver.apply(one)
    assert (await walled.driver.observe(one.uid)).state is NetworkState.READY
    second, third = guest(walled, port(2)), guest(walled, port(3))
    eventually(lambda: (own(second), own(third)) == ({made(2)}, {made(3)}), interval_s=0.05)
    second.reaches(made(3))
    assert not second.ip("-6", "route", "show", "default")


async def test_a_firewall_holds_for_addresses_that_nobody_knows_or_is_refused(walled: Walled) -> None:
    def with_rule(one: Firewall) -> Network:
        return replace(network(port(2, "f1"), port(3), firewalls=(one,)), groups=(group("front", port(3)),))

    with pytest.raises(Refused, match="not known by their IPv6 addresses of SLAAC") as refused:
        await walled.driver.apply(with_rule(firewall(rule(INGRESS, DENY, "@front"))))
    assert refused.value.reason == Reason.FIREWALL_NOT_POSSIBLE
    assert await walled.driver.inventory() == ()
    # To allow what is known and deny the rest lets nobody by.
    await walled.driver.apply(with_rule(firewall(rule(INGRESS, ALLOW, "@front"), ingress=DENY)))
    second, third = guest(walled, port(2, "f1")), guest(walled, port(3))
    eventually(lambda: (own(second), own(third)) == ({made(2)}, {made(3)}), interval_s=0.05)
    with service(second, PORT), service(third, PORT):
        assert reaches(third, "10.0.0.2")
        assert reaches(second, made(3))
        assert seen_as(third, made(2)) is None


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (made(3), made(2), False),
        (made(2), made(3), True),
        # Nobody claims such an address, so it may be machine 2's.
        (made(3), CHOSEN, False),
        ("2001:db8::1", CHOSEN, False),
        (CHOSEN, "2001:db8::1", True),
    ],
)
def test_a_flow_to_an_address_that_nobody_knows_is_let_through_by_every_firewall_or_ends(
    source: str, destination: str, *, expected: bool
) -> None:
    one = network(port(2, "f1"), port(3), firewalls=(firewall(ingress=DENY),))
    flow = Flow(6, ip_address(source), ip_address(destination), 80)
    assert Judge(one, (ip_address("fd00::1"),)).lets_through(flow) is expected


def test_flows_are_looked_at_when_somebody_comes_who_may_take_any_address() -> None:
    before = network(port(2, "f1"), firewalls=(firewall(),))
    found = affected(before, replace(before, ports=(port(2, "f1"), port(3, "f1"))))
    assert found is not None
    assert ip_address(CHOSEN).packed in found
    assert affected(before, before) is None
