"""The inside of a router: what it answers to, what it keeps quiet about, how it is repaired and changed in place."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.networks import (
    GATEWAY_IPV4,
    GATEWAY_IPV6,
    GUEST_IPV4,
    GUEST_IPV6,
    GUEST_MAC,
    bridged,
    network,
    port,
)
from tests.drivers.network.linux.seen import addresses, holding, monitored, routes, settled, state
from tests.drivers.network.linux.steps import Killed, counted
from tests.drivers.network.numbered import subnet
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import Addressing, NetworkMode
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import Network, Route
from virtplane_drivers.network.linux.links import apply_router, bridge_interfaces, ports_held, router_link_local
from virtplane_drivers.network.linux.names import BRIDGE, router_mac, tap_name
from virtplane_drivers.network.linux.namespace import ensure_namespace

OTHER_MAC = "52:54:00:77:00:06"


def guest(host: Host, router: Path, mac: str = GUEST_MAC, last: int = 5) -> Namespace:
    gateways = (GATEWAY_IPV4, GATEWAY_IPV6)
    return host.guest(router, mac, f"10.77.0.{last}/24", f"fd77::{last}/64", gateways=gateways)


async def test_guests_reach_their_gateway_and_each_other(host: Host, router: Path) -> None:
    await apply_router(router, network())
    first, second = guest(host, router), guest(host, router, OTHER_MAC, 6)
    for address in (GATEWAY_IPV4, GATEWAY_IPV6, "10.77.0.6", "fd77::6"):
        first.reaches(address)
    second.reaches(GUEST_IPV4)


async def test_the_gateway_has_one_mac_and_one_link_local_address_wherever_the_network_is(
    host: Host, router: Path
) -> None:
    green = network()
    await apply_router(router, green)
    link_local = str(router_link_local(green.uid).ip)
    assert Namespace(router).links()[BRIDGE]["address"] == router_mac(green.uid)
    assert addresses(router, BRIDGE) == {f"{GATEWAY_IPV4}/24", f"{GATEWAY_IPV6}/64", f"{link_local}/64"}
    one = guest(host, router)
    one.reaches(f"{link_local}%eth0")
    one.reaches(GATEWAY_IPV4)
    assert one.ip("neigh", "show", GATEWAY_IPV4)[0]["lladdr"] == router_mac(green.uid)


def test_the_link_local_address_is_that_of_the_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtplane_drivers.network.linux.links.router_mac", lambda _: "52:54:00:12:34:56")
    assert str(router_link_local("any")) == "fe80::5054:ff:fe12:3456/64"


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (network(ipv6=None), [f"{GATEWAY_IPV4}/24"]),
        (network(ipv4=subnet("10.77.0.0/24", None, Addressing.STATIC), ipv6=None), []),
        (network(ipv4=subnet("10.77.0.0/24", None), ipv6=None), ["169.254.0.53/32"]),
        (network(ipv6=subnet("fd77::/64", None, Addressing.STATIC)), [f"{GATEWAY_IPV4}/24"]),
        (bridged("br-lan"), []),
        (bridged("br-lan", ipv4=subnet("10.77.0.0/24", GATEWAY_IPV4)), []),
    ],
    ids=[
        "IPv4 alone",
        "no gateway",
        "no gateway, and DHCP",
        "IPv6 without a gateway",
        "Bridge",
        "Bridge with a gateway outside",
    ],
)
async def test_a_router_has_the_addresses_that_it_serves_by_and_no_other(
    router: Path, one: Network, expected: list[str]
) -> None:
    assert [str(interface) for interface in bridge_interfaces(one)] == expected
    await apply_router(router, one)
    assert addresses(router, BRIDGE) == set(expected)
    assert Namespace(router).sysctl(f"net/ipv6/conf/{BRIDGE}/disable_ipv6") == "1"


async def test_a_router_answers_for_no_address_of_its_other_devices(host: Host, router: Path) -> None:
    """Its transit is no guest's business, and asked for by ARP it would be given by default."""
    await apply_router(router, network())
    Namespace(router).ip("link", "add", "other", "type", "bridge")
    Namespace(router).ip("address", "add", "10.77.0.200/32", "dev", "other")
    Namespace(router).ip("link", "set", "other", "up")
    one = guest(host, router)
    one.reaches(GATEWAY_IPV4)
    assert not one.pings("10.77.0.200", timeout_s=0.3)


