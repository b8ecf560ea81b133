"""What a user sees who asks for what cannot be: at once where the API server can tell, else on the object."""

import json
import shutil
import subprocess

import pytest

from tests.cluster.waiting import eventually
from tests.e2e.conftest import Live, Object, condition, root_disk, vm, volume

ONE_DISK = {"name": "root", "volume": {"size": "1Gi"}}

AT_ADMISSION: dict[str, tuple[Object, str]] = {
    "an unknown field": (vm("web", "default", bootMenu=True), 'unknown field "spec.bootMenu"'),
    "no CPU": (vm("web", "default", cpu={"cores": 0}), "spec.cpu.cores"),
    "memory that is no quantity": (vm("web", "default", memory={"size": "2GG"}), "spec.memory.size"),
    "two disks of one name": (vm("web", "default", ONE_DISK, ONE_DISK), "spec.disks[1]"),
    "a disk that is new and existing": (
        vm("web", "default", {"name": "root", "volume": {"size": "1Gi"}, "volumeName": "data"}),
        "name exactly one of volume (a new disk) and volumeName (an existing Volume)",
    ),
    "one Volume for two disks": (
        vm("web", "default", {"name": "a", "volumeName": "data"}, {"name": "b", "volumeName": "data"}),
        "a Volume can be named by one disk only",
    ),
    "a power state that does not exist": (vm("web", "default", powerState="Off"), "spec.powerState"),
    "a source that is no URL": (
        vm("web", "default", root_disk({"http": {"url": "ftp://x/y"}})),
        "spec.disks[0].volume.source.http.url",
    ),
    "a checksum of another kind": (
        vm("web", "default", root_disk({"http": {"url": "http://x/y", "checksum": "md5:0"}})),
        "spec.disks[0].volume.source.http.checksum",
    ),
}


@pytest.mark.parametrize("case", AT_ADMISSION)
def test_the_api_server_refuses_and_names_the_field(live: Live, case: str) -> None:
    manifest, message = AT_ADMISSION[case]
    assert message in live.refusal(manifest)


def test_the_disks_of_a_machine_cannot_be_changed_yet_and_the_message_says_so(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img")), powerState="Stopped"))
    live.wait_ready("web", namespace)
    assert "disks cannot be changed yet" in live.refusal(vm("web", namespace, powerState="Stopped"))


def pool_files(live: Live) -> list[str]:
    return sorted(path.name for path in (live.system.directory / "pool").iterdir())


def failed_volume(live: Live, namespace: str, reason: str, **spec: object) -> Object:
    """A machine whose disk cannot be made; the Volume says why, the machine refers to it."""
    live.apply(volume("bad", namespace, **spec), vm("web", namespace, {"name": "root", "volumeName": "bad"}))
    bad = live.wait_condition("vpvol", "bad", namespace, reason)
    machine = live.wait_condition("vpvm", "web", namespace, "VolumeFailed")
    assert "disk root: Volume bad: " in condition(machine, "Ready")["message"]
    assert live.pids(machine) == []
    return bad


def test_a_wrong_checksum_fails_the_volume_and_leaves_nothing_behind(live: Live, namespace: str) -> None:
    before = pool_files(live)
    source = live.images.source("obedient.img")
    source["http"]["checksum"] = "sha256:" + "0" * 64
    bad = failed_volume(live, namespace, "ChecksumMismatch", source=source)
    assert condition(bad, "Stalled")["status"] == "True"
    assert "it was thrown away" in condition(bad, "Ready")["message"]
    assert pool_files(live) == before
    cache = live.system.state_folder("host-a") / "images"
    assert not [path for path in cache.iterdir() if "partial" in path.name]


def test_an_image_that_is_not_there_is_said_and_fetched_once_it_is(live: Live, namespace: str) -> None:
    url = live.images.server.url("later.img")
    bad = failed_volume(live, namespace, "SourceNotFound", source={"http": {"url": url}})
    assert f"{url}: the server said 404" in condition(bad, "Ready")["message"]
    assert condition(bad, "Reconciling")["status"] == "True"


def test_an_image_with_a_backing_file_is_refused(live: Live, namespace: str) -> None:
    folder = live.images.server.folder
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", str(folder / "evil.qcow2")]
    subprocess.run([*argv, "1M"], check=True)
    bad = failed_volume(live, namespace, "BackingFileRefused", source=live.images.source("evil.qcow2"))
    assert "backing file" in condition(bad, "Ready")["message"]


def test_an_image_larger_than_its_volume_is_refused_with_both_sizes(live: Live, namespace: str) -> None:
    shutil.copy(live.images.server.folder / "obedient.img", live.images.server.folder / "large.img")
    with (live.images.server.folder / "large.img").open("ab") as image:
        image.truncate(4 << 20)
    bad = failed_volume(live, namespace, "SourceTooLarge", source=live.images.source("large.img"), size="2Mi")
    assert "4194304 bytes, the volume's only 2097152" in condition(bad, "Ready")["message"]


def test_an_image_from_a_loopback_address_that_nobody_allowed_is_refused(live: Live, namespace: str) -> None:
    bad = failed_volume(live, namespace, "SourceAddressRefused", source={"http": {"url": "http://127.0.0.1:1/x"}})
    assert "--allow-source" in condition(bad, "Ready")["message"]


def test_a_machine_that_fits_nowhere_says_what_is_missing(live: Live, namespace: str) -> None:
    live.apply(
        vm("huge", namespace, memory={"size": "16Ti"}),
        vm("elsewhere", namespace, scheduling={"driver": "xen"}),
        vm("zoned", namespace, scheduling={"hypervisorSelector": {"matchLabels": {"zone": "a"}}}),
    )
    for name, words in {
        "huge": "memory (need 16Ti, most free",
        "elsewhere": "not of driver xen",
        "zoned": "without label zone=a",
    }.items():
        waiting = live.wait_condition("vpvm", name, namespace, "NoHypervisorFits")
        assert words in condition(waiting, "Ready")["message"]
        assert condition(waiting, "Placed")["status"] == "False"


def test_a_cpu_model_that_qemu_does_not_know_stalls_the_machine_with_its_words(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, cpu={"cores": 1, "model": "NoSuchModel"}))
    machine = live.wait_condition("vpvm", "web", namespace, "LaunchFailed")
    assert "NoSuchModel" in condition(machine, "Ready")["message"]
    assert condition(machine, "Stalled")["status"] == "True"
    live.kubectl(
        "patch", "vpvm", "web", "-n", namespace, "--type=merge", "-p", json.dumps({"spec": {"cpu": {"model": "Host"}}})
    )
    live.wait_ready("web", namespace)
    eventually(lambda: len(live.pids(machine)) == 1)
