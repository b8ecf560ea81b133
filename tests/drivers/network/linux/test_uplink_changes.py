"""Uplinks that exist: left alone when right, repaired, changed to another mode, whole after a kill at any step."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.networks import GUEST_IPV4, bridged, network
from tests.drivers.network.linux.seen import monitored, settled, state
from tests.drivers.network.linux.steps import Killed, counted
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Network, Route
from virtplane_drivers.network.linux.links import apply_router
from virtplane_drivers.network.linux.names import UPLINK, host_link
from virtplane_drivers.network.linux.namespace import ensure_namespace, remove_namespace
from virtplane_drivers.network.linux.uplinks import Uplinks

BEHIND = Route(ip_network("192.168.50.0/24"), ip_address(GUEST_IPV4))
KINDS: dict[str, Callable[[str], Network]] = {
    "NAT": lambda uid: network(NetworkMode.NAT, uid=uid),
    "NAT without IPv6": lambda uid: network(NetworkMode.NAT, uid=uid, ipv6=None, mtu=1400),
    "Routed": lambda uid: network(NetworkMode.ROUTED, uid=uid, routes=(BEHIND,)),
    "Isolated": lambda uid: network(uid=uid),
    "Bridge": lambda uid: bridged("br-lan", uid=uid),
}
UID = "5f1c9c5e-0000-4000-8000-000000000001"


@pytest.fixture(autouse=True)
def lan(host: Host) -> None:
    """A bridge of the host. A host forwards for good: what is compared begins with that."""
    host.machine.ip("link", "add", "br-lan", "type", "bridge")
    host.machine.set_sysctl("net/ipv6/conf/br-lan/disable_ipv6", 1)
    host.machine.ip("link", "set", "br-lan", "up")
    for setting in ("ipv4/conf/eth0/forwarding", "ipv6/conf/eth0/force_forwarding"):
        host.machine.set_sysctl(f"net/{setting}", 1)


async def applied(uplinks: Uplinks, router: Path, one: Network) -> None:
    await apply_router(router, one)
    await uplinks.apply(router, one)


def both(host: Host, router: Path) -> set[str]:
    machine = {f"host: {line}" for line in state(host.machine.path)}
    return machine | {f"router: {line}" for line in state(router)}


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
async def test_what_is_so_already_is_not_touched(
    host: Host, router: Path, uplinks: Uplinks, kind: Callable[[str], Network]
) -> None:
    one = kind(UID)
    await applied(uplinks, router, one)
    with counted() as steps:
        await applied(uplinks, router, one)
    assert steps == []


async def test_the_kernel_tells_nobody_of_a_change_when_there_is_none(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    one = network(NetworkMode.ROUTED)
    await applied(uplinks, router, one)
    settled(router, UPLINK)
    settled(host.machine.path, host_link(one.uid))
    with monitored(router) as inside, monitored(host.machine.path) as outside:
        await applied(uplinks, router, one)
    assert (inside, outside) == ([], [])
    with monitored(host.machine.path) as outside:
        await uplinks.apply(router, replace(one, mtu=1400))
    assert outside


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(KINDS, 2)))
async def test_a_network_that_changes_its_mode_is_as_one_that_was_made_so(
    host: Host, router: Path, uplinks: Uplinks, before: str, after: str
) -> None:
    await applied(uplinks, router, KINDS[after](UID))
    expected = both(host, router)
    await uplinks.remove(UID)
    await remove_namespace(router)
    await ensure_namespace(router)
    await applied(uplinks, router, KINDS[before](UID))
    await applied(uplinks, router, KINDS[after](UID))
    assert both(host, router) == expected


DAMAGES = {
    "host's end": ("host ip link delete END",),
    "router's end": ("router ip link delete uplink",),
    "another uplink": ("host ip link delete END", "router ip link add uplink type bridge"),
    "another host's end": ("host ip link delete END", "host ip link add END type veth"),
    "joined to elsewhere": ("host ip link add other type veth", "host ip link set END master br-lan"),
    "down": ("host ip link set END down", "router ip link set uplink down"),
    "addresses": ("host ip address flush dev END", "router ip address flush dev uplink"),
    "more addresses": ("host ip address add 10.99.0.1/24 dev END", "router ip address add fd99::1/64 dev uplink"),
    "routes": ("router ip route flush default", "router ip -6 route flush default", "host ip route flush 10.77.0.0/24"),
    "other way": ("router ip route del default", "router ip route add default dev uplink via 10.77.0.9 onlink"),
    "more routes": ("host ip route add 10.123.0.0/16 via PEER",),
    "MTU": ("host ip link set END mtu 1300", "router ip link set uplink mtu 1300"),
    "alias": ("host ip link set END alias mine",),
    "forwarding": ("host set net/ipv4/conf/END/forwarding 0", "host set net/ipv6/conf/eth0/force_forwarding 0"),
    "IPv6": ("host set net/ipv6/conf/END/disable_ipv6 1", "router set net/ipv6/conf/uplink/disable_ipv6 1"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
async def test_what_somebody_changed_is_repaired(
    host: Host, router: Path, uplinks: Uplinks, damage: tuple[str, ...]
) -> None:
    one = KINDS["Routed"](UID)
    await apply_router(router, one)
    transit, _ = await uplinks.apply(router, one)
    assert transit is not None
    before = both(host, router)
    for command in damage:
        where, *words = command.replace("END", host_link(UID)).replace("PEER", str(transit.router_ipv4)).split()
        namespace = host.machine if where == "host" else Namespace(router)
        if words[0] == "set":
            namespace.set_sysctl(words[1], words[2])
        else:
            namespace.run(*words)
    assert both(host, router) != before
    await applied(uplinks, router, one)
    others = ("other", "veth0")
    assert {line for line in both(host, router) if not any(name in line for name in others)} == before


@pytest.mark.parametrize("kind", ["Routed", "Bridge"])  # what NAT does, Routed does too
async def test_an_uplink_whose_maker_was_killed_before_any_step_is_made_whole_by_the_next(
    host: Host, router: Path, uplinks: Uplinks, kind: str
) -> None:
    one = KINDS[kind](UID)
    await apply_router(router, one)
    with counted() as steps:
        await uplinks.apply(router, one)
    assert len(steps) > 10
    whole = both(host, router)
    for number in range(len(steps)):
        await uplinks.remove(UID)
        with counted(killed_before=number), pytest.raises(Killed):
            await uplinks.apply(router, one)
        assert both(host, router) != whole
        await uplinks.apply(router, one)
        assert both(host, router) == whole, f"killed before {steps[number]}"


@pytest.mark.parametrize(("before", "after"), [("Bridge", "NAT"), ("NAT", "Bridge"), ("Routed", "Isolated")])
async def test_a_change_of_mode_that_was_cut_off_goes_on(
    host: Host, router: Path, uplinks: Uplinks, before: str, after: str
) -> None:
    await applied(uplinks, router, KINDS[after](UID))
    whole = both(host, router)
    number = 0
    while True:
        await applied(uplinks, router, KINDS[before](UID))
        await apply_router(router, KINDS[after](UID))
        with counted(killed_before=number) as steps:
            try:
                await uplinks.apply(router, KINDS[after](UID))
            except Killed:
                pass
            else:
                break
        await uplinks.apply(router, KINDS[after](UID))
        assert both(host, router) == whole, f"killed after {steps[-1:]}"
        number += 1
    assert number > 1


async def test_one_that_has_no_alias_yet_is_removed_too(host: Host, router: Path, uplinks: Uplinks) -> None:
    one = KINDS["NAT"](UID)
    await applied(uplinks, router, one)
    host.machine.ip("link", "set", host_link(UID), "alias", "")
    await uplinks.remove(UID)
    assert host_link(UID) not in host.machine.links()
