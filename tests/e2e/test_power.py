"""Power as it is declared: what a user sets, and what a real guest then does."""

import json
import os
import signal

from tests.cluster.guests.boot_sector import GREETING, BootSectorKind, boot_sector_image
from tests.cluster.waiting import eventually
from tests.e2e.conftest import Live, Object, condition, root_disk, vm


def source(live: Live, kind: BootSectorKind, ticks: int) -> Object:
    name = f"{kind}-{ticks}.img"
    boot_sector_image(kind, live.images.server.folder / name, ticks)
    return live.images.source(name)


def patch(live: Live, name: str, namespace: str, **spec: object) -> None:
    live.kubectl("patch", "vpvm", name, "-n", namespace, "--type=merge", "-p", json.dumps({"spec": spec}))


def last_exit(live: Live, name: str, namespace: str) -> str:
    return str(live.get("vpvm", name, namespace)["status"].get("lastExit", {}).get("reason", ""))


def test_a_paused_machine_is_ready_and_goes_on_when_it_is_to_run(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: "tick 1" in live.serial(machine))
    live.set_power("web", namespace, "Paused")
    assert live.wait_ready("web", namespace)["status"]["powerState"] == "Paused"
    held = live.serial(machine)
    live.set_power("web", namespace, "Running")
    again = live.wait_ready("web", namespace)
    assert again["status"]["startTime"] == machine["status"]["startTime"]
    eventually(lambda: len(live.serial(machine)) > len(held) + len("tick 9\r\n"))
    assert live.serial(machine).count(GREETING) == 1


def test_a_suspended_machine_has_no_process_and_counts_on_when_it_is_to_run(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: "tick 2" in live.serial(machine))
    live.set_power("web", namespace, "Suspended")
    assert live.wait_ready("web", namespace)["status"]["powerState"] == "Suspended"
    assert live.pids(machine) == []
    live.set_power("web", namespace, "Running")
    live.wait_ready("web", namespace)
    last = live.serial(machine).split()[-1]
    eventually(lambda: live.serial(machine).split()[-1] not in ("tick", last))
    assert live.serial(machine).count(GREETING) == 1

    live.set_power("web", namespace, "Suspended")
    live.wait_ready("web", namespace)
    live.kubectl("delete", "vpvm", "web", "-n", namespace, "--timeout=30s")
    assert list((live.system.directory / "pool").glob("*.memory*")) == []


def test_a_newer_restarted_at_is_one_restart_in_order(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("web", namespace)
    before = live.pids(machine)
    eventually(lambda: "tick 1" in live.serial(machine))
    spec: Object = {"cpu": {"cores": 2}, "terminationGracePeriodSeconds": 20}
    patch(live, "web", namespace, restartedAt="2026-11-24T10:00:00Z", **spec)
    after = live.wait_ready("web", namespace)
    assert after["status"]["restartedAt"] == "2026-11-24T10:00:00Z"
    assert after["status"]["lastExit"]["reason"] == "Stopped"
    assert after["status"]["effective"]["cpu"]["cores"] == 2
    assert "pendingChanges" not in after["status"]
    pids = live.pids(machine)
    assert (len(pids), pids == before) == (1, False)
    # An older one asks for nothing.
    patch(live, "web", namespace, restartedAt="2026-11-24T09:00:00Z")
    live.wait_ready("web", namespace)
    assert live.pids(machine) == pids


def test_a_machine_that_never_restarts_stays_off_until_it_is_asked(live: Live, namespace: str) -> None:
    image = source(live, BootSectorKind.POWERS_OFF, 1)
    live.apply(vm("job", namespace, root_disk(image), restartPolicy="Never"))
    machine = live.wait_condition("vpvm", "job", namespace, "GuestShutdown")
    ready = condition(machine, "Ready")
    assert ready["status"] == "False"
    assert "restartPolicy is Never: a newer restartedAt starts it" in ready["message"]
    assert [condition(machine, kind) for kind in ("Reconciling", "Stalled")] == [{}, {}]
    assert machine["status"]["powerState"] == "Stopped"
    assert live.serial(machine).count(GREETING) == 1

    patch(live, "job", namespace, restartedAt="2026-11-24T10:00:00Z")
    eventually(lambda: live.serial(machine).count(GREETING) == 2)
    live.wait_condition("vpvm", "job", namespace, "GuestShutdown")

    # Stopped is as asked; Running after that is a new wish.
    live.set_power("job", namespace, "Stopped")
    live.wait_ready("job", namespace)
    live.set_power("job", namespace, "Running")
    eventually(lambda: live.serial(machine).count(GREETING) == 3)
    settled = live.wait_condition("vpvm", "job", namespace, "GuestShutdown")
    assert settled["status"].get("restarts", 0) == 1


def test_a_machine_that_restarts_on_failure_does_so_after_a_panic_and_not_after_a_shutdown(
    live: Live, namespace: str
) -> None:
    live.apply(
        vm("panics", namespace, root_disk(source(live, BootSectorKind.PANICS, 2)), restartPolicy="OnFailure"),
        vm("ends", namespace, root_disk(source(live, BootSectorKind.POWERS_OFF, 1)), restartPolicy="OnFailure"),
    )
    eventually(lambda: live.get("vpvm", "panics", namespace)["status"].get("restarts", 0) >= 1, 30)
    assert last_exit(live, "panics", namespace) == "GuestPanicked"
    live.wait_condition("vpvm", "ends", namespace, "GuestShutdown")


def test_a_machine_that_keeps_ending_waits_and_says_so(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(source(live, BootSectorKind.POWERS_OFF, 1))))
    machine = live.wait_condition("vpvm", "web", namespace, "CrashLoopBackOff")
    assert condition(machine, "Reconciling")["status"] == "True"
    assert "it ended again soon after its start (GuestShutdown)" in condition(machine, "Ready")["message"]
    starts = live.serial(machine).count(GREETING)
    eventually(lambda: live.serial(machine).count(GREETING) > starts, 20)


def test_a_machine_that_was_killed_while_it_was_to_stop_is_as_asked(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("deaf.img")), terminationGracePeriodSeconds=60))
    machine = live.wait_ready("web", namespace)
    live.set_power("web", namespace, "Stopped")
    live.wait_condition("vpvm", "web", namespace, "ShuttingDown")
    for pid in live.pids(machine):
        os.kill(pid, signal.SIGKILL)
    assert live.wait_ready("web", namespace)["status"]["powerState"] == "Stopped"
    # Nothing of that is left to be made up for when it is to run again.
    live.set_power("web", namespace, "Running")
    assert live.wait_ready("web", namespace)["status"].get("restarts", 0) == 0
    patch(live, "web", namespace, terminationGracePeriodSeconds=1)


def test_a_machine_that_does_not_run_cannot_be_suspended_and_says_so(live: Live, namespace: str) -> None:
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img")), powerState="Suspended"))
    machine = live.wait_condition("vpvm", "web", namespace, "NotRunning")
    assert condition(machine, "Stalled")["status"] == "True"
    live.set_power("web", namespace, "Running")
    live.wait_ready("web", namespace)
    live.set_power("web", namespace, "Suspended")
    live.wait_ready("web", namespace)
