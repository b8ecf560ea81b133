"""A network changes, and its dnsmasq with it: in force once `apply` returns."""

from dataclasses import replace
from typing import Any

import pytest

from tests.drivers.network.linux.dnsmasq import dhcp_client as dhcp
from tests.drivers.network.linux.dnsmasq.networks import DB, MAC, OTHER_MAC, WEB, port
from tests.drivers.network.linux.dnsmasq.served import NAME_ERROR, REFUSED, Served, answer, lease
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.host.process import start_ticks


async def test_a_network_that_is_so_already_is_left_alone(served: Served) -> None:
    router, names = served.router(), served.names()
    await names.apply(router.path, served.network(WEB))
    pid, ticks = served.pid(), start_ticks(served.pid())
    (run,) = (served.folder / "dnsmasq" / f"{served.token}-a").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    await names.apply(router.path, served.network(WEB))
    assert (served.pid(), start_ticks(pid)) == (pid, ticks)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


async def test_a_new_machine_is_answered_once_apply_returns_by_the_process_that_runs(served: Served) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    await names.apply(router.path, served.network(WEB))
    pid = served.pid()
    assert answer(guest, "db.shop.test").code == NAME_ERROR
    await names.apply(router.path, served.network(DB, WEB))
    assert str(lease(guest, OTHER_MAC).address) == "10.20.0.10"
    assert answer(guest, "db.shop.test").answers == ("10.20.0.10",)
    assert served.pid() == pid


async def test_a_machine_that_left_is_not_answered_and_its_name_is_gone(served: Served) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    await names.apply(router.path, served.network(WEB, DB))
    lease(guest, OTHER_MAC)
    await names.apply(router.path, served.network(WEB))
    assert guest.inside(lambda: dhcp.exchange(OTHER_MAC, timeout_s=0.7)) is None
    assert answer(guest, "db.shop.test").code == NAME_ERROR
    assert str(lease(guest).address) == "10.20.0.9"


async def test_an_address_that_moves_to_another_machine_is_given_to_it_at_once(served: Served) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router)
    await names.apply(router.path, served.network(WEB))
    assert str(lease(guest).address) == "10.20.0.9"
    await names.apply(router.path, served.network(replace(WEB, mac=OTHER_MAC)))
    assert str(lease(guest, OTHER_MAC).address) == "10.20.0.9"
    assert guest.inside(lambda: dhcp.reclaimed(MAC, "10.20.0.9", timeout_s=0.7)) is None


async def test_a_machine_whose_address_changed_is_told_to_ask_again(served: Served) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router)
    await names.apply(router.path, served.network(WEB))
    lease(guest)
    await names.apply(router.path, served.network(port(MAC, "web", "10.20.0.77")))
    refused = guest.inside(lambda: dhcp.reclaimed(MAC, "10.20.0.9"))
    assert refused is not None
    assert refused.type == dhcp.NAK
    assert str(lease(guest).address) == "10.20.0.77"


async def test_a_renewal_after_a_restart_is_answered(served: Served) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router, MAC, "10.20.0.9/24")
    await names.apply(router.path, served.network(WEB, DB))
    lease(guest)
    pid = served.pid()
    await names.apply(router.path, served.network(WEB))
    assert served.pid() != pid
    reply = guest.inside(lambda: dhcp.renewed(MAC, "10.20.0.9", "10.20.0.1"))
    assert reply is not None
    assert (reply.type, str(reply.address)) == (dhcp.ACK, "10.20.0.9")


async def test_a_setting_that_changed_is_in_force_once_apply_returns(served: Served) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router)
    await names.apply(router.path, served.network(WEB))
    await names.apply(router.path, served.network(WEB, mtu=1280))
    assert lease(guest).number(dhcp.MTU) == 1280
    assert len(served.pids()) == 1


async def test_servers_that_changed_are_asked_by_the_process_that_runs(served: Served) -> None:
    router, names = served.router(), served.names(resolv_conf="nameserver 192.0.2.1\n")
    assert await names.apply(router.path, served.network(WEB)) == []
    pid = served.pid()
    (served.folder / "resolv.conf").write_text("")
    assert len(await names.apply(router.path, served.network(WEB))) == 1
    guest = served.guest(router, MAC, "10.20.0.9/24")
    assert answer(guest, "www.example.org").code == REFUSED
    assert served.pid() == pid


@pytest.mark.parametrize(
    "change", [{"mode": NetworkMode.BRIDGE}, {"ipv4": None, "ipv6": None}], ids=["mode", "addresses"]
)
async def test_a_network_that_needs_none_any_more_has_none(served: Served, change: dict[str, Any]) -> None:
    router, names = served.router(), served.names()
    await names.apply(router.path, served.network(WEB))
    await names.apply(router.path, served.network(WEB, **change))
    assert served.pids() == []
    assert await names.inventory() == ()
