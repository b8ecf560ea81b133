"""What guests say of their own addresses, in frames, and what the kernel keeps of it."""

from collections.abc import Iterable
from dataclasses import replace

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Host
from tests.drivers.network.linux.rules import frames as f
from tests.drivers.network.linux.rules.capture import capture, send
from tests.drivers.network.linux.rules.lies import A4, A_LOCAL, A_MAC, B4, B_MAC, FREE4, FREE6, MADE_UP_LOCAL
from tests.drivers.network.linux.rules.routers import Router, new_router
from tests.drivers.network.numbered import network, port
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Network, Port
from virtplane_drivers.network.linux.names import tap_name
from virtplane_drivers.network.linux.rules import RouterRules
from virtplane_drivers.network.linux.rules.heard import MAX_OF_A_PORT, SET_SIZE, heard_now
from virtplane_drivers.network.linux.rules.nft import generation
from virtplane_drivers.network.linux.seen import SeenAddresses

FIRST, SECOND = BARE = (port(2, addresses=()), port(3, addresses=()))
NOBODY = "0.0.0.0"  # noqa: S104  # an address as ARP has it
SOURCE, TARGET, NONCE = f.option(1, A_MAC), f.option(2, A_MAC), f.option(14, "01:02:03:04:05:06")


def arp(sender: str, target: str = B4, *, mac: str = A_MAC, operation: int = 1) -> bytes:
    return f.frame(A_MAC, f.ARP, f.arp(mac, sender, target, operation))


def discovery(source: str, kind: int, target: str, *options: bytes, mac: str = A_MAC) -> bytes:
    return f.frame(mac, f.IPV6, f.ipv6(source, f.ALL_NODES, f.ICMPV6, f.discovery(kind, target, *options)))


def bare(uid: str = "bare", ports: tuple[Port, ...] = BARE) -> Network:
    """Without any subnet."""
    return replace(network(uid, *ports, mode=NetworkMode.ISOLATED), ipv4=None, ipv6=None)


def heard(router: Router, one: Port) -> set[str]:
    _, all_heard = router.at.inside(lambda: heard_now(router.network))
    return {str(each.address) for each in all_heard if each.tap == tap_name(one)}


def hears(router: Router, one: Port, *addresses: str) -> None:
    """Returns once these, and no others, were heard of the port."""
    eventually(lambda: set(addresses) <= heard(router, one), 2, 0.01)
    assert heard(router, one) == set(addresses)


async def router_of(host: Host, one: Network) -> Router:
    router = new_router(host, one, None)
    await RouterRules().apply(router.path, one, None, ())
    return router


async def test_what_a_guest_says_of_its_own_address_is_heard_and_nothing_else(host: Host) -> None:
    router = await router_of(host, bare())
    guest = router.guest(FIRST)
    nothing = (
        arp(NOBODY, FREE4),
        arp("10.0.0.201", mac=B_MAC),
        arp("127.0.0.1"),
        arp("224.0.0.1"),
        arp("255.255.255.255"),
        arp("0.0.0.7"),
        f.frame(A_MAC, f.IPV4, f.datagram("10.0.0.202", B4)),
        f.frame(A_MAC, f.IPV6, f.datagram("fd00::202", FREE6)),
        discovery("::", f.SOLICIT, MADE_UP_LOCAL, NONCE),
        discovery(A_LOCAL, f.SOLICIT, FREE6, SOURCE),
        discovery(A_LOCAL, f.ADVERT, A_LOCAL, TARGET),
        discovery("fd00::203", f.SOLICIT, FREE6, SOURCE, mac=B_MAC),
        f.tagged(arp("10.0.0.204"), vlan=7),
    )
    own = (
        arp("10.0.0.11"),
        arp("10.0.0.12", operation=2),
        arp("10.0.0.13", "10.0.0.13"),
        discovery("fd00::14", f.SOLICIT, FREE6, SOURCE),
        discovery("::", f.SOLICIT, "fd00::15", NONCE),
        discovery(A_LOCAL, f.ADVERT, "fd00::16", TARGET),
    )
    send(guest, *nothing, *own)
    hears(router, FIRST, *(f"10.0.0.{n}" for n in (11, 12, 13)), *(f"fd00::{n}" for n in (14, 15, 16)))
    assert heard(router, SECOND) == set()


