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
from tests.e2e.conftest import AGENT, Live, Object, condition, finished

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
def applied(live: Live) -> Iterator[list[Object]]:
    """All examples but the quickstart's, which `make smoke` runs; taken away in the order that a user would."""
    objects = [one for name in ("hypervisor", "pools", "networks", "volumes", "machine") for one in example(live, name)]
    live.apply(*objects)
    yield objects
    live.kubectl("delete", "vpvm,vpvol,vpact", "--all", "-n", "default", "--timeout=60s", timeout_s=90)
    live.kubectl("delete", "vpnet", "--all", "-n", "default", "--timeout=60s", timeout_s=90)
    live.kubectl("delete", "vppool", "fast", "shared", "pretended", "--timeout=60s", timeout_s=90)
    live.kubectl("label", "vphv", f"{AGENT}-qemu", "zone-")


def test_the_examples_work_together(live: Live, applied: list[Object]) -> None:
    machine = live.wait_ready("web", "default")
    assert machine["status"]["placement"]["hypervisor"] == f"{AGENT}-qemu"
    assert [disk["name"] for disk in machine["status"]["placement"]["disks"]] == ["root", "data", "tools", "scratch"]
    assert [(one["name"], one["macAddress"], one["ipAddresses"]) for one in machine["status"]["interfaces"]] == [
        ("lan", "52:54:00:20:00:10", ["10.20.0.10", "fd00:20::1:10"]),
        ("backstage", ANY, [ANY]),
    ]
    eventually(lambda: GREETING in live.serial(machine))
    served = {
        "lan": "Served",
        "backstage": "Served",
        "routed": "NoMachines",
        "office": "NoMachines",
        # The agent gives the bridge, and no VLAN of it.
        "phones": "NoHypervisor",
        "plain": "NoMachines",
        "wide": "NoMachines",
    }
    for name, reason in served.items():
        live.wait_condition("vpnet", name, "default", reason)
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
