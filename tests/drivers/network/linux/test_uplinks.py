"""How routers reach outside, by packets that the kernel passes, and what of their host is changed for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.drivers.network.linux.host import HOST_IPV4, OUTSIDE_IPV4, OUTSIDE_IPV6, Host, Namespace
from tests.drivers.network.linux.networks import (
    GATEWAY_IPV4,
    GATEWAY_IPV6,
    GUEST_IPV4,
    GUEST_IPV6,
    GUEST_MAC,
    STATE_ID,
    TRANSIT_CIDR,
    bridged,
    network,
)
from tests.drivers.network.linux.seen import addresses, routes, settings
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Network, Route
from virtplane_drivers.network.linux.links import apply_router
from virtplane_drivers.network.linux.names import BRIDGE, UPLINK, host_link
from virtplane_drivers.network.linux.namespace import ensure_namespace, remove_namespace
from virtplane_drivers.network.linux.uplinks import Uplinks
from virtplane_drivers.network.linux.values import Finding, Transit

MASQUERADE = """
table inet test_nat {
  chain post {
    type nat hook postrouting priority srcnat
    oifname "$" masquerade
  }
}
"""


async def applied(uplinks: Uplinks, router: Path, one: Network) -> tuple[Transit | None, list[Finding]]:
    await apply_router(router, one)
    return await uplinks.apply(router, one)


def masquerade(namespace: Namespace, device: str) -> None:
    """What the rules do, in two lines."""
    namespace.run("nft", "-f", "-", stdin=MASQUERADE.replace("$", device))


def guest(host: Host, router: Path, last: int = 5, mac: str = GUEST_MAC) -> Namespace:
    gateways = (GATEWAY_IPV4, GATEWAY_IPV6)
    return host.guest(router, mac, f"10.77.0.{last}/24", f"fd77::{last}/64", gateways=gateways)


def reasons(findings: Sequence[Finding]) -> list[str]:
    return [finding.reason for finding in findings]


# --- NAT ---


async def test_guests_of_a_nat_network_reach_outside_in_both_families(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    transit, findings = await applied(uplinks, router, network(NetworkMode.NAT))
    assert transit is not None
    assert findings == []
    masquerade(Namespace(router), UPLINK)
    masquerade(host.machine, "eth0")
    one = guest(host, router)
    one.reaches(OUTSIDE_IPV4)
    one.reaches(OUTSIDE_IPV6)


async def test_two_nat_networks_of_one_cidr_both_reach_outside(host: Host, router: Path, uplinks: Uplinks) -> None:
    masquerade(host.machine, "eth0")
    for path in (router, router.with_name("second")):
        await ensure_namespace(path)
        await applied(uplinks, path, network(NetworkMode.NAT))
        masquerade(Namespace(path), UPLINK)
        guest(host, path).reaches(OUTSIDE_IPV4)


async def test_only_devices_that_need_it_forward(host: Host, router: Path, uplinks: Uplinks) -> None:
    machine = host.machine
    machine.ip("link", "add", "eth1", "type", "veth")
    before = settings(machine)
    one = network(NetworkMode.NAT)
    await applied(uplinks, router, one)
    end = host_link(one.uid)
    own = f"/{end}/"
    changed = {line for line in set(settings(machine)) - set(before) if own not in line}
    assert changed == {"net/ipv4/conf/eth0/forwarding:1", "net/ipv6/conf/eth0/force_forwarding:1"}
    assert machine.sysctl("net/ipv4/ip_forward") == "0"
    assert machine.sysctl("net/ipv6/conf/all/forwarding") == "0"
    assert machine.sysctl(f"net/ipv4/conf/{end}/forwarding") == "1"
    assert machine.sysctl(f"net/ipv6/conf/{end}/force_forwarding") == "1"


async def test_a_network_without_ipv6_changes_nothing_of_the_hosts_ipv6(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    one = network(NetworkMode.NAT, ipv6=None)
    await applied(uplinks, router, one)
    assert host.machine.sysctl("net/ipv6/conf/eth0/force_forwarding") == "0"
    assert not any(":" in address for address in addresses(host.machine.path, host_link(one.uid)))
    assert not any(":" in address for address in addresses(router, UPLINK))


async def test_a_host_without_a_way_out_has_its_networks_all_the_same(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    for family in ("-4", "-6"):
        host.machine.ip(family, "route", "del", "default")
    transit, findings = await applied(uplinks, router, network(NetworkMode.NAT))
    assert transit is not None
    assert findings == []
    Namespace(router).reaches(str(transit.host_ipv4))
    Namespace(router).reaches(str(transit.host_ipv6))


# --- the transit ---


async def test_a_transit_is_kept_by_whoever_asks_for_it_next(host: Host, router: Path, uplinks: Uplinks) -> None:
    """Also where the place that the UID gives has become free meanwhile."""
    one = network(NetworkMode.NAT)
    first, _ = await applied(uplinks, router, one)
    assert first is not None
    await uplinks.remove(one.uid)
    host.machine.ip("address", "add", f"{first.router_ipv4}/32", "dev", "lo")
    second, _ = await applied(uplinks, router, one)
    assert second not in (None, first)
    host.machine.ip("address", "del", f"{first.router_ipv4}/32", "dev", "lo")
    again = Uplinks(STATE_ID, TRANSIT_CIDR, host.machine.path)
    assert (await again.apply(router, one))[0] == second


async def test_networks_that_are_applied_at_once_never_share_a_transit(host: Host, router: Path) -> None:
    uplinks = Uplinks(STATE_ID, ip_network("169.254.64.0/28"), host.machine.path)  # type: ignore[arg-type]
    ones = [network(NetworkMode.NAT) for _ in range(8)]
    paths = [router.with_name(one.uid) for one in ones]
    for path in paths:
        await ensure_namespace(path)
    found = await asyncio.gather(*(uplinks.apply(path, one) for path, one in zip(paths, ones, strict=True)))
    assert len({transit.host_ipv4 for transit, _ in found if transit is not None}) == len(ones)
    transit, findings = await uplinks.apply(router, network(NetworkMode.NAT))
    assert transit is None
    assert reasons(findings) == [Reason.NETWORK_ERROR]
    assert "169.254.64.0/28" in findings[0].message


async def test_a_transit_of_another_range_is_given_up(host: Host, router: Path, uplinks: Uplinks) -> None:
    one = network(NetworkMode.NAT)
    await applied(uplinks, router, one)
    cidr = ip_network("10.200.0.0/24")
    transit, _ = await Uplinks(STATE_ID, cidr, host.machine.path).apply(router, one)  # type: ignore[arg-type]
    assert transit is not None
    assert transit.host_ipv4 in cidr
    assert addresses(host.machine.path, host_link(one.uid)) == {
        f"{transit.host_ipv4}/31",
        f"{transit.host_ipv6}/127",
        "fe80::1/64",
    }
    Namespace(router).reaches(str(transit.host_ipv4))


# --- Routed ---


async def test_guests_of_a_routed_network_are_reached_from_outside_under_their_own_addresses(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    behind = Route(ip_network("192.168.50.0/24"), ip_address(GUEST_IPV4))
    transit, findings = await applied(uplinks, router, network(NetworkMode.ROUTED, routes=(behind,)))
    assert transit is not None
    assert findings == []
    one = guest(host, router)
    one.ip("address", "add", "192.168.50.1/32", "dev", "lo")
    for cidr, via in (("10.77.0.0/24", HOST_IPV4), ("192.168.50.0/24", HOST_IPV4), ("fd77::/64", "2001:db8:f::2")):
        host.outside.ip("-6" if ":" in cidr else "-4", "route", "add", cidr, "via", via)
    for address in (GUEST_IPV4, GUEST_IPV6, "192.168.50.1"):
        host.outside.reaches(address)
        host.machine.reaches(address)
    one.reaches(OUTSIDE_IPV4)
    one.reaches(OUTSIDE_IPV6)


async def test_a_routed_network_takes_no_route_of_the_host(host: Host, router: Path, uplinks: Uplinks) -> None:
    host.machine.ip("route", "add", "10.77.0.128/25", "via", OUTSIDE_IPV4, "table", "77")
    before = routes(host.machine.path)
    one = network(NetworkMode.ROUTED)
    transit, findings = await applied(uplinks, router, one)
    assert transit is not None
    assert reasons(findings) == [Reason.HIDES_HOST_ROUTE]
    assert "10.77.0.128/25 by eth0 (table 77)" in findings[0].message
    assert {line for line in routes(host.machine.path) - before if host_link(one.uid) not in line} == set()
    assert not any("10.77" in line for line in routes(host.machine.path, host_link(one.uid)))
    host.machine.ip("route", "del", "10.77.0.128/25", "via", OUTSIDE_IPV4, "table", "77")
    assert (await uplinks.apply(router, one))[1] == []
    assert any("10.77.0.0/24" in line for line in routes(host.machine.path, host_link(one.uid)))


async def test_of_two_routed_networks_of_one_cidr_the_first_is_reached(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    second = router.with_name("second")
    await ensure_namespace(second)
    ones = [network(NetworkMode.ROUTED) for _ in range(2)]
    assert (await applied(uplinks, router, ones[0]))[1] == []
    assert reasons((await applied(uplinks, second, ones[1]))[1]) == [Reason.HIDES_HOST_ROUTE]
    assert (await uplinks.apply(router, ones[0]))[1] == []
    guest(host, router)
    host.machine.reaches(GUEST_IPV4)
    # And a network behind NAT, whose addresses are in no table of the host, is told of neither.
    await ensure_namespace(router.with_name("third"))
    assert (await applied(uplinks, router.with_name("third"), network(NetworkMode.NAT)))[1] == []


# --- Bridge ---


def lan(host: Host, mtu: int = 1500) -> Namespace:
    """A bridge of the host, br-lan, with a neighbour on it, who has 10.88.0.1."""
    neighbour = host.new_namespace()
    host.machine.ip("link", "add", "br-lan", "type", "bridge")
    peer = ("peer", "name", "eth0", "netns", str(neighbour.path))
    host.machine.ip("link", "add", "lan0", "mtu", str(mtu), "type", "veth", *peer)
    host.machine.ip("link", "set", "lan0", "master", "br-lan", "up")
    host.machine.ip("link", "set", "br-lan", "up")
    neighbour.ip("link", "set", "eth0", "up")
    neighbour.ip("address", "add", "10.88.0.1/24", "dev", "eth0")
    return neighbour


async def test_guests_of_a_bridge_network_are_neighbours_of_those_on_the_hosts_bridge(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    neighbour = lan(host)
    one = bridged("br-lan")
    assert await applied(uplinks, router, one) == (None, [])
    stand_in = host.guest(router, GUEST_MAC, "10.88.0.5/24")
    stand_in.reaches("10.88.0.1")
    neighbour.reaches("10.88.0.5")
    assert neighbour.ip("neigh", "show", "10.88.0.5")[0]["lladdr"] == GUEST_MAC
    for path, device in ((host.machine.path, host_link(one.uid)), (router, UPLINK), (router, BRIDGE)):
        assert addresses(path, device) == set()


@pytest.mark.parametrize(("bridges", "networks", "wrong"), [(1500, 1400, False), (1400, 1500, True)])
async def test_the_hosts_bridge_keeps_its_mtu(
    host: Host, router: Path, uplinks: Uplinks, bridges: int, networks: int, *, wrong: bool
) -> None:
    lan(host, bridges)
    one = bridged("br-lan", mtu=networks)
    _, findings = await applied(uplinks, router, one)
    links = host.machine.links()
    assert (links["br-lan"]["mtu"], links[host_link(one.uid)]["mtu"]) == (bridges, bridges)
    inside = Namespace(router).links()
    assert (inside[UPLINK]["mtu"], inside[BRIDGE]["mtu"]) == (networks, networks)
    assert reasons(findings) == ([Reason.NETWORK_ERROR] if wrong else [])


@pytest.mark.parametrize("other", ["", "eth0"], ids=["absent", "no bridge"])
async def test_without_the_named_bridge_there_is_no_uplink_and_it_is_said_why(
    host: Host, router: Path, uplinks: Uplinks, other: str
) -> None:
    lan(host)
    one = bridged("br-lan")
    await applied(uplinks, router, one)
    transit, findings = await applied(uplinks, router, replace(one, host_bridge=other or "br-none"))
    assert transit is None
    assert reasons(findings) == [Reason.NO_SUCH_BRIDGE]
    assert (other or "br-none") in findings[0].message
    assert ("ip link set eth0 master" in findings[0].message) == (other == "eth0")
    assert host_link(one.uid) not in host.machine.links()
    assert UPLINK not in Namespace(router).links()
    assert await applied(uplinks, router, one) == (None, [])


async def test_another_bridge_takes_the_uplink_over(host: Host, router: Path, uplinks: Uplinks) -> None:
    lan(host)
    host.machine.ip("link", "add", "br-other", "type", "bridge")
    one = bridged("br-lan")
    await applied(uplinks, router, one)
    await applied(uplinks, router, replace(one, host_bridge="br-other"))
    assert host.machine.links()[host_link(one.uid)]["master"] == "br-other"


# --- all modes ---


async def test_an_isolated_network_has_none(host: Host, router: Path, uplinks: Uplinks) -> None:
    assert await applied(uplinks, router, network()) == (None, [])
    assert sorted(host.machine.links()) == ["eth0", "lo"]
    assert sorted(Namespace(router).links()) == [BRIDGE, "lo"]
    assert await uplinks.inventory() == ()


async def test_what_is_removed_leaves_nothing_and_may_be_removed_again(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    before = routes(host.machine.path)
    ones = [network(NetworkMode.ROUTED), network(NetworkMode.NAT)]
    await applied(uplinks, router, ones[0])
    await ensure_namespace(router.with_name("second"))
    await applied(uplinks, router.with_name("second"), ones[1])
    assert set(await uplinks.inventory()) == {one.uid for one in ones}
    for one in ones:
        await uplinks.remove(one.uid)
        await uplinks.remove(one.uid)
    assert await uplinks.inventory() == ()
    assert sorted(host.machine.links()) == ["eth0", "lo"]
    assert routes(host.machine.path) == before
    assert UPLINK not in Namespace(router).links()


async def test_what_is_another_agents_is_left_to_it(host: Host, router: Path, uplinks: Uplinks) -> None:
    other = Uplinks("other", TRANSIT_CIDR, host.machine.path)
    one = network(NetworkMode.NAT)
    await applied(other, router, one)
    before = addresses(host.machine.path, host_link(one.uid))
    second = router.with_name("second")
    await ensure_namespace(second)
    transit, findings = await applied(uplinks, second, one)
    assert transit is None
    assert reasons(findings) == [Reason.NETWORK_ERROR]
    await uplinks.remove(one.uid)
    assert addresses(host.machine.path, host_link(one.uid)) == before
    assert await uplinks.inventory() == ()
    assert await other.inventory() == (one.uid,)


async def test_a_router_that_was_lost_gets_a_new_uplink(host: Host, router: Path, uplinks: Uplinks) -> None:
    """Its namespace goes on to exist while a guest's tap is in it, and the old veth with it."""
    one = network(NetworkMode.NAT)
    await applied(uplinks, router, one)
    with router.open("rb"):
        await remove_namespace(router)
        await ensure_namespace(router)
        transit, findings = await applied(uplinks, router, one)
        assert transit is not None
        assert findings == []
        Namespace(router).reaches(str(transit.host_ipv4))
