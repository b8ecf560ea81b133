"""Faults of everything around a guest: the ground truth is /proc and the console, not what the resources say."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import CommandError, ControlPlane
from tests.cluster.guests.boot_sector import GREETING, BootSectorKind, boot_sector_image
from tests.cluster.identities import Identities
from tests.cluster.system import OPERATOR, SYSTEM_NAMESPACE, System
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, Object, condition, root_disk, start_qemu_agent, vm

OTHER_BOOT = "11111111-2222-3333-4444-555555555555"


def machine_with(live: Live, name: str, namespace: str, **spec: Any) -> Object:
    live.apply(vm(name, namespace, root_disk(live.images.source("obedient.img")), **spec))
    machine = live.wait_ready(name, namespace)
    eventually(lambda: "tick 1" in live.serial(machine))
    return machine


def goes_on(live: Live, machine: Object, pids: list[int]) -> None:
    """The same process, and a guest that counts on without a second boot."""
    last = live.serial(machine).split()[-1]
    eventually(lambda: live.serial(machine).split()[-1] not in ("tick", last))
    assert live.serial(machine).count(GREETING) == 1
    assert live.pids(machine) == pids


def takes_machines(live: Live, namespace: str) -> bool:
    try:
        live.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(vm("probe", namespace)))
    except CommandError:
        return False
    return True


def record_file(live: Live, machine: Object) -> Path:
    return live.system.state_folder(AGENT) / "qemu" / str(machine["metadata"]["uid"]) / "record.json"


def test_a_guest_that_crashes_while_the_api_server_is_away_is_restarted_and_told_of_later(
    live: Live, namespace: str
) -> None:
    web = machine_with(live, "web", namespace)
    job = machine_with(live, "job", namespace, restartPolicy="Never")
    calm = machine_with(live, "calm", namespace)
    before = live.pids(calm)
    live.control_plane.stop_apiserver()
    try:
        [crashed], [ended] = live.pids(web), live.pids(job)
        os.kill(crashed, signal.SIGKILL)
        os.kill(ended, signal.SIGKILL)
        eventually(lambda: live.pids(web) not in ([], [crashed]), 30)
        eventually(lambda: live.serial(web).count(GREETING) == 2)
        assert live.pids(job) == []
    finally:
        live.control_plane.start_apiserver()
        # For half a minute an API server that has just started refuses what a MutatingAdmissionPolicy is to change.
        eventually(lambda: takes_machines(live, namespace), 60)
    eventually(lambda: live.get("vpvm", "web", namespace)["status"].get("restarts") == 1, 60)
    assert live.wait_ready("web", namespace)["status"]["lastExit"]["reason"] == "Crashed"
    live.wait_condition("vpvm", "job", namespace, "Crashed", 60)
    goes_on(live, calm, before)


@pytest.mark.long
def test_a_hung_machine_is_unknown_in_time_and_disturbs_no_other(live: Live, namespace: str) -> None:
    hung, lively = machine_with(live, "hung", namespace), machine_with(live, "lively", namespace)
    [pid] = live.pids(hung)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    live.wait_condition("vpvm", "hung", namespace, "Unresponsive", 20)
    assert time.monotonic() - began < 17  # 15 s, and a look of kubectl's
    seen = live.get("vpvm", "hung", namespace)
    assert (seen["status"]["powerState"], condition(seen, "Ready")["status"]) == ("Unknown", "Unknown")

    began = time.monotonic()
    live.set_power("lively", namespace, "Paused")
    live.wait_ready("lively", namespace)
    assert time.monotonic() - began < 5
    assert live.pids(lively)

    os.kill(pid, signal.SIGCONT)
    live.wait_ready("hung", namespace, 30)
    goes_on(live, hung, [pid])

    os.kill(pid, signal.SIGSTOP)
    live.kubectl("delete", "vpvm", "hung", "-n", namespace, "--timeout=60s", timeout_s=90)
    assert live.pids(hung) == []


def test_after_a_reboot_of_the_host_machines_come_back_as_their_policy_says(live: Live, namespace: str) -> None:
    always = machine_with(live, "always", namespace)
    never = machine_with(live, "never", namespace, restartPolicy="Never")
    asleep = machine_with(live, "asleep", namespace)
    live.set_power("asleep", namespace, "Suspended")
    live.wait_ready("asleep", namespace)
    # What a reboot leaves: no process, an empty runtime folder, and records of another boot.
    live.system.stop(AGENT, grace_s=0)
    for machine in (always, never):
        for pid in live.pids(machine):
            os.kill(pid, signal.SIGKILL)
        path = record_file(live, machine)
        record = json.loads(path.read_text())
        record["process"]["boot_id"] = OTHER_BOOT
        path.write_text(json.dumps(record))
    shutil.rmtree(live.system.runtime_folder(AGENT))
    start_qemu_agent(live)

    eventually(lambda: live.get("vpvm", "always", namespace)["status"].get("restarts") == 1, 30)
    again = live.wait_ready("always", namespace)
    assert again["status"]["lastExit"]["reason"] == "HostRebooted"
    eventually(lambda: live.serial(always).count(GREETING) == 2)
    held = live.wait_condition("vpvm", "never", namespace, "HostRebooted")
    assert live.pids(never) == []
    assert "restartPolicy is Never" in condition(held, "Ready")["message"]
    live.set_power("asleep", namespace, "Running")
    live.wait_ready("asleep", namespace)
    last = live.serial(asleep).split()[-1]
    eventually(lambda: live.serial(asleep).split()[-1] not in ("tick", last))
    assert live.serial(asleep).count(GREETING) == 1


def test_an_agent_that_lost_its_state_folder_knows_its_guests_again(live: Live, namespace: str) -> None:
    machine = machine_with(live, "web", namespace)
    before = live.pids(machine)
    live.system.stop(AGENT)
    shutil.rmtree(live.system.state_folder(AGENT))
    start_qemu_agent(live)
    eventually(lambda: condition(live.get("vphv", f"{AGENT}-qemu"), "Ready").get("status") == "True", 60)
    # A change that only the new agent can report shows that it has the machine.
    live.kubectl("patch", "vpvm", "web", "-n", namespace, "--type=merge", "-p", '{"spec":{"powerState":"Paused"}}')
    paused = live.wait_ready("web", namespace, 60)
    assert live.pids(machine) == before
    assert paused["status"]["effective"]["machineType"] == machine["status"]["effective"]["machineType"]
    live.set_power("web", namespace, "Running")
    live.wait_ready("web", namespace)
    live.set_power("web", namespace, "Stopped")
    live.wait_ready("web", namespace)
    assert live.pids(machine) == []


def test_a_second_agent_on_a_state_folder_refuses_and_names_the_first(live: Live) -> None:
    pid = live.system.pids[AGENT]
    argv = ("--state-dir", str(live.system.state_folder(AGENT)))
    live.system.start_agent("host-b", ["fake"], *argv)
    eventually(lambda: live.system.exit_code("host-b") is not None, 30)
    assert live.system.exit_code("host-b") == 3
    assert f"is in use by the agent with pid {pid}" in live.system.log("host-b")
    live.system.stop("host-b")


def test_an_agent_with_another_cluster_s_kubeconfig_touches_no_guest(live: Live, namespace: str) -> None:
    machine = machine_with(live, "web", namespace)
    before = live.pids(machine)
    live.system.stop(AGENT)
    with ControlPlane() as other:
        other.helm("install", "virtplane", "helm/virtplane", "-n", SYSTEM_NAMESPACE, "--create-namespace")
        with System(lambda folder: Identities(other.kubectl, folder, SYSTEM_NAMESPACE)) as elsewhere:
            folders = [
                f"--state-dir={live.system.state_folder(AGENT)}",
                f"--runtime-dir={live.system.runtime_folder(AGENT)}",
            ]
            elsewhere.start_agent(AGENT, ["qemu"], "--qemu-accelerator", "tcg", *folders)
            eventually(lambda: "belongs to another cluster" in elsewhere.log(AGENT), 30)
            status = json.loads(other.kubectl("get", "vphv", f"{AGENT}-qemu", "-o", "json")).get("status", {})
            assert "orphans" not in status
            assert live.pids(machine) == before
            elsewhere.stop(AGENT)
    start_qemu_agent(live)
    goes_on(live, machine, before)


@pytest.mark.long
@pytest.mark.timeout(180)  # the Lease of an operator that was killed lasts 40 s
def test_agents_work_on_while_the_operator_is_away(live: Live, namespace: str) -> None:
    machine = machine_with(live, "web", namespace)
    live.system.stop(OPERATOR, grace_s=0)
    [pid] = live.pids(machine)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: live.get("vpvm", "web", namespace)["status"].get("restarts") == 1, 30)
    live.set_power("web", namespace, "Stopped")
    live.wait_ready("web", namespace)
    live.system.start_operator()
    live.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=90s", timeout_s=120)


def test_a_machine_that_is_made_and_deleted_over_and_over_leaves_nothing(live: Live, namespace: str) -> None:
    boot_sector_image(BootSectorKind.OBEDIENT, live.images.server.folder / "churn.img")
    source = live.images.source("churn.img")
    for number in range(20):
        live.apply(vm("web", namespace, root_disk(source), terminationGracePeriodSeconds=0))
        if number % 2:
            live.wait_ready("web", namespace)
        live.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=30s")
    eventually(lambda: not live.kubectl("get", "vpvol", "-n", namespace, "-o", "name"), 30)
    assert list((live.system.state_folder(AGENT) / "qemu").iterdir()) == []
    assert list(live.system.runtime_folder(AGENT).iterdir()) == []
    assert list((live.system.directory / "pool").iterdir()) == []
