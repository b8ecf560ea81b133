"""The agent's part of a Volume's status: what was seen in, what is said out."""

from typing import Any

import pytest

from tests.agent.objects import HYPERVISOR, conditions, pool, volume
from virtplane_agent.volumes.desired import desired_volume, pool_value
from virtplane_agent.volumes.status import hindered_status, in_use_status, removed_status, volume_status
from virtplane_api.kube.resources import Object
from virtplane_api.vocabulary import DiskFormat, PoolAccess
from virtplane_drivers.attachment import FakeAttachment
from virtplane_drivers.storage.contract import Blank, Failure, HttpImage, ObservedVolume, Source, VolumeState

MADE = ObservedVolume(VolumeState.READY, FakeAttachment("vol-1"), size_bytes=1 << 30, format=DiskFormat.QCOW2)
CREATING = ObservedVolume(VolumeState.CREATING, progress_percent=40)
AGAIN = Failure("SourceUnreachable", "no route to images.example", retry_after_s=30.0)
NEVER = Failure("ChecksumMismatch", "the image differs from its checksum", retry_after_s=None)
FROM_WEB: dict[str, Any] = {"source": {"http": {"url": "https://images.example/a.qcow2"}}}

SAID = [
    ("made", volume(), MADE, {"Ready": ("True", "Made")}),
    ("a blank one that is being made", volume(), CREATING,
     {"Ready": ("False", "Creating"), "Reconciling": ("True", "Creating")}),
    ("an image that is being copied", volume(**FROM_WEB), CREATING,
     {"Ready": ("False", "Importing"), "Reconciling": ("True", "Importing")}),
    ("failed, and tried again later", volume(), ObservedVolume(VolumeState.FAILED, failure=AGAIN),
     {"Ready": ("False", "SourceUnreachable"), "Reconciling": ("True", "SourceUnreachable")}),
    ("failed for good", volume(), ObservedVolume(VolumeState.FAILED, failure=NEVER),
     {"Ready": ("False", "ChecksumMismatch"), "Stalled": ("True", "ChecksumMismatch")}),
]  # fmt: skip


@pytest.mark.parametrize(("obj", "observed", "expected"), [row[1:] for row in SAID], ids=[row[0] for row in SAID])
def test_what_is_seen_is_said_in_conditions(
    obj: Object, observed: ObservedVolume, expected: dict[str, tuple[str, str]]
) -> None:
    status = volume_status(obj, observed)
    assert conditions(status) == expected
    assert status["observedGeneration"] == 3
    assert status["host"] == {"hypervisor": HYPERVISOR, "token": 1, "state": "Present"}


def test_people_read_what_is_copied_and_why_it_failed() -> None:
    assert volume_status(volume(**FROM_WEB), CREATING)["conditions"][0]["message"] == (
        "copying https://images.example/a.qcow2"
    )
    failed = volume_status(volume(), ObservedVolume(VolumeState.FAILED, failure=NEVER))
    assert {one["message"] for one in failed["conditions"]} == {NEVER.message}


def test_size_and_format_are_said_once_they_are_facts() -> None:
    status = volume_status(volume(), MADE)
    assert (status["size"], status["format"]) == ("1Gi", "qcow2")
    assert not {"size", "format"} & set(volume_status(volume(), CREATING))


def test_a_pool_that_cannot_be_used_removes_nothing_and_unsays_nothing() -> None:
    """By the size a volume that was lost is told from one that was never made."""
    made = volume(status={"size": "1Gi", "format": "qcow2"})
    status = hindered_status(made, AGAIN)
    assert (status["host"]["state"], status["size"], status["format"]) == ("Present", "1Gi", "qcow2")
    assert conditions(status)["Ready"] == ("False", "SourceUnreachable")


def test_removed_says_whether_the_data_is_gone_too() -> None:
    status = removed_status(volume(), "Retained", "the data stays")
    assert status["host"]["state"] == "Removed"
    assert conditions(status) == {"Ready": ("False", "Retained")}


def test_a_volume_that_waits_for_its_machine_names_it_and_is_there_still() -> None:
    status = in_use_status(volume(status={"size": "1Gi", "format": "qcow2"}), "web")
    assert conditions(status) == {"Ready": ("False", "InUse")}
    assert status["conditions"][0]["message"].startswith("deletion waits for VirtualMachine web, which uses it; ")
    assert (status["host"]["state"], status["size"], status["format"]) == ("Present", "1Gi", "qcow2")


# --- what drivers are given -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "size_bytes"),
    [("1Gi", 1 << 30), ("1Mi", 1 << 20), (1000, 1024), ("1M", 1_000_448)],
)
def test_a_size_is_rounded_up_to_whole_sectors(spec: str | int, size_bytes: int) -> None:
    assert desired_volume(volume(size=spec)).size_bytes == size_bytes
    assert size_bytes % 512 == 0


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ({}, Blank()),
        ({"source": {"blank": {}}}, Blank()),
        (FROM_WEB, HttpImage("https://images.example/a.qcow2")),
        (
            {"source": {"http": {"url": "http://h/x", "checksum": "sha256:" + "ab" * 32}}},
            HttpImage("http://h/x", "ab" * 32),
        ),
    ],
    ids=["none", "blank", "image", "image with checksum"],
)
def test_the_source_is_what_the_spec_names(spec: dict[str, Any], source: Source) -> None:
    assert desired_volume(volume(**spec)).source == source


def test_without_a_format_it_is_qcow2() -> None:
    assert desired_volume(volume()).format is DiskFormat.QCOW2
    assert desired_volume(volume(format="raw")).format is DiskFormat.RAW


def test_a_pool_is_of_the_type_that_its_spec_has() -> None:
    fake = pool_value(pool())
    assert (fake.type, fake.uid, fake.name, fake.access) == ("fake", "fast-uid", "fast", PoolAccess.LOCAL)
    directory = pool_value(pool(directory={"path": "/srv/images"}, access="Shared"))
    assert (directory.type, str(directory.directory), directory.access) == (
        "directory",
        "/srv/images",
        PoolAccess.SHARED,
    )
