"""The CRDs as users meet them: on a real API server, by kubectl."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from tests.cluster.control_plane import CommandError, ControlPlane
from virtplane_api.crdgen import crd, lint
from virtplane_api.generate import ROOT, documents
from virtplane_api.models import RESOURCES


def vm(**spec: Any) -> dict[str, Any]:
    base = {"powerState": "Running", "cpu": {"cores": 1}, "memory": {"size": "64Mi"}}
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": "web"},
        "spec": base | spec,
    }


def volume(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "Volume",
        "metadata": {"name": "data"},
        "spec": {"size": "1Gi"} | spec,
    }


def apply(server: ControlPlane, obj: Mapping[str, Any], *options: str) -> str:
    return server.kubectl("apply", "-f", "-", *options, input=json.dumps(obj))


def test_the_checked_in_yaml_is_what_the_models_say() -> None:
    assert {path: (ROOT / path).read_text() for path in documents()} == documents()


@pytest.mark.parametrize("resource", RESOURCES, ids=[resource.kind for resource in RESOURCES])
def test_every_field_is_described_shown_by_example_and_bounded(resource: Any) -> None:
    assert lint(resource) == []


def test_the_schemas_are_structural_and_served(server: ControlPlane) -> None:
    for resource in RESOURCES:
        served = json.loads(server.kubectl("get", "crd", resource.name, "-o", "json"))
        conditions = {c["type"]: c["status"] for c in served["status"]["conditions"]}
        assert conditions["Established"] == "True"
        assert conditions.get("NonStructuralSchema", "False") == "False"
        assert served["spec"]["versions"][0]["schema"] == crd(resource)["spec"]["versions"][0]["schema"]


def test_explain_reads_like_a_manual(server: ControlPlane) -> None:
    text = server.kubectl("explain", "vpvm.spec.disks")
    assert "The guest's disks. Each name once." in text
    assert "An existing Volume of the same namespace." in text
    assert "Example: web-data" in text


BAD_MACHINES = [
    ("an unknown field", vm(cpus=2), 'unknown field "spec.cpus"'),
    (
        "no processor",
        vm(cpu={"cores": 0}),
        "spec.cpu.cores: Invalid value: 0: spec.cpu.cores in body should be greater",
    ),
    ("memory that is no quantity", vm(memory={"size": "2GG"}), "spec.memory.size: Invalid value"),
    ("next to no memory", vm(memory={"size": 2}), "memory must be at least 1Mi, for example 2Gi"),
    (
        "two disks of one name",
        vm(disks=[{"name": "a", "volumeName": "x"}, {"name": "a", "volumeName": "y"}]),
        "Duplicate value",
    ),
    (
        "a new and an existing volume in one disk",
        vm(disks=[{"name": "a", "volumeName": "x", "volume": {"size": "1Gi"}}]),
        "spec.disks[0]: Invalid value: name exactly one of volume (a new disk) and volumeName (an existing Volume)",
    ),
    (
        "a disk with neither",
        vm(disks=[{"name": "a"}]),
        "spec.disks[0]: Invalid value: name exactly one of volume",
    ),
    (
        "a power state that does not exist",
        vm(powerState="On"),
        'supported values: "Running", "Paused", "Suspended", "Stopped"',
    ),
    (
        "a disk name that is no DNS label",
        vm(disks=[{"name": "a,b=c", "volumeName": "x"}]),
        "spec.disks[0].name: Invalid value",
    ),
    (
        "a name that is no DNS label",
        vm() | {"metadata": {"name": "web.shop"}},
        "the name of a VirtualMachine must be a DNS label",
    ),
    (
        "a source of two kinds",
        volume(source={"blank": {}, "http": {"url": "http://images.example/a"}}),
        "source must name exactly one of http and blank",
    ),
    ("a source of no kind", volume(source={}), "source must name exactly one of http and blank"),
    (
        "a checksum that is none",
        volume(source={"http": {"url": "http://images.example/a", "checksum": "md5:1"}}),
        "spec.source.http.checksum: Invalid value",
    ),
    ("a file URL", volume(source={"http": {"url": "file:///etc/shadow"}}), "spec.source.http.url: Invalid value"),
    ("a disk too small to be one", volume(size="1k"), "a disk's size must be at least 1Mi, for example 20Gi"),
]


NO_TIMES = [
    ("a small z", "2026-11-24T10:00:00z"),
    ("a small t", "2026-11-24t10:00:00Z"),
    ("a blank between", "2026-11-24 10:00:00Z"),
    ("an offset that is none", "2026-11-24T10:00:00+99:00"),
    ("no offset", "2026-11-24T10:00:00"),
    ("no time", "2026-11-24"),
    ("the year 0", "0000-01-01T00:00:00Z"),
    ("a leap second", "2026-11-24T23:59:60Z"),
    ("a letter in it", "2026-11-24T10:00:00x5Z"),
    ("a letter in the place of a digit", "2026-11-24T10:00:x5Z"),
    ("a month that is none", "2026-13-24T10:00:00Z"),
    ("a day that is none", "2026-02-30T10:00:00Z"),
    ("something after it", "2026-11-24T10:00:00Z\n"),
    ("more than nanoseconds", "2026-11-24T10:00:00.0000000001Z"),
    ("nothing", ""),
]
"""Texts that the format `date-time` alone lets through in part, and that an agent could not read."""
BAD_MACHINES += [
    (f"a restart at {what}", vm(restartedAt=text), "spec.restartedAt: Invalid value") for what, text in NO_TIMES
]


@pytest.mark.parametrize(("obj", "message"), [row[1:] for row in BAD_MACHINES], ids=[row[0] for row in BAD_MACHINES])
def test_bad_input_is_refused_at_admission_with_the_field(
    server: ControlPlane, obj: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(CommandError) as refused:
        apply(server, obj, "--dry-run=server")
    text = refused.value.stderr.replace('"object": ', "").replace('"string": ', "").replace('"integer": ', "")
    assert message in text


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-24T10:00:00Z",
        "2026-11-24T10:00:00.5Z",
        "2026-11-24T10:00:00.000000001Z",
        "2026-11-24T10:00:00+05:30",
        "2028-02-29T10:00:00Z",
        "1000-01-01T00:00:00-23:59",
        "9999-12-31T23:59:59+23:59",
    ],
)
def test_a_restart_can_be_asked_for_at_any_time_and_it_is_kept_as_it_was_written(
    server: ControlPlane, time: str
) -> None:
    kept = server.kubectl(
        "apply",
        "-f",
        "-",
        "--dry-run=server",
        "-o",
        "jsonpath={.spec.restartedAt}",
        input=json.dumps(vm(restartedAt=time)),
    )
    assert kept == time
    assert datetime.fromisoformat(kept).utcoffset() is not None  # as the agent reads it


def test_a_new_object_reads_as_in_progress_before_anyone_wrote_its_status(server: ControlPlane, namespace: str) -> None:
    apply(server, vm(), "-n", namespace)
    made = json.loads(server.kubectl("get", "vpvm", "web", "-n", namespace, "-o", "json"))
    assert made["status"] == {"observedGeneration": -1}


def test_a_volume_s_source_cannot_be_changed_afterwards(server: ControlPlane, namespace: str) -> None:
    apply(server, volume(source={"blank": {}}), "-n", namespace)
    with pytest.raises(CommandError, match="source is immutable: it was read once, when the Volume was made"):
        apply(server, volume(source={"http": {"url": "http://images.example/a"}}), "-n", namespace)
    with pytest.raises(CommandError, match="poolName is immutable"):
        apply(server, volume(source={"blank": {}}, poolName="fast"), "-n", namespace)


def patch_status(server: ControlPlane, namespace: str, patch: list[dict[str, Any]]) -> str:
    return server.kubectl(
        "patch", "vpvm", "web", "-n", namespace, "--subresource=status", "--type=json", "-p", json.dumps(patch)
    )


def test_a_placement_changes_only_under_a_greater_token_and_is_never_removed(
    server: ControlPlane, namespace: str
) -> None:
    apply(server, vm(), "-n", namespace)
    placed = {"hypervisor": "a-fake", "agentName": "a", "token": 2}
    patch_status(server, namespace, [{"op": "add", "path": "/status/placement", "value": placed}])
    for token in (1, 2):
        moved = {"hypervisor": "b-fake", "agentName": "b", "token": token}
        with pytest.raises(CommandError, match="a changed placement needs a greater token"):
            patch_status(server, namespace, [{"op": "replace", "path": "/status/placement", "value": moved}])
    with pytest.raises(CommandError, match="a placement is never removed"):
        patch_status(server, namespace, [{"op": "remove", "path": "/status/placement"}])
    with pytest.raises(CommandError, match="a placement is never removed"):
        patch_status(server, namespace, [{"op": "remove", "path": "/status"}])
    moved = {"hypervisor": "b-fake", "agentName": "b", "token": 3}
    patch_status(server, namespace, [{"op": "replace", "path": "/status/placement", "value": moved}])


def test_what_is_placed_on_an_agent_is_selected_by_the_server(server: ControlPlane, namespace: str) -> None:
    apply(server, vm(), "-n", namespace)
    placed = {"hypervisor": "a-fake", "agentName": "a", "token": 1}
    patch_status(server, namespace, [{"op": "add", "path": "/status/placement", "value": placed}])
    for agent, names in (("a", "web"), ("b", "")):
        selector = f"status.placement.agentName={agent}"
        found = server.kubectl(
            "get", "vpvm", "-n", namespace, "--field-selector", selector, "-o", "jsonpath={.items[*].metadata.name}"
        )
        assert found == names
