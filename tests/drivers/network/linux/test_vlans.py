"""Networks of a VLAN of the host's bridge, by frames that the kernel passes; and how a host without VLANs says so.

What takes VLAN devices of the kernel is skipped where it has none: nothing is loaded for a test either.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.drivers.network.hosts import reachable_folder
from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.networks import GUEST_MAC, TRANSIT_CIDR, bridged, network
from tests.drivers.network.linux.seen import state
from tests.drivers.network.linux.steps import Killed, counted
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import Refused
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.network.contract import Network, NetworkState
from virtplane_drivers.network.linux.allowances import NOTHING_ALLOWED, Allowances, BridgeVlans
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.links import apply_router
from virtplane_drivers.network.linux.names import TRUNK, UPLINK, host_link
from virtplane_drivers.network.linux.uplinks import Uplinks
from virtplane_drivers.network.linux.vlans import Vlans, has_vlan_devices, what_is_missing

UID = "5f1c9c5e-0000-4000-8000-000000000002"
GUEST = "10.88.0.5"
NEIGHBOURS = {None: "10.88.0.10", 20: "10.88.0.20", 30: "10.88.0.30"}
GIVEN = Allowances(vlans=(BridgeVlans("br-lan", 20, 30),))


async def applied(uplinks: Uplinks, router: Path, one: Network) -> None:
    await apply_router(router, one)
    assert await uplinks.apply(router, one) == (None, [])


def of_vlan(vlan: int | None) -> Network:
    return bridged("br-lan", uid=UID, vlan=vlan)


@pytest.fixture
async def vlans(root: None) -> None:
    """Skips the test where the kernel has no VLAN devices now."""
    if not await in_thread(has_vlan_devices):
        pytest.skip("this kernel has no VLAN devices (8021q)")


@pytest.fixture(params=[0, 1], ids=["a bridge that does not look at tags", "a bridge that filters by VLAN"])
def neighbours(vlans: None, host: Host, request: pytest.FixtureRequest) -> dict[int | None, Namespace]:
    """By VLAN: who is in it on br-lan, behind a port of its own that is a trunk."""
    host.machine.ip("link", "add", "br-lan", "type", "bridge", "vlan_filtering", str(request.param))
    host.machine.ip("link", "set", "br-lan", "up")
    found = {}
    for vlan, address in NEIGHBOURS.items():
        one, port = host.new_namespace(), f"lan{vlan or 0}"
        host.machine.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(one.path))
        host.machine.ip("link", "set", port, "master", "br-lan", "up")
        one.ip("link", "set", "eth0", "up")
        device = "eth0"
        if vlan is not None:
            device = f"eth0.{vlan}"
            one.ip("link", "add", "link", "eth0", "name", device, "type", "vlan", "id", str(vlan))
            one.ip("link", "set", device, "up")
            host.machine.run("bridge", "vlan", "add", "dev", port, "vid", str(vlan))
        one.ip("address", "add", f"{address}/24", "dev", device)
        found[vlan] = one
    return found


def members(host: Host) -> dict[str, list[tuple[int, tuple[str, ...]]]]:
    """Of each port of the host's bridges and of themselves: its VLANs, with their flags."""
    told = json.loads(host.machine.run("bridge", "-json", "vlan", "show"))
    return {one["ifname"]: [(vlan["vlan"], tuple(vlan.get("flags", ()))) for vlan in one["vlans"]] for one in told}


def both(host: Host, router: Path) -> set[str]:
    machine = {f"host: {line}" for line in state(host.machine.path)}
    vlans = {f"{port} {vlan}" for port, found in members(host).items() for vlan in found}
    return machine | {f"router: {line}" for line in state(router)} | vlans


def is_in(guest: Namespace, vlan: int | None) -> None:
    """That VLAN's neighbour answers, and no other one."""
    guest.reaches(NEIGHBOURS[vlan])
    assert [other for other, address in NEIGHBOURS.items() if other != vlan and guest.pings(address, 0.2)] == []


@pytest.mark.parametrize("vlan", [20, None])
async def test_a_guest_is_in_its_vlan_and_in_no_other(
    host: Host, router: Path, uplinks: Uplinks, neighbours: dict[int | None, Namespace], vlan: int | None
) -> None:
    await applied(uplinks, router, of_vlan(vlan))
    guest = host.guest(router, GUEST_MAC, f"{GUEST}/24")
    is_in(guest, vlan)
    neighbours[vlan].reaches(GUEST)
    assert neighbours[vlan].ip("neigh", "show", GUEST)[0]["lladdr"] == GUEST_MAC
    assert [other for other, one in neighbours.items() if other != vlan and one.pings(GUEST, 0.2)] == []


