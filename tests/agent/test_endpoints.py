"""What an agent opens for the names that `--drivers` gives."""

import os
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from virtplane_agent.endpoints import (
    GIVES,
    HYPERVISOR_DRIVERS,
    Endpoint,
    Settings,
    open_endpoints,
    with_networks,
)
from virtplane_agent.main import argument_parser, main
from virtplane_api.host_networks import GivenNetwork
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.hypervisor.contract import Facts
from virtplane_drivers.hypervisor.fake import FakeHypervisor
from virtplane_drivers.network.contract import NetworkFacts


def settings(folder: Path) -> Settings:
    return Settings(state_folder=folder / "state", runtime_folder=folder / "run", qemu_accelerator="tcg")


@pytest.mark.parametrize(
    ("drivers", "pool_types"),
    [
        (["fake"], {"host-a-fake": ("fake",)}),
        (["qemu"], {"host-a-qemu": ("directory",)}),
        (["qemu", "fake"], {"host-a-qemu": ("directory",), "host-a-fake": ("directory", "fake")}),
    ],
    ids=",".join,
)
async def test_each_driver_gets_the_storage_that_it_can_attach(
    tmp_path: Path, drivers: list[str], pool_types: dict[str, tuple[str, ...]]
) -> None:
    (tmp_path / "state").mkdir()
    async with AsyncExitStack() as stack:
        endpoints = await open_endpoints(stack, "host-a", drivers, settings(tmp_path))
        assert {name: one.pool_types for name, one in endpoints.hypervisors.items()} == pool_types
        assert {one.driver.name for one in endpoints.hypervisors.values()} == set(drivers)
        assert set(endpoints.storage) == {kind for kinds in pool_types.values() for kind in kinds}
        assert all(one.facts.cpu_cores > 0 for one in endpoints.hypervisors.values())


BRIDGES, RANGES = (GivenNetwork("br-lan"),), (ip_network("10.22.0.0/16"),)
_OF_THE_HOST = NetworkFacts(frozenset({NetworkMode.BRIDGE}), host_networks=BRIDGES, routed=RANGES)
_OF_A_SWITCH = NetworkFacts(frozenset({NetworkMode.BRIDGE, NetworkMode.ROUTED}))
_OF_PROGRAMS = NetworkFacts(frozenset({NetworkMode.USER}))


@pytest.mark.parametrize(
    ("usable", "host_networks", "routed"),
    [
        ({"linux": replace(_OF_THE_HOST, modes=frozenset(NetworkMode)), "passt": _OF_PROGRAMS}, BRIDGES, RANGES),
        ({"linux": _OF_THE_HOST, "switch": _OF_A_SWITCH}, BRIDGES, None),
        ({"passt": _OF_PROGRAMS}, (), ()),
        ({"linux": replace(_OF_THE_HOST, modes=frozenset())}, (), ()),
        ({}, (), ()),
    ],
    ids=["the driver that has the modes", "one for each mode", "no such modes", "the modes are missing", "no driver"],
)
def test_a_hypervisor_gives_to_networks_what_the_driver_of_their_mode_gives(
    usable: dict[str, NetworkFacts], host_networks: object, routed: object
) -> None:
    facts = Facts("7.2.22", 16, 65536, 61440, frozenset(), frozenset())
    endpoint = with_networks(Endpoint("host-a-fake", FakeHypervisor(), facts, ()), usable)
    assert (endpoint.host_networks, endpoint.routed) == (host_networks, routed)


def test_an_agent_holds_the_code_of_the_drivers_it_was_asked_for_only() -> None:
    """It runs beside guests: what it does not use must not cost memory."""
    code = "import sys, virtplane_agent.main; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    drivers = {f"virtplane_drivers.hypervisor.{name}" for name in HYPERVISOR_DRIVERS}
    drivers |= {f"virtplane_drivers.storage.{name}" for name in GIVES}
    assert {"virtplane_agent.runtime", "virtplane_drivers.hypervisor.contract"} <= set(loaded.split())
    assert not {*drivers, "oslo_utils"} & set(loaded.split())


@pytest.mark.parametrize(
    "cidr", ["127.0.0.0/24", "224.0.0.0/16", "0.0.0.0/0", "10.0.0.1/24", "10.0.0.0/25", "fd00::/64"]
)
def test_a_transit_that_no_link_can_have_is_refused_at_the_start(cidr: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["--transit-cidr", cidr])
    assert f"argument --transit-cidr: {cidr}" in capsys.readouterr().err.replace("'", "")


@pytest.mark.parametrize(
    ("flag", "given"),
    [
        ("--allow-bridge", [f"br-lan:{number}" for number in range(1, 258)]),
        ("--allow-routed", [f"10.{number // 256}.{number % 256}.0/24" for number in range(257)]),
    ],
)
def test_more_than_a_hypervisor_s_status_has_room_for_is_refused_at_the_start(
    flag: str, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"{flag}={text}" for text in given])
    assert f"{flag} is given 257 times, at most 256 are known: give ranges" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"), [("::ffff:10.22.0.0/112", "is of IPv4"), ("fe80::%eth0/64", "names a link (eth0)")]
)
def test_a_range_that_the_hypervisor_could_not_report_is_refused_at_the_start(
    text: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        argument_parser().parse_args(["--allow-routed", text])
    assert f"argument --allow-routed: {text} {why}" in capsys.readouterr().err