async def test_only_families_that_the_network_does_not_manage_are_listened_to(host: Host) -> None:
    ports = tuple(port(number, addresses=(f"10.0.0.{number}",)) for number in (2, 3))
    router = await router_of(host, replace(network("half", *ports, mode=NetworkMode.ISOLATED), ipv6=None))
    send(router.guest(ports[0]), arp(A4), discovery("fd00::14", f.SOLICIT, FREE6, SOURCE))
    hears(router, ports[0], "fd00::14")
    assert "heard" not in (await router_of(host, network("whole", *ports))).at.run("nft", "list", "ruleset")


def claims(numbers: Iterable[int]) -> list[bytes]:
    return [
        frame
        for n in numbers
        for frame in (
            arp(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"),
            discovery(A_LOCAL, f.ADVERT, f"fd00::{n:x}", TARGET),
            discovery(f"fd01::{n:x}", f.SOLICIT, FREE6, SOURCE),
        )
    ]


async def test_a_guest_that_claims_thousands_of_addresses_has_few_and_keeps_nobody_from_being_heard(host: Host) -> None:
    router = await router_of(host, bare())
    liar, honest = (router.guest(one) for one in BARE)
    send(liar, *claims(range(1, 3000)))
    with capture(honest) as arrived:  # not before: so many are too many for it
        send(liar, last := arp(FREE4))
        arrived.wait_for(last)
    found = heard(router, FIRST)
    assert 0 < len([one for one in found if "." in one]) <= MAX_OF_A_PORT
    assert 0 < len([one for one in found if ":" in one]) <= MAX_OF_A_PORT
    send(honest, f.frame(B_MAC, f.ARP, f.arp(B_MAC, "10.0.0.99", FREE4)))
    hears(router, SECOND, "10.0.0.99")


def test_a_thousand_guests_that_lie_leave_room_in_the_sets() -> None:
    """A bridge has no more than 1,023 ports."""
    assert 1023 * MAX_OF_A_PORT < SET_SIZE


async def test_what_is_heard_is_no_change_of_the_rules_and_a_port_more_forgets_nothing(host: Host) -> None:
    one = bare(ports=(FIRST,))
    router, rules = new_router(host, one, None), RouterRules()
    guest = router.guest(FIRST)
    await rules.apply(router.path, one, None, ())
    before = await generation(router.path)
    send(guest, arp("10.0.0.11"))
    hears(router, FIRST, "10.0.0.11")
    await rules.apply(router.path, one, None, ())
    assert await generation(router.path) == before
    await rules.apply(router.path, router.with_ports(*BARE), None, ())
    hears(router, FIRST, "10.0.0.11")


async def test_what_was_heard_is_remembered_when_the_rules_are_replaced_and_also_by_who_comes_later(host: Host) -> None:
    one = bare()
    router = await router_of(host, one)
    send(router.guest(FIRST), arp("10.0.0.11"))
    hears(router, FIRST, "10.0.0.11")
    seen = SeenAddresses()  # of a process that did not put the rules in
    assert await seen.has_news(router.path, one)
    told = await seen.tell(router.path, one)
    assert [*map(str, told[FIRST.key])] == ["10.0.0.11"]
    router.at.run("nft", "flush", "ruleset")
    assert heard(router, FIRST) == set()
    assert not await seen.has_news(router.path, one)
    assert await seen.tell(router.path, one) == told


async def test_the_next_run_of_a_machine_has_no_address_of_the_one_before(host: Host) -> None:
    one = bare()
    router, seen = await router_of(host, one), SeenAddresses()
    send(router.guest(FIRST), arp("10.0.0.11"))
    hears(router, FIRST, "10.0.0.11")
    assert await seen.tell(router.path, one) != {}
    router.at.ip("link", "delete", tap_name(FIRST))
    assert await seen.has_news(router.path, one)
    send(router.guest(FIRST), arp("10.0.0.12"))
    hears(router, FIRST, "10.0.0.12")
    assert [*map(str, (await seen.tell(router.path, one))[FIRST.key])] == ["10.0.0.12"]


async def test_a_network_that_is_gone_is_no_error(host: Host) -> None:
    one = bare()
    router, seen = await router_of(host, one), SeenAddresses()
    send(router.guest(FIRST), arp("10.0.0.11"))
    hears(router, FIRST, "10.0.0.11")
    told = await seen.tell(router.path, one)
    assert await seen.tell(host.folder / "netns" / "gone", one) == told
    seen.forget(one.uid)
    assert not await seen.has_news(host.folder / "netns" / "gone", one)