async def test_a_network_behind_a_machine_is_reached_through_it(host: Host, router: Path) -> None:
    behind = Route(ip_network("192.168.50.0/24"), ip_address(GUEST_IPV4))
    await apply_router(router, network(routes=(behind, Route(ip_network("fd50::/64"), ip_address(GUEST_IPV6)))))
    gate, other = guest(host, router), guest(host, router, OTHER_MAC, 6)
    gate.ip("address", "add", "192.168.50.1/32", "dev", "lo")
    gate.ip("address", "add", "fd50::1/128", "dev", "lo")
    other.reaches("192.168.50.1")
    other.reaches("fd50::1")


async def test_what_is_so_already_is_not_touched(router: Path) -> None:
    route = Route(ip_network("192.168.50.0/24"), ip_address(GUEST_IPV4))
    green = network(routes=(route,), mtu=1400, ports=(port(),))
    attachment = TapAttachment(router, tap_name(green.ports[0]), BRIDGE, 1400, "alias")
    with counted() as steps:
        await apply_router(router, green)
        assert steps
        with holding(attachment):
            del steps[:]
            await apply_router(router, green)
            assert steps == []


async def test_the_kernel_tells_nobody_of_a_change_when_there_is_none(router: Path) -> None:
    green = network()
    await apply_router(router, green)
    settled(router, BRIDGE)
    with monitored(router) as changes:
        await apply_router(router, green)
    assert changes == []
    with monitored(router) as changes:
        await apply_router(router, replace(green, mtu=1400))
    assert changes


@pytest.mark.parametrize(
    "before",
    [
        network(ipv6=None),
        network(ipv4=None),
        network(mtu=9000),
        network(ipv4=subnet("10.77.0.0/24", "10.77.0.254"), ipv6=subnet("fd77::/64", "fd77::ff")),
        network(ipv4=subnet("10.77.0.0/16", GATEWAY_IPV4), ipv6=subnet("fd77::/48", GATEWAY_IPV6)),
        network(routes=(Route(ip_network("192.168.60.0/24"), ip_address("10.77.0.9")),)),
        network(routes=(Route(ip_network("192.168.50.0/24"), ip_address("10.77.0.9")),)),
        bridged("br-lan"),
    ],
    ids=["no IPv6", "no IPv4", "MTU", "gateways", "prefixes", "other route", "route by another", "Bridge"],
)
async def test_a_network_that_changes_is_as_one_that_was_made_so(host: Host, router: Path, before: Network) -> None:
    routes_behind = (
        Route(ip_network("192.168.50.0/24"), ip_address(GUEST_IPV4)),
        Route(ip_network("fd50::/64"), ip_address(GUEST_IPV6)),
    )
    after = network(uid=before.uid, routes=routes_behind, mtu=1400)
    fresh = router.with_name("fresh")
    await ensure_namespace(fresh)
    await apply_router(fresh, after)
    await apply_router(router, before)
    await apply_router(router, after)
    assert state(router) == state(fresh)