@pytest.mark.usefixtures("neighbours")
async def test_whoever_turns_the_bridge_s_filter_on_or_off_takes_nobody_out_of_its_vlan(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    await applied(uplinks, router, of_vlan(20))
    guest = host.guest(router, GUEST_MAC, f"{GUEST}/24")
    for filtering in ("0", "1", "0"):
        host.machine.ip("link", "set", "br-lan", "type", "bridge", "vlan_filtering", filtering)
        is_in(guest, 20)


@pytest.mark.usefixtures("neighbours")
async def test_nothing_of_the_bridge_is_changed_but_our_own_port(host: Host, router: Path, uplinks: Uplinks) -> None:
    before, seen = members(host), state(host.machine.path)
    await applied(uplinks, router, of_vlan(20))
    end = host_link(UID)
    assert members(host) == before | {end: [(20, ())]}
    assert {line for line in state(host.machine.path) ^ seen if end not in line} == set()
    await uplinks.remove(UID)
    assert members(host) == before


CHANGES = {
    "to a VLAN": (of_vlan(None), of_vlan(20)),
    "to another VLAN": (of_vlan(30), of_vlan(20)),
    "from a VLAN": (of_vlan(20), of_vlan(None)),
    "to NAT": (of_vlan(20), network(NetworkMode.NAT, uid=UID)),
    "from NAT": (network(NetworkMode.NAT, uid=UID), of_vlan(20)),
    "of MTU": (replace(of_vlan(20), mtu=1400), of_vlan(20)),
}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize("neighbours", [1], indirect=True, ids=["a bridge that filters by VLAN"])
@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=list(CHANGES))
async def test_a_change_that_was_cut_off_at_any_step_goes_on_and_then_nothing_is_touched(
    host: Host, router: Path, uplinks: Uplinks, before: Network, after: Network
) -> None:
    async def made(one: Network) -> None:
        await apply_router(router, one)
        await uplinks.apply(router, one)

    await made(before)  # a host forwards for good
    await made(after)
    whole, number = both(host, router), 0
    with counted() as steps:
        await made(after)
    assert steps == []
    while True:
        await made(before)
        await apply_router(router, after)
        with counted(killed_before=number) as steps:
            try:
                await uplinks.apply(router, after)
            except Killed:
                pass
            else:
                break
        await uplinks.apply(router, after)
        assert both(host, router) == whole, f"killed after {steps[-1:]}"
        number += 1
    assert number >= 1


DAMAGES = {
    "the uplink": "router ip link delete uplink",
    "the trunk": "router ip link delete trunk",
    "the uplink's VLAN": "router sh -c 'ip link delete uplink; ip link add link trunk name uplink type vlan id 30'",
    "down": "router ip link set trunk down",
    "the VLAN of our port": "host bridge vlan del dev END vid 20",
    "more VLANs of our port": "host bridge vlan add dev END vid 30 pvid untagged",
    "the tag of our port": "host bridge vlan add dev END vid 20 pvid untagged",
}


@pytest.mark.usefixtures("neighbours")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
async def test_what_somebody_changed_of_a_vlan_is_repaired(
    host: Host, router: Path, uplinks: Uplinks, damage: str
) -> None:
    await applied(uplinks, router, of_vlan(20))
    before = both(host, router)
    where, _, command = damage.replace("END", host_link(UID)).partition(" ")
    namespace = host.machine if where == "host" else Namespace(router)
    namespace.run("sh", "-c", command.removeprefix("sh -c ").strip("'"))
    assert both(host, router) != before
    await applied(uplinks, router, of_vlan(20))
    assert both(host, router) == before
    inside = Namespace(router).links()
    assert (inside[UPLINK]["link"], inside[UPLINK]["master"], "master" in inside[TRUNK]) == (TRUNK, "br0", False)


# --- a host that has none ---


@pytest.mark.parametrize(
    ("has_devices", "allowances", "missing"),
    [
        (True, GIVEN, ""),
        (True, NOTHING_ALLOWED, "--allow-bridge NAME:VLAN"),
        (False, GIVEN, "modprobe 8021q"),
        (False, NOTHING_ALLOWED, "modprobe 8021q"),
    ],
)
def test_a_host_without_vlans_says_what_would_bring_them(
    allowances: Allowances, missing: str, *, has_devices: bool
) -> None:
    said = what_is_missing(allowances, has_devices=has_devices)
    assert missing in said
    assert bool(missing) == bool(said)


@pytest.mark.usefixtures("root")
async def test_a_kernel_without_vlans_refuses_those_networks_and_has_all_others(host: Host) -> None:
    if await in_thread(has_vlan_devices):
        pytest.skip("this kernel has VLAN devices (8021q)")
    host.machine.ip("link", "add", "br-lan", "type", "bridge")
    allowances = replace(GIVEN, bridges=frozenset({"br-lan"}))
    with reachable_folder() as folder:
        async with LinuxNetworks(
            folder, folder / "run", transit_cidr=TRANSIT_CIDR, host_namespace=host.machine.path, allowances=allowances
        ) as driver:
            facts = await driver.probe()
            assert NetworkMode.BRIDGE in facts.modes
            assert "modprobe 8021q" in facts.missing["NetworkVLAN"]
            with pytest.raises(Refused, match="VLAN 20: this kernel has no VLAN devices") as refused:
                await driver.apply(of_vlan(20))
            assert refused.value.reason == Reason.VLAN_NOT_POSSIBLE
            assert await driver.inventory() == ()
            await driver.apply(of_vlan(None))
            assert (await driver.observe(UID)).state is NetworkState.READY
            await driver.remove(UID)


async def test_looking_for_vlans_loads_nothing(root: None) -> None:
    modules = Path("/proc/modules")
    if not modules.exists():
        pytest.skip("this kernel is in one piece")
    before = {line.split()[0] for line in modules.read_text().splitlines()}
    await Vlans(GIVEN).find_way()
    assert {line.split()[0] for line in modules.read_text().splitlines()} == before
