"""What of a host a network may have is its keeper's to give."""

import os
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import pytest

from tests.drivers.network.hosts import reachable_folder
from virtplane_agent.main import argument_parser
from virtplane_api.host_networks import GivenNetwork, VlanRange
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.network.contract import Network, Subnet
from virtplane_drivers.network.linux.allowances import NOTHING_ALLOWED, Allowances, BridgeVlans
from virtplane_drivers.network.linux.driver import LinuxNetworks

GIVEN = Allowances(
    frozenset({"br-lan", "br-all"}),
    (ip_network("10.22.0.0/16"), ip_network("fd00:22::/48")),
    (BridgeVlans("br-dmz", 20, 20), BridgeVlans("br-dmz", 100, 199), BridgeVlans("br-all", 1, 4094)),
)


def bridge(name: str, vlan: int | None = None) -> Network:
    return Network("net-1", "shop", "lan", NetworkMode.BRIDGE, host_bridge=name, vlan=vlan)


def routed(*cidrs: str) -> Network:
    subnets = {cidr.version: Subnet(cidr, cidr[1]) for cidr in map(ip_network, cidrs)}
    return Network("net-1", "shop", "lan", NetworkMode.ROUTED, ipv4=subnets.get(4), ipv6=subnets.get(6))


@pytest.mark.parametrize(
    "network",
    [
        bridge("br-lan"),
        bridge("br-dmz", 20),
        bridge("br-dmz", 100),
        bridge("br-dmz", 199),
        bridge("br-all"),
        bridge("br-all", 4094),
        routed("10.22.4.0/24"),
        routed("fd00:22::/64"),
        routed("10.22.0.0/16", "fd00:22::/64"),
    ],
)
def test_what_was_given_may_be_had(network: Network) -> None:
    GIVEN.check(network)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (bridge("docker0"), "does not give its bridge docker0"),
        (
            bridge("br-lan", 20),
            "does not give VLAN 20 of its bridge br-lan to networks .*br-dmz:100-199, br-dmz:20",
        ),
        (bridge("br-dmz"), "does not give its bridge br-dmz"),
        (bridge("br-dmz", 99), "does not give VLAN 99 of its bridge br-dmz"),
        (bridge("br-dmz", 200), "does not give VLAN 200 of its bridge br-dmz"),
        (bridge("docker0", 20), "does not give VLAN 20 of its bridge docker0"),
        (routed("8.8.8.0/24"), "does not route 8.8.8.0/24"),
        (routed("10.0.0.0/8"), "does not route 10.0.0.0/8"),
        (routed("10.22.4.0/24", "fd00:23::/64"), "does not route fd00:23::/64"),
    ],
)
def test_what_was_not_given_is_refused_with_the_flag_that_would_give_it(network: Network, message: str) -> None:
    with pytest.raises(Refused, match=f"{message}.*--allow-") as refused:
        GIVEN.check(network)
    assert refused.value.reason == Reason.NETWORK_NOT_ALLOWED


def test_a_host_tells_placements_what_it_gives() -> None:
    assert GIVEN.host_networks == (
        GivenNetwork("br-all"),
        GivenNetwork("br-lan"),
        GivenNetwork("br-dmz", VlanRange(20, 20)),
        GivenNetwork("br-dmz", VlanRange(100, 199)),
        GivenNetwork("br-all", VlanRange(1, 4094)),
    )


def test_a_host_that_gives_nothing_has_no_such_modes() -> None:
    assert set(NOTHING_ALLOWED.missing) == {NetworkMode.BRIDGE, NetworkMode.ROUTED}
    assert GIVEN.missing == {}
    assert set(Allowances(vlans=(BridgeVlans("br-dmz", 20, 20),)).missing) == {NetworkMode.ROUTED}


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("br-lan", "br-lan"),
        ("br.20", "br.20"),
        ("br-lan:20", BridgeVlans("br-lan", 20, 20)),
        ("br-lan:1-4094", BridgeVlans("br-lan", 1, 4094)),
    ],
)
def test_the_flag_says_which_bridge_and_which_vlans(text: str, given: object) -> None:
    options = argument_parser().parse_args(["--allow-bridge", text])
    assert options.allow_bridge == [given]


@pytest.mark.parametrize(
    "text",
    [
        *("", ":20", "br-lan:", "br-lan:0", "br-lan:4095", "br-lan:30-20", "br-lan:20-", "br-lan:-20", "br-lan:x"),
        *(
            "br-lan:\u0663",
            "br lan",
            "br/lan:20",
            "..",
            ".br",
            "br-\udcff",
            "a-bridge-of-a-long-name",
            "a-bridge-of-a-long-name:20",
        ),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused_at_the_start(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["--allow-bridge", text])
    assert "--allow-bridge" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="another user has no networks of this driver")
async def test_a_host_s_namespace_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    transit, nowhere = IPv4Network("169.254.64.0/18"), tmp_path / "nowhere"
    with reachable_folder() as folder:
        driver = LinuxNetworks(folder, folder / "run", transit_cidr=transit, host_namespace=nowhere)
        with pytest.raises(Unavailable, match=f"--host-netns.*{nowhere}"):
            async with driver:
                pass
