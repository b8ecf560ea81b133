"""Machines of 512 bytes through their lives: many of them, and ends of every kind."""

import json
import os
import signal
from pathlib import Path

from tests.cluster.guests.boot_sector import GREETING
from tests.cluster.system import OPERATOR
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, condition, root_disk, start_qemu_agent, vm, volume


def test_a_deleted_machine_leaves_nothing(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    uid = machine["metadata"]["uid"]
    [disk] = machine["status"]["placement"]["disks"]
    assert len(live.pids(machine)) == 1
    assert (live.system.directory / "pool" / f"{disk['volumeUID']}.qcow2").exists()

    live.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=30s")

    eventually(lambda: not live.exists("vpvol", disk["volumeName"], namespace))
    assert live.pids(machine) == []
    assert list((live.system.directory / "pool").iterdir()) == []
    assert not (live.system.state_folder(AGENT) / "qemu" / uid).exists()
    assert not (live.system.runtime_folder(AGENT) / uid).exists()
    assert [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/virtplane/{uid}")] == []


def test_a_name_can_be_deleted_and_made_again_at_once(live: Live, namespace: str) -> None:
    for _ in range(3):
        live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
        live.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=30s")
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    assert len(live.pids(machine)) == 1
    eventually(lambda: GREETING in live.serial(machine))
    volumes = json.loads(live.kubectl("get", "vpvol", "-n", namespace, "-o", "json"))["items"]
    alive = [one for one in volumes if "deletionTimestamp" not in one["metadata"]]
    assert [one["metadata"]["labels"]["virtplane.dev/machine-uid"] for one in alive] == [machine["metadata"]["uid"]]


def test_a_guest_that_ignores_the_power_button_is_powered_off_after_its_grace_period(
    live: Live, namespace: str
) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("deaf.img")), terminationGracePeriodSeconds=2))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: GREETING in live.serial(machine))
    live.set_power("web", namespace, "Stopped")
    stopped = live.wait_ready("web", namespace)
    assert stopped["status"]["lastExit"]["reason"] == "PoweredOff"
    assert live.pids(machine) == []


def test_a_guest_that_shuts_itself_down_is_started_again(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("powers-off.img"))))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: live.serial(machine).count(GREETING) >= 2)
    eventually(
        lambda: live.get("vpvm", "web", namespace)["status"].get("lastExit", {}).get("reason") == "GuestShutdown"
    )


def test_a_crashed_machine_is_started_again_and_says_why_it_ended(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    [pid] = live.pids(machine)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: live.pids(machine) not in ([], [pid]))
    eventually(lambda: live.get("vpvm", "web", namespace)["status"].get("lastExit", {}).get("reason") == "Crashed")
    again = live.wait_ready("web", namespace)
    assert "signal 9" in again["status"]["lastExit"]["message"]
    events = live.kubectl("get", "events", "-n", namespace, "-o", "jsonpath={.items[*].reason}")
    assert "Crashed" in events.split()


