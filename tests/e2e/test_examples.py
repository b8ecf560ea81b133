"""docs/examples, applied as a user would, with the images' addresses and the pools' folders of this test's host."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY
from urllib.parse import urlsplit

import pytest
import yaml

from tests.cluster.guests.boot_sector import GREETING
from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import HOST_IPV4, Namespace
from tests.e2e.conftest import (
    AGENT,
    BRIDGE,
    Live,
    Object,
    condition,
    finished,
    root_disk,
    start_qemu_agent,
    vm,
)
from tests.e2e.test_network_deaths import pid_of
from virtplane_drivers.network.linux.vlans import has_vlan_devices

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
IMAGES = {"root.img": "obedient.img", "tools.img": "deaf.img"}


def localised(live: Live, value: object) -> object:
    """The same manifest with what is of this host: served images instead of images.example, folders below ours."""
    if isinstance(value, list):
        return [localised(live, one) for one in value]
    if not isinstance(value, dict):
        return value
    if "url" in value:
        name = IMAGES[Path(urlsplit(value["url"]).path).name]
        content = (live.images.server.folder / name).read_bytes()
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return {**value, "url": live.images.server.url(name), "checksum": checksum}
    if set(value) == {"path"}:
        return {"path": f"{live.system.directory}/examples{value['path']}"}
    return {name: localised(live, inner) for name, inner in value.items()}


def example(live: Live, name: str) -> list[Object]:
    objects = yaml.safe_load_all((EXAMPLES / f"{name}.yaml").read_text())
    return [dict(localised(live, one)) for one in objects]  # type: ignore[call-overload]


@pytest.fixture
def bridge(live: Live) -> Iterator[Namespace]:
    """The host, with the bridge that the examples name."""
    host = live.system.host(AGENT)
    host.ip("link", "add", BRIDGE, "type", "bridge")
    host.ip("link", "set", BRIDGE, "up")
    yield host
    host.ip("link", "delete", BRIDGE)


def small(live: Live, network: str) -> Object:
    """A machine of its own for a network of the examples."""
    lan = {"name": "lan", "networkName": network}
    return vm(f"on-{network}", "default", root_disk(live.images.source("obedient.img")), interfaces=[lan])


@pytest.fixture
def applied(live: Live, bridge: Namespace) -> Iterator[list[Object]]:
    """All examples but the quickstart's, which `make smoke` runs; taken away in the order that a user would."""
    objects = [one for name in ("hypervisor", "pools", "networks", "volumes", "machine") for one in example(live, name)]
    live.apply(*objects)
    yield objects
    live.kubectl("delete", "vpvm,vpvol,vpact", "--all", "-n", "default", "--timeout=60s", timeout_s=90)
    live.kubectl("delete", "vpnet", "--all", "-n", "default", "--timeout=60s", timeout_s=90)
    live.kubectl("delete", "vppool", "fast", "shared", "pretended", "--timeout=60s", timeout_s=90)
    live.kubectl("label", "vphv", f"{AGENT}-qemu", "zone-")


def of_all_networks_the_machines_run(live: Live, host: Namespace) -> None:
    """Each is attached in the way of its mode, and is said to have the address that is its own."""
    prefixes = {"routed": "10.22.0.", "office": "", "plain": "10.23.0.", "wide": "10.24.0."}
    live.apply(*(small(live, name) for name in prefixes))
    for name, prefix in prefixes.items():
        machine = live.wait_ready(f"on-{name}", "default")
        assert machine["status"]["powerState"] == "Running"
        (interface,) = machine["status"]["interfaces"]
        assert [address.startswith(prefix) for address in interface.get("ipAddresses", [])] == [True] * bool(prefix)
        eventually(lambda: GREETING in live.serial(machine))  # noqa: B023  # called at once
    assert [len(live.taps(name, "default")) for name in ("routed", "office", "wide")] == [1, 1, 1]
    assert pid_of(live, "passt") is not None  # a user's network has no router and no tap
    assert "10.22.0.0/24" in host.run("ip", "route")
    assert any(link.get("master") == BRIDGE for link in host.links().values())
    wide = live.get("vpnet", "wide", "default")["status"]
    assert (wide["peers"], wide["mtu"]) == ([{"agentName": AGENT, "address": HOST_IPV4}], 1450)


def test_the_examples_work_together(live: Live, applied: list[Object], bridge: Namespace) -> None:
    machine = live.wait_ready("web", "default")
    assert machine["status"]["placement"]["hypervisor"] == f"{AGENT}-qemu"
    assert [disk["name"] for disk in machine["status"]["placement"]["disks"]] == ["root", "data", "tools", "scratch"]
    assert [(one["name"], one["macAddress"], one["ipAddresses"]) for one in machine["status"]["interfaces"]] == [
        ("lan", "52:54:00:20:00:10", ["10.20.0.10", "fd00:20::1:10"]),
        ("backstage", ANY, [ANY]),
    ]
    eventually(lambda: GREETING in live.serial(machine))
    of_all_networks_the_machines_run(live, bridge)
    for name in ("lan", "backstage", "routed", "office", "plain", "wide"):
        live.wait_condition("vpnet", name, "default", "Served")
    # The agent gives the bridge, and no VLAN of it.
    live.wait_condition("vpnet", "phones", "default", "NoHypervisor")
    for name, file_format in {"web-data": "raw", "tools": "qcow2"}.items():
        volume = live.wait_condition("vpvol", name, "default", "Made")
        assert (volume["status"]["format"], volume["status"]["claim"]["vmName"]) == (file_format, "web")
    acts = example(live, "actions")
    live.apply(*acts)
    ends = {act["metadata"]["name"]: finished(live, act["metadata"]["name"], "default") for act in acts}
    for name in ("web-keys", "web-screen"):
        assert condition(ends[name], "Complete").get("reason") == "Completed"
    # 512 bytes of a guest have no agent.
    assert condition(ends["web-disk-space"], "Failed").get("reason") == "GuestAgentSilent"
    # Nobody here pretends: the agent drives QEMU only.
    pretended = live.wait_condition("vppool", "pretended", "", "NoHypervisor")
    assert "no hypervisor that can use pools of type fake" in condition(pretended, "Ready")["message"]
    for one in applied:
        live.kubectl("diff", "-f", "-", input=yaml.safe_dump(one))


@pytest.fixture
def vlan(live: Live, bridge: Namespace) -> Iterator[Namespace]:
    """The host, which gives the VLAN of its bridge that the examples name."""
    if not bridge.inside(has_vlan_devices):
        pytest.skip("the example phones: this kernel has no VLAN devices (8021q)")
    live.system.stop(AGENT)
    start_qemu_agent(live, AGENT, "--allow-bridge", f"{BRIDGE}:20")
    yield bridge
    live.kubectl("delete", "vpvm,vpnet", "--all", "-n", "default", "--timeout=60s", timeout_s=90)
    live.system.stop(AGENT)
    start_qemu_agent(live)


@pytest.mark.usefixtures("vlan")
def test_the_example_of_a_vlan_works_where_the_kernel_has_vlans(live: Live) -> None:
    phones = [one for one in example(live, "networks") if one["metadata"]["name"] == "phones"]
    live.apply(*phones, small(live, "phones"))
    machine = live.wait_ready("on-phones", "default")
    eventually(lambda: GREETING in live.serial(machine))
    live.wait_condition("vpnet", "phones", "default", "Served")
    assert len(live.taps("phones", "default")) == 1
