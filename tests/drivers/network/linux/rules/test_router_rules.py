"""A router's rules: put in once, changed in place, and put back."""

from dataclasses import replace

import pytest

from tests.drivers.network.linux.host import Host
from tests.drivers.network.linux.rules.routers import HOST_ADDRESSES, Router, new_router
from tests.drivers.network.numbered import network, port
from virtplane_api.vocabulary import ForwardProtocol
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import Network, PortForward
from virtplane_drivers.network.linux.names import tap_name
from virtplane_drivers.network.linux.rules import RouterRules
from virtplane_drivers.network.linux.rules.nft import generation


@pytest.fixture
def router(host: Host) -> Router:
    return new_router(host, network("ruled", port(2), port(3)))


async def apply(rules: RouterRules, router: Router, one: Network | None = None) -> None:
    await rules.apply(router.path, one or router.network, router.transit, HOST_ADDRESSES)


def listed(router: Router, *, handles: bool = False) -> str:
    return router.at.run("nft", *(["-a"] if handles else []), "list", "ruleset")


def chains(router: Router) -> list[str]:
    """With their handles, which a chain that is made again does not keep."""
    return [line for line in listed(router, handles=True).splitlines() if "chain" in line]


async def test_what_is_so_already_is_not_touched(router: Router) -> None:
    rules = RouterRules()
    await apply(rules, router)
    before = await generation(router.path)
    await apply(rules, router)
    assert await generation(router.path) == before


async def test_a_machine_that_comes_and_goes_leaves_all_else_in_place(router: Router) -> None:
    rules = RouterRules()
    await apply(rules, router)
    before, chains_before = listed(router), chains(router)
    await apply(rules, router, replace(router.network, ports=(port(2), port(3), port(4))))
    assert tap_name(port(4)) in listed(router)
    await apply(rules, router)
    assert listed(router) == before
    assert chains(router) == chains_before


@pytest.mark.parametrize(
    "change",
    [
        "flush ruleset",
        "delete table bridge virtplane",
        "flush table inet virtplane",
        "add rule bridge virtplane from_ipv4 accept",
        f"delete element bridge virtplane port {{ {tap_name(port(2))} }}",
        f"add element bridge virtplane port_ipv4 {{ {tap_name(port(2))} . 52:54:01:00:00:02 . 10.0.0.3 }}",
    ],
)
async def test_what_somebody_changed_is_put_back(router: Router, change: str) -> None:
    rules = RouterRules()
    await apply(rules, router)
    before = listed(router)
    router.at.run("nft", change)
    assert listed(router) != before
    await apply(rules, router)
    assert listed(router) == before


async def test_a_change_goes_on_from_what_another_process_put_in(router: Router) -> None:
    await apply(RouterRules(), router, replace(router.network, ports=(port(7),)))
    await apply(RouterRules(), router)
    assert tap_name(port(7)) not in listed(router)
    assert tap_name(port(2)) in listed(router)


async def test_rules_that_nft_refuses_leave_the_old_ones_in_force_and_the_next_go_in(router: Router) -> None:
    rules = RouterRules()
    await apply(rules, router)
    before, no_port = listed(router), PortForward(ForwardProtocol.TCP, 99999, 80)
    with pytest.raises(Unavailable, match="nft -f -"):
        await apply(rules, router, replace(router.network, ports=(port(2, forwards=(no_port,)),)))
    assert listed(router) == before
    await apply(rules, router, replace(router.network, ports=(port(5),)))
    assert tap_name(port(5)) in listed(router)


async def test_a_router_that_was_made_again_gets_its_rules(host: Host, router: Router) -> None:
    """Under the same name: it is another namespace."""
    rules, link = RouterRules(), host.folder / "router"
    link.symlink_to(router.path)
    await rules.apply(link, router.network, None, ())
    fresh = host.new_namespace()
    link.unlink()
    link.symlink_to(fresh.path)
    await rules.apply(link, router.network, None, ())
    assert tap_name(port(2)) in fresh.run("nft", "list", "ruleset")


async def test_a_router_that_is_gone_is_said_so(host: Host, router: Router) -> None:
    with pytest.raises(Unavailable, match="absent"):
        await RouterRules().apply(host.folder / "absent", router.network, None, ())