def test_an_agent_that_is_stopped_leaves_its_guests_running(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    before = live.pids(machine)
    assert live.system.stop(AGENT) == 0
    assert live.pids(machine) == before
    start_qemu_agent(live)
    live.set_power("web", namespace, "Stopped")
    live.wait_ready("web", namespace)
    assert live.pids(machine) == []


def test_a_namespace_ends_with_the_machines_in_it(live: Live) -> None:
    live.kubectl("create", "namespace", "short-lived")
    live.apply(
        vm("one", "short-lived", root_disk(live.images.source("obedient.img"))),
        volume("data", "short-lived"),
        # Nothing on the disk, so nobody hears the power button.
        vm("two", "short-lived", {"name": "data", "volumeName": "data"}, terminationGracePeriodSeconds=1),
    )
    live.wait_ready("one", "short-lived")
    live.wait_ready("two", "short-lived")
    live.kubectl("delete", "namespace", "short-lived", "--timeout=60s", timeout_s=90)


def test_a_volume_made_by_hand_outlives_its_machine_and_serves_the_next(live: Live, namespace: str) -> None:
    live.apply(
        volume("data", namespace, source=live.images.source("obedient.img")),
        vm("first", namespace, {"name": "root", "volumeName": "data"}),
    )
    live.wait_ready("first", namespace)
    live.apply(vm("second", namespace, {"name": "root", "volumeName": "data"}))
    waiting = live.wait_condition("vpvm", "second", namespace, "VolumeInUse")
    assert (
        "spec.disks[0].volumeName: Volume data is used by VirtualMachine first"
        in (condition(waiting, "Ready")["message"])
    )
    live.kubectl("delete", "vpvm", "first", "-n", namespace, "--timeout=30s")
    second = live.wait_ready("second", namespace)
    eventually(lambda: GREETING in live.serial(second))


def test_a_machine_whose_object_vanished_runs_on_and_is_listed_as_an_orphan(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    uid, before = machine["metadata"]["uid"], live.pids(machine)
    # As by a restored database: no teardown of ours, the object is simply not there any more.
    live.system.stop(OPERATOR)
    live.system.stop(AGENT)
    live.kubectl("delete", "vpvm", "web", "-n", namespace, "--wait=false")
    live.kubectl("patch", "vpvm", "web", "-n", namespace, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    live.system.start_operator()
    start_qemu_agent(live)

    def orphans() -> list[str]:
        listed = live.get("vphv", f"{AGENT}-qemu")["status"].get("orphans") or []
        return [orphan["uid"] for orphan in listed]

    eventually(lambda: orphans() == [uid], 30)
    assert live.pids(machine) == before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    [disk] = machine["status"]["placement"]["disks"]
    # Nobody can know that the orphan has ended: a person takes the claim away.
    live.kubectl(
        "patch", "vpvol", disk["volumeName"], "-n", namespace, "--subresource=status", "--type=json",
        "-p", '[{"op":"remove","path":"/status/claim"}]',
    )  # fmt: skip


def test_a_volume_that_its_pool_lost_is_never_replaced_by_an_empty_one(live: Live, namespace: str) -> None:
    live.apply(volume("data", namespace, deletionPolicy="Delete"))
    data = live.wait_condition("vpvol", "data", namespace, "Made")
    # As when the pool's file system is not mounted after a reboot of the host.
    folder = live.system.directory / "pool"
    [path] = folder.glob(f"{data['metadata']['uid']}.*")
    path.rename(folder.parent / path.name)
    live.apply(vm("web", namespace, {"name": "data", "volumeName": "data"}))
    machine = live.wait_condition("vpvm", "web", namespace, "VolumeLost")
    assert "see that the pool's file system is mounted" in condition(machine, "Ready")["message"]
    assert list(folder.glob(f"{data['metadata']['uid']}.*")) == []

    (folder.parent / path.name).rename(path)
    live.wait_ready("web", namespace)


def test_a_host_that_has_seen_a_greater_token_gets_a_greater_one_and_its_guest_does_not_notice(
    live: Live, namespace: str
) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    before = live.pids(machine)
    # As after an etcd that was put back to yesterday: the host knows of placements that the API server does not.
    live.system.stop(AGENT)
    path = live.system.state_folder(AGENT) / "qemu" / machine["metadata"]["uid"] / "record.json"
    record = json.loads(path.read_text())
    record["owner"]["token"] = 50
    path.write_text(json.dumps(record))
    start_qemu_agent(live)
    eventually(lambda: live.get("vpvm", "web", namespace)["status"]["placement"]["token"] == 51, 30)
    live.wait_ready("web", namespace)
    assert live.pids(machine) == before
    events = live.kubectl("get", "events", "-n", namespace, "-o", "jsonpath={.items[*].reason}")
    assert "StaleToken" in events.split()


def test_a_disk_that_was_used_under_a_greater_token_is_used_under_a_greater_one(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    [disk] = machine["status"]["placement"]["disks"]
    live.set_power("web", namespace, "Stopped")
    live.wait_ready("web", namespace)
    lock = live.system.directory / "pool" / f"{disk['volumeUID']}.qcow2.lock"
    record = json.loads(lock.read_text())
    assert (record["machine"], record["hypervisor"]) == (f"{namespace}/web", f"{AGENT}-qemu")
    lock.write_text(json.dumps(record | {"token": 70}))
    live.set_power("web", namespace, "Running")
    running = live.wait_ready("web", namespace)
    assert running["status"]["placement"]["token"] == 71
    assert "seenToken" not in running["status"]["host"]
    assert json.loads(lock.read_text())["token"] == 71