DAMAGES = {
    "bridge": ("ip link delete br0",),
    "another kind": ("ip link delete br0", "ip link add br0 type veth"),
    "down": ("ip link set br0 down",),
    "MAC": ("ip link set br0 address 52:54:00:99:99:99",),
    "MTU": ("ip link set br0 mtu 1300",),
    "addresses": ("ip address flush dev br0",),
    "more addresses": ("ip address add 10.99.0.1/24 dev br0", "ip address add fd99::1/64 dev br0"),
    "routes": ("ip route flush proto static", "ip -6 route flush proto static"),
    "snooping": ("ip link set br0 type bridge mcast_snooping 1 stp_state 1",),
    "loopback": ("ip link set lo down",),
    "forwarding": ("set net/ipv4/ip_forward 0", "set net/ipv6/conf/all/forwarding 0"),
    "IPv6": ("set net/ipv6/conf/br0/disable_ipv6 1",),
    "filter": ("set net/ipv4/conf/br0/rp_filter 0", "set net/ipv4/conf/all/arp_ignore 0"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
async def test_what_somebody_changed_is_repaired(router: Path, damage: tuple[str, ...]) -> None:
    green = network(routes=(Route(ip_network("192.168.50.0/24"), ip_address(GUEST_IPV4)),))
    await apply_router(router, green)
    before = state(router)
    for command in damage:
        match command.split():
            case ["set", name, value]:
                Namespace(router).set_sysctl(name, value)
            case argv:
                Namespace(router).run(*argv)
    assert state(router) != before
    await apply_router(router, green)
    assert state(router) == before


async def test_a_router_whose_maker_was_killed_before_any_step_is_made_whole_by_the_next(
    host: Host, router: Path
) -> None:
    route = Route(ip_network("192.168.50.0/24"), ip_address(GUEST_IPV4))
    green = network(routes=(route,), mtu=1400)
    with counted() as steps:
        await apply_router(router, green)
    assert len(steps) > 10
    whole = state(router)
    for number in range(len(steps)):
        path = router.with_name(f"cut-{number}")
        await ensure_namespace(path)
        with counted(killed_before=number), pytest.raises(Killed):
            await apply_router(path, green)
        assert state(path) != whole
        await apply_router(path, green)
        assert state(path) == whole, f"killed before {steps[number]}"


async def test_taps_that_are_there_are_repaired_and_those_of_no_port_left_where_they_are(router: Path) -> None:
    kept, former = port(), port()
    green = network(ports=(kept,), mtu=1400)
    await apply_router(router, green)
    names = {one: tap_name(one) for one in (kept, former)}
    with (
        holding(TapAttachment(router, names[kept], BRIDGE, 1400, "kept")),
        holding(TapAttachment(router, names[former], BRIDGE, 1400, "former")),
    ):
        for name in names.values():
            for command in (["nomaster"], ["mtu", "1300"], ["down"]):
                Namespace(router).ip("link", "set", name, *command)
        await apply_router(router, green)
        links = Namespace(router).links()
        assert (links[names[kept]]["master"], links[names[kept]]["mtu"]) == (BRIDGE, 1400)
        assert "UP" in links[names[kept]]["flags"]
        assert "master" not in links[names[former]]
        assert links[BRIDGE]["mtu"] == 1400
        assert await ports_held(router) == set(names.values())


async def test_a_bridge_whose_mtu_followed_a_wrong_port_is_repaired_with_it(router: Path) -> None:
    one = port()
    green = network(ports=(one,))  # 1500: the kernel's own, so that the bridge follows its ports
    await apply_router(router, green)
    with holding(TapAttachment(router, tap_name(one), BRIDGE, 1300, "wrong")):
        assert Namespace(router).links()[BRIDGE]["mtu"] == 1300
        await apply_router(router, green)
        links = Namespace(router).links()
        assert (links[tap_name(one)]["mtu"], links[BRIDGE]["mtu"]) == (1500, 1500)


async def test_bridged_frames_are_none_of_inets_business(router: Path) -> None:
    await apply_router(router, network())
    names = Namespace(router).run("ls", "/proc/sys/net/bridge").split()
    calls = [name for name in names if name.startswith("bridge-nf-call")]
    assert {Namespace(router).sysctl(f"net/bridge/{name}") for name in calls} <= {"0"}


async def test_what_the_kernel_refuses_is_unavailable_and_names_it(router: Path) -> None:
    beyond = Route(ip_network("192.168.50.0/24"), ip_address("172.16.9.9"))
    with pytest.raises(Unavailable, match=r"default/green .* 192\.168\.50\.0/24") as raised:
        await apply_router(router, network(routes=(beyond,)))
    assert raised.value.reason == Reason.NETWORK_ERROR


async def test_of_a_namespace_that_is_gone_no_port_is_held(tmp_path: Path) -> None:
    assert await ports_held(tmp_path / "absent") == frozenset()
    with pytest.raises(Unavailable, match="absent"):
        await apply_router(tmp_path / "absent", network(NetworkMode.NAT))


async def test_routers_do_not_see_each_other(host: Host, router: Path) -> None:
    """Two networks with one CIDR, each with a guest of that address."""
    second = router.with_name("second")
    await ensure_namespace(second)
    for path in (router, second):
        await apply_router(path, network())
    first_guest, second_guest = guest(host, router), guest(host, second)
    second_guest.ip("address", "add", "10.77.0.99/24", "dev", "eth0")
    first_guest.reaches(GATEWAY_IPV4)
    assert not first_guest.pings("10.77.0.99", timeout_s=0.3)
    assert routes(router) == routes(second)
