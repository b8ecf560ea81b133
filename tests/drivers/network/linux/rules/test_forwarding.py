"""Rules of others that keep our packets from being forwarded."""

import pytest

from tests.drivers.network.linux.host import OUTSIDE_IPV4, Host
from tests.drivers.network.linux.rules.routers import new_router
from tests.drivers.network.linux.rules.services import reaches, seen_as, service
from tests.drivers.network.numbered import network, port
from virtplane_api.reasons import Reason
from virtplane_drivers.network.linux.names import host_link
from virtplane_drivers.network.linux.rules import HostRules, RouterRules, forwarding_findings

LINK = host_link("blocked")
DROP = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"
DOCKER = """
table ip filter {
    chain DOCKER-USER { counter return; }
    chain FORWARD {
        type filter hook forward priority 0; policy drop; counter jump DOCKER-USER; oifname "docker0" accept;
    }
}
"""
FIREWALLD = """
table inet firewalld {
    chain filter_FWD_trusted { accept; }
    chain filter_FORWARD_ZONES { iifname "trusted0" goto filter_FWD_trusted; }
    chain filter_FORWARD {
        type filter hook forward priority 10; policy accept;
        ct state established,related accept; jump filter_FORWARD_ZONES; reject with icmpx admin-prohibited;
    }
}
"""


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (DROP, ["ip filter FORWARD", f"nft insert rule ip filter FORWARD iifname {LINK} accept"]),
        (DOCKER, ["ip filter FORWARD", f"nft insert rule ip filter DOCKER-USER iifname {LINK} accept"]),
        (DROP.replace("ip filter", "inet mine"), ["inet mine FORWARD"]),
        (FIREWALLD, ["inet firewalld filter_FORWARD", f"--add-interface={LINK}"]),
        (DROP.replace("drop", "accept"), []),
        (DROP.replace("forward", "input"), []),
        (DROP.replace("drop;", f'drop; ct state new iifname "{LINK}" accept;'), ["ip filter FORWARD"]),
        (DROP.replace("drop;", f'drop; iifname "{LINK}" accept;'), []),
        (DROP.replace("drop;", 'drop; iifname "v*" counter accept;'), []),
        (DOCKER.replace("counter return", f'iifname "{LINK}" counter accept; return'), []),
        (FIREWALLD.replace("trusted0", LINK), []),
        ("", []),
    ],
    ids=[
        "drop", "Docker", "another family", "firewalld", "policy accept", "another hook", "accepts some only",
        "accepted", "accepted by the beginning of its name", "accepted in DOCKER-USER",
        "in a zone of firewalld", "no rules",
    ],
)  # fmt: skip
async def test_a_chain_that_drops_what_it_does_not_know_is_found(host: Host, rules: str, named: list[str]) -> None:
    host.machine.run("nft", "-f", "-", stdin=rules)
    await HostRules("test", host.machine.path).apply({})
    findings = await forwarding_findings(host.machine.path, (LINK,))
    assert [finding.reason for finding in findings] == [Reason.FORWARDING_BLOCKED] * bool(named)
    assert all(part in findings[0].message for part in named)


async def test_the_commands_of_the_finding_let_packets_pass_and_end_it(host: Host) -> None:
    router = new_router(host, network("blocked", port(2)))
    guest = router.guest(port(2))
    assert router.transit is not None
    await RouterRules().apply(router.path, router.network, router.transit, ())
    await HostRules("test", host.machine.path).apply({"blocked": (router.network, router.transit)})
    with service(host.outside):
        assert reaches(guest, OUTSIDE_IPV4)
        host.machine.run("nft", "-f", "-", stdin=DOCKER)
        (finding,) = await forwarding_findings(host.machine.path, (LINK,))
        assert seen_as(guest, OUTSIDE_IPV4, timeout_s=0.3) is None
        for command in finding.message.partition("you can: ")[2].split("; "):
            host.machine.run(*command.split())
        assert await forwarding_findings(host.machine.path, (LINK,)) == []
        assert reaches(guest, OUTSIDE_IPV4)
