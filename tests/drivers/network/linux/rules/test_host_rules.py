"""The agent's table in the host's namespace, beside those of others."""

from ipaddress import ip_address
from typing import Any

import pytest

from tests.drivers.network.linux.host import HOST_IPV4, OUTSIDE_IPV4, Host
from tests.drivers.network.linux.rules.routers import Router, new_router
from tests.drivers.network.linux.rules.services import PORT, reaches, seen_as, service
from tests.drivers.network.numbered import network, port
from virtplane_api.vocabulary import ForwardProtocol
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import Network, PortForward
from virtplane_drivers.network.linux.names import host_link, host_table
from virtplane_drivers.network.linux.rules import HostRules, RouterRules
from virtplane_drivers.network.linux.rules.kept import KeptRules
from virtplane_drivers.network.linux.values import Transit

FOREIGN = """
table inet somebody {
    set blocked { type ipv4_addr; elements = { 192.0.2.9 } }
    chain input { type filter hook input priority 5; policy accept; ip saddr @blocked counter drop; }
}
table ip nat { chain POSTROUTING { type nat hook postrouting priority srcnat; oifname "docker0" masquerade; }; }
"""
FORWARDED = port(2, forwards=(PortForward(ForwardProtocol.TCP, 8080, PORT),))


def served(router: Router) -> dict[str, tuple[Network, Transit]]:
    assert router.transit is not None
    return {router.network.uid: (router.network, router.transit)}


@pytest.fixture
def router(host: Host) -> Router:
    return new_router(host, network("hosted", FORWARDED))


@pytest.fixture
def rules(host: Host) -> HostRules:
    return HostRules("test", host.machine.path)


def without_ours(host: Host) -> str:
    """All tables but ours, byte for byte."""
    tables = [line for line in host.machine.run("nft", "list", "tables").splitlines() if "virtplane" not in line]
    return "".join(host.machine.run("nft", "list", *table.split()) for table in tables)


async def test_tables_of_others_are_as_they_were_after_each_step(host: Host, router: Router, rules: HostRules) -> None:
    host.machine.run("nft", "-f", "-", stdin=FOREIGN)
    before = without_ours(host)
    assert "somebody" in before
    await HostRules("other", host.machine.path).apply({})
    for step in (rules.apply(served(router)), rules.apply({}), rules.apply(served(router)), rules.remove()):
        await step
        assert without_ours(host) == before
    assert host_table("test") not in host.machine.run("nft", "list", "tables")
    assert host_table("other") in host.machine.run("nft", "list", "tables")


async def test_rules_that_were_flushed_are_missed_and_put_back(host: Host, router: Router, rules: HostRules) -> None:
    assert not await rules.check()
    await RouterRules().apply(router.path, router.network, router.transit, ())
    await rules.apply(served(router))
    assert await rules.check()
    with service(router.guest(FORWARDED)):
        assert reaches(host.outside, HOST_IPV4, 8080) == OUTSIDE_IPV4
        host.machine.run("nft", "flush", "ruleset")
        assert not await rules.check()
        assert seen_as(host.outside, HOST_IPV4, 8080, timeout_s=0.3) is None
        await rules.apply(served(router))
        assert await rules.check()
        assert reaches(host.outside, HOST_IPV4, 8080) == OUTSIDE_IPV4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        # Our script, of elements of sets, is refused without the sets; without a chain it is not.
        ("flush ruleset", "No such file or directory"),
        ("flush chain inet virtplane-test forward", ""),
    ],
    ids=["all of them", "a chain"],
)
async def test_rules_that_are_flushed_between_our_look_and_our_change_are_put_in_as_a_whole(
    host: Host,
    router: Router,
    rules: HostRules,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
    why: str,
) -> None:
    going = new_router(host, network("going", port(3)))
    await rules.apply(served(router))
    as_a_whole = host.machine.run("nft", "list", "ruleset")
    await rules.apply(served(router) | served(going))
    look = KeptRules._intact_at

    async def look_and_flush(*args: Any) -> int | None:
        seen_at = await look(*args)
        host.machine.run("nft", *change.split())
        return seen_at

    caplog.set_level("INFO", "virtplane_drivers")
    with monkeypatch.context() as patched:
        patched.setattr(KeptRules, "_intact_at", look_and_flush)
        await rules.apply(served(router))
    assert await rules.check()
    put_in = host.machine.run("nft", "list", "ruleset")
    assert host_link(router.network.uid) in put_in
    assert host_link(going.network.uid) not in put_in
    assert put_in == as_a_whole
    # What nft said against it is in the log.
    assert [why in record.getMessage() for record in caplog.records] == ([True] if why else [])


@pytest.mark.parametrize(
    "change",
    [
        ("nft", "add", "rule", "inet", "virtplane-test", "forward", "accept"),
        ("nft", "flush", "chain", "inet", "virtplane-test", "forward"),
        ("nft", "delete", "element", "inet", "virtplane-test", "nat_link", f"{{ {host_link('hosted')} }}"),
        ("nft", "flush", "map", "inet", "virtplane-test", "forward_ipv4"),
        ("nft", "delete", "table", "inet", "virtplane-test"),
        ("sh", "-c", f"echo 0 > /proc/sys/net/ipv4/conf/{host_link('hosted')}/route_localnet"),
        ("ip", "-6", "route", "flush", "table", "local", "::1", "dev", host_link("hosted")),
    ],
    ids=lambda change: " ".join(change[:4]),
)
async def test_any_change_of_ours_is_missed_and_repaired(
    host: Host, router: Router, rules: HostRules, change: tuple[str, ...]
) -> None:
    await rules.apply(served(router))
    before = host.machine.run("nft", "list", "ruleset")
    host.machine.run(*change)
    assert not await rules.check()
    await rules.apply(served(router))
    assert await rules.check()
    assert host.machine.run("nft", "list", "ruleset") == before


async def test_a_change_of_others_is_no_reason_to_touch_ours(host: Host, router: Router, rules: HostRules) -> None:
    await rules.apply(served(router))
    handles = host.machine.run("nft", "-a", "list", "table", "inet", host_table("test"))
    host.machine.run("nft", "-f", "-", stdin=FOREIGN)
    assert await rules.check()
    await rules.apply(served(router))
    assert host.machine.run("nft", "-a", "list", "table", "inet", host_table("test")) == handles


async def test_an_agent_that_starts_again_finds_the_same_rules(host: Host, router: Router, rules: HostRules) -> None:
    await rules.apply(served(router))
    before = host.machine.run("nft", "list", "ruleset")
    again = HostRules("test", host.machine.path)
    assert not await again.check()
    await again.apply(served(router))
    assert await again.check()
    assert host.machine.run("nft", "list", "ruleset") == before


async def test_a_network_whose_link_is_not_there_yet_keeps_nobody_from_the_others(host: Host, router: Router) -> None:
    rules = HostRules("test", host.machine.path)
    missing = network("missing", FORWARDED), Transit(*map(ip_address, ("1.0.0.0", "1.0.0.1", "fd76::", "fd76::1")))  # type: ignore[arg-type]
    await rules.apply({**served(router), "missing": missing})
    assert await rules.check()


async def test_a_host_that_is_gone_is_said_so(host: Host) -> None:
    rules = HostRules("test", host.folder / "absent")
    for call in (rules.apply({}), rules.remove()):
        with pytest.raises(Unavailable, match="absent"):
            await call
