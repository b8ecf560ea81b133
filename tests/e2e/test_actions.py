"""Acts on machines, from `kubectl create` to the guest and back."""

import base64
import json
from typing import Any

import pytest

from tests.cluster.guests.quickstart import BOOT_NUMBER_PREFIX, UP_LINE
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, Object, condition, finished, root_disk, start_qemu_agent, vm


def act(name: str, namespace: str, type_: str, **spec: Any) -> Object:
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "VirtualMachineAction",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"vmName": "web", "type": type_} | spec,
    }


def test_a_linux_guest_is_looked_at_told_what_to_run_and_reset(live: Live, namespace: str) -> None:
    disk = root_disk(live.images.source("quickstart.qcow2"), size="64Mi")
    live.apply(vm("web", namespace, disk, memory={"size": "128Mi"}, display={"type": "VGA"}))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: UP_LINE in live.serial(machine), 60)

    command = {"command": ["sh", "-c", "echo seen; echo lost >&2; exit 3"]}
    for attempt in range(20):  # its agent begins a moment after it is up
        live.apply(act(f"run-{attempt}", namespace, "GuestCommand", guestCommand=command))
        action = finished(live, f"run-{attempt}", namespace)
        if condition(action, "Failed").get("reason") != "GuestAgentSilent":
            break
    assert (condition(action, "Failed")["reason"], action["status"]["guestCommand"]) == (
        "CommandFailed",
        {"exitCode": 3, "stdout": "seen\n", "stderr": "lost\n", "outputTruncated": False},
    )

    live.apply(act("look", namespace, "Screenshot"))
    live.kubectl("wait", "vpact/look", "-n", namespace, "--for=condition=Complete", "--timeout=30s", timeout_s=40)
    assert base64.b64decode(live.get("vpact", "look", namespace)["status"]["screenshot"]["png"])[1:4] == b"PNG"

    before = live.get("vpvm", "web", namespace)
    live.apply(act("reset", namespace, "Reset"))
    assert condition(finished(live, "reset", namespace), "Complete")["reason"] == "Completed"
    eventually(lambda: f"{BOOT_NUMBER_PREFIX}2" in live.serial(machine), 60)
    after = live.get("vpvm", "web", namespace)
    assert (after["status"], after["spec"]) == (before["status"], before["spec"])
    events = live.kubectl("get", "events.events.k8s.io", "-n", namespace, "-o", "json")
    notes = [event["note"] for event in json.loads(events)["items"] if event["regarding"]["kind"] == "VirtualMachine"]
    assert "Reset, asked for by VirtualMachineAction reset" in notes


def test_what_cannot_be_done_says_why_and_what_helps(live: Live, namespace: str) -> None:
    live.apply(act("early", namespace, "Reset"))
    failed = condition(finished(live, "early", namespace), "Failed")
    assert (failed["reason"], failed["message"]) == (
        "MachineNotFound",
        f"there is no VirtualMachine web in namespace {namespace} (spec.vmName)",
    )
    live.apply(vm("web", namespace, root_disk(live.images.source("deaf.img"))))
    live.wait_ready("web", namespace)
    live.apply(act("look", namespace, "Screenshot"))
    failed = condition(finished(live, "look", namespace), "Failed")
    assert failed["reason"] == "NoDisplay"
    assert "set spec.display" in failed["message"]
    live.set_power("web", namespace, "Stopped")
    live.wait_ready("web", namespace)
    live.apply(act("reset", namespace, "Reset"))
    assert condition(finished(live, "reset", namespace), "Failed")["reason"] == "NotRunning"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "SendKeys"}, "sendKeys must be set with type SendKeys"),
        ({"type": "Reset", "sendKeys": {"keys": ["KEY_A"]}}, "sendKeys must be set with type SendKeys"),
        ({"type": "GuestCommand"}, "guestCommand must be set with type GuestCommand"),
        ({"type": "SendKeys", "sendKeys": {"keys": ["KEY_Ä"]}}, 'Unsupported value: "KEY_Ä"'),
        ({"type": "Explode"}, 'Unsupported value: "Explode"'),
        ({"type": "Reset", "startingDeadlineSeconds": 0}, "spec.startingDeadlineSeconds"),
    ],
)
def test_nonsense_is_refused_at_once(live: Live, namespace: str, spec: Object, message: str) -> None:
    assert message in live.refusal(act("bad", namespace, **{"type_": spec["type"], **spec}))


def test_an_action_is_not_changed_into_another(live: Live, namespace: str) -> None:
    live.apply(act("reset", namespace, "Reset"))
    assert "create another VirtualMachineAction" in live.refusal(act("reset", namespace, "NMI"))


def test_what_an_agent_that_dies_was_doing_is_reported_as_interrupted_and_not_done_again(
    live: Live, namespace: str
) -> None:
    disk = root_disk(live.images.source("quickstart.qcow2"), size="64Mi")
    live.apply(vm("web", namespace, disk, memory={"size": "128Mi"}))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: UP_LINE in live.serial(machine), 60)
    live.apply(
        act("sleep", namespace, "GuestCommand", guestCommand={"command": ["sleep", "300"], "timeoutSeconds": 300})
    )
    eventually(lambda: "startTime" in live.get("vpact", "sleep", namespace)["status"])
    live.system.stop(AGENT, grace_s=0)
    start_qemu_agent(live)
    failed = condition(finished(live, "sleep", namespace), "Failed")
    assert failed["reason"] == "Interrupted"
    assert "may have happened" in failed["message"]
    assert live.serial(machine).count(UP_LINE) == 1


def test_a_finished_action_goes_after_its_time(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("deaf.img"))))
    live.wait_ready("web", namespace)
    live.apply(act("nmi", namespace, "NMI", ttlSecondsAfterFinished=1))
    eventually(lambda: not live.exists("vpact", "nmi", namespace), 30)
