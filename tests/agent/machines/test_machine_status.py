"""The agent's part of a machine's status: what was seen in, what is said out."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.agent.objects import HYPERVISOR, conditions, vm
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.machines.status import machine_status
from virtplane_api.vocabulary import ExitReason, PowerState
from virtplane_drivers.hypervisor.contract import ABSENT, Cpu, Effective, Exit, Observed

STARTED = datetime(2026, 11, 24, 9, 59, 58, 123456, tzinfo=UTC)
EFFECTIVE = Effective(Cpu(2, "max"), 1024, "pc-q35-7.2", "tcg")
EFFECTIVE_AS_SAID = {
    "machineType": "pc-q35-7.2",
    "accelerator": "tcg",
    "cpu": {"cores": 2, "model": "max"},
    "memory": {"size": "1Gi"},
}
RUNNING = Observed(PowerState.RUNNING, effective=EFFECTIVE, started_at=STARTED)
STOPPED = Observed(PowerState.STOPPED, effective=EFFECTIVE)
PAUSED = replace(RUNNING, power=PowerState.PAUSED)
SUSPENDED = replace(RUNNING, power=PowerState.SUSPENDED, started_at=None)
HUNG = replace(RUNNING, power=PowerState.UNKNOWN, message="QEMU (pid 7): no answer within 4 s")
NOT_READY = Hindrance("VolumeNotReady", "disk root: Volume web-root is being made")
REFUSED = Hindrance("CpuModelRefused", "cpu.model: no such model", Progress.STALLED)
HELD = Hindrance("GuestShutdown", "restartPolicy is Never", Progress.HELD)
IO_ERROR = Hindrance("IOError", "paused until its disk can be written")
BACK_OFF = Hindrance("CrashLoopBackOff", "it ended again soon after its start (Crashed)")
STALE = Hindrance("StaleToken", "the host has seen token 5", Progress.BLOCKED)
ENDED = replace(STOPPED, ended_by_itself=True)
ASKED = "2026-11-24T11:00:00Z"

RUN, PAUSE, SUSPEND, STOP = ({"power_state": state} for state in ("Running", "Paused", "Suspended", "Stopped"))
REMOVE = {"being_deleted": True}
RESTART, RESTART_PAUSED = RUN | {"restartedAt": ASKED}, PAUSE | {"restartedAt": ASKED}
IS, NOT, UNKNOWN = "True", "False", "Unknown"
SAID: list[tuple[str, Observed, dict[str, Any], Hindrance | None, str, tuple[str, str], str]] = [
    # what is seen, what is wanted, what hinders; the power that is said; Ready; the condition beside it
    ("runs as asked", RUNNING, RUN, None, "Running", (IS, "Running"), ""),
    ("paused as asked", PAUSED, PAUSE, None, "Paused", (IS, "Paused"), ""),
    ("suspended as asked", SUSPENDED, SUSPEND, None, "Suspended", (IS, "Suspended"), ""),
    ("stopped as asked", STOPPED, STOP, None, "Stopped", (IS, "Stopped"), ""),
    ("not there, as asked", ABSENT, STOP, None, "Stopped", (IS, "Stopped"), ""),
    ("to be started", STOPPED, RUN, None, "Stopped", (NOT, "Starting"), "Reconciling"),
    ("to be defined and started", ABSENT, RUN, None, "Stopped", (NOT, "Starting"), "Reconciling"),
    ("to go on after a pause", PAUSED, RUN, None, "Paused", (NOT, "Resuming"), "Reconciling"),
    ("to wake", SUSPENDED, RUN, None, "Suspended", (NOT, "Resuming"), "Reconciling"),
    ("to be paused", RUNNING, PAUSE, None, "Running", (NOT, "Pausing"), "Reconciling"),
    ("to be suspended", RUNNING, SUSPEND, None, "Running", (NOT, "Suspending"), "Reconciling"),
    ("asked to shut down", RUNNING, STOP, None, "Running", (NOT, "ShuttingDown"), "Reconciling"),
    ("to be removed", RUNNING, REMOVE, None, "Running", (NOT, "Deleting"), "Reconciling"),
    ("stopped, to be removed", STOPPED, REMOVE, None, "Stopped", (NOT, "Deleting"), "Reconciling"),
    ("gone", ABSENT, REMOVE, None, "Stopped", (NOT, "Removed"), ""),
    ("hung", HUNG, RUN, None, "Unknown", (UNKNOWN, "Unresponsive"), "Reconciling"),
    ("hung, to be stopped", HUNG, STOP, None, "Unknown", (UNKNOWN, "Unresponsive"), "Reconciling"),
    ("waits for a disk", ABSENT, RUN, NOT_READY, "Stopped", (NOT, "VolumeNotReady"), "Reconciling"),
    ("refused", STOPPED, RUN, REFUSED, "Stopped", (NOT, "CpuModelRefused"), "Stalled"),
    ("left as it is by its own policy", ENDED, RUN, HELD, "Stopped", (NOT, "GuestShutdown"), ""),
    ("left as it is, wanted Paused", ENDED, PAUSE, HELD, "Stopped", (NOT, "GuestShutdown"), ""),
    ("keeps ending", ENDED, RUN, BACK_OFF, "Stopped", (NOT, "CrashLoopBackOff"), "Reconciling"),
    ("its disk is full", PAUSED, RUN, IO_ERROR, "Paused", (NOT, "IOError"), "Reconciling"),
    ("its disk is full, and it is to be paused", PAUSED, PAUSE, None, "Paused", (IS, "Paused"), ""),
    ("to be restarted", RUNNING, RESTART, None, "Running", (NOT, "Restarting"), "Reconciling"),
    ("to be restarted out of a pause", PAUSED, RESTART, None, "Paused", (NOT, "Restarting"), "Reconciling"),
    ("to be restarted and paused", PAUSED, RESTART_PAUSED, None, "Paused", (NOT, "Restarting"), "Reconciling"),
    ("to be restarted, and off by now", STOPPED, RESTART, None, "Stopped", (NOT, "Starting"), "Reconciling"),
    ("to be restarted, and hung", HUNG, RESTART, None, "Unknown", (UNKNOWN, "Unresponsive"), "Reconciling"),
    ("cannot be suspended", STOPPED, SUSPEND, REFUSED, "Stopped", (NOT, "CpuModelRefused"), "Stalled"),
    ("blocked, and not as asked", STOPPED, RUN, STALE, "Stopped", (NOT, "StaleToken"), "Stalled"),
    ("blocked, and as asked to look at", RUNNING, RUN, STALE, "Running", (NOT, "StaleToken"), "Stalled"),
    ("blocked, stopped as asked to look at", STOPPED, STOP, STALE, "Stopped", (NOT, "StaleToken"), "Stalled"),
    ("blocked, to be removed", RUNNING, REMOVE, STALE, "Running", (NOT, "StaleToken"), "Stalled"),
    ("blocked, to be restarted", RUNNING, RESTART, STALE, "Running", (NOT, "StaleToken"), "Stalled"),
    ("blocked, and hung", HUNG, RUN, STALE, "Unknown", (UNKNOWN, "StaleToken"), "Stalled"),
]


@pytest.mark.parametrize(
    ("observed", "wanted", "hindrance", "power", "ready", "beside"),
    [row[1:] for row in SAID],
    ids=[row[0] for row in SAID],
)
def test_what_is_seen_and_wanted_is_said_in_conditions(
    observed: Observed,
    wanted: dict[str, Any],
    hindrance: Hindrance | None,
    power: str,
    ready: tuple[str, str],
    beside: str,
) -> None:
    status = machine_status(vm(**wanted), observed, hindrance)
    assert status["powerState"] == power
    assert conditions(status) == {"Ready": ready} | ({beside: ("True", ready[1])} if beside else {})


def test_every_report_names_the_generation_and_the_placement_it_speaks_of() -> None:
    status = machine_status(vm(token=7), RUNNING, None)
    assert status["observedGeneration"] == 3
    assert status["host"] == {"hypervisor": HYPERVISOR, "token": 7, "state": "Present"}
    assert {one["observedGeneration"] for one in status["conditions"]} == {3}


def test_the_greater_token_that_was_seen_is_named_for_the_operator_to_place_above_it() -> None:
    assert machine_status(vm(token=3), RUNNING, replace(STALE, seen_token=5))["host"]["seenToken"] == 5
    assert "seenToken" not in machine_status(vm(token=3), RUNNING, STALE)["host"]


@pytest.mark.parametrize(
    ("observed", "wanted", "state"),
    [
        pytest.param(ABSENT, REMOVE, "Removed", id="gone, as asked"),
        pytest.param(STOPPED, REMOVE, "Present", id="its definition is still there"),
        pytest.param(HUNG, REMOVE, "Present", id="it may still run"),
        pytest.param(ABSENT, STOP, "Present", id="never defined, and not to be deleted"),
    ],
)
def test_removed_is_said_only_of_a_deleted_machine_that_is_not_there(
    observed: Observed, wanted: dict[str, Any], state: str
) -> None:
    """It is what the finalizer waits for."""
    assert machine_status(vm(**wanted), observed, None)["host"]["state"] == state


@pytest.mark.parametrize("observed", [RUNNING, PAUSED], ids=["running", "paused"])
def test_the_start_time_is_said_while_it_has_a_run_and_not_after(observed: Observed) -> None:
    assert machine_status(vm(), observed, None)["startTime"] == "2026-11-24T09:59:58Z"
    assert "startTime" not in machine_status(vm(), replace(observed, power=PowerState.STOPPED), None)


@pytest.mark.parametrize("observed", [STOPPED, RUNNING, HUNG])
def test_what_is_in_effect_is_said_of_every_machine_that_is_there(observed: Observed) -> None:
    assert machine_status(vm(), observed, None)["effective"] == EFFECTIVE_AS_SAID


def test_what_was_pinned_is_kept_while_the_host_knows_no_machine() -> None:
    machine = vm(status={"effective": EFFECTIVE_AS_SAID})
    assert machine_status(machine, ABSENT, None)["effective"] == EFFECTIVE_AS_SAID
    assert "effective" not in machine_status(vm(), ABSENT, None)


PENDING: list[tuple[str, dict[str, Any], list[str]]] = [
    ("nothing", {}, []),
    ("CPUs", {"cpu": {"cores": 4}}, ["spec.cpu.cores"]),
    ("a CPU model", {"cpu": {"cores": 2, "model": "Nehalem"}}, ["spec.cpu.model"]),
    ("the model that runs, by its name", {"cpu": {"cores": 2, "model": "max"}}, []),
    ("back to the host's model", {"cpu": {"cores": 2, "model": "Host"}}, []),
    ("memory", {"memory": {"size": "2Gi"}}, ["spec.memory.size"]),
    ("the same memory in other words", {"memory": {"size": "1024Mi"}}, []),
    ("all", {"cpu": {"cores": 1, "model": "x"}, "memory": {"size": "1Mi"}},
     ["spec.cpu.cores", "spec.cpu.model", "spec.memory.size"]),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "fields"), [row[1:] for row in PENDING], ids=[row[0] for row in PENDING])
def test_changes_that_wait_for_a_restart_are_listed_by_field(spec: dict[str, Any], fields: list[str]) -> None:
    for observed in (RUNNING, PAUSED):
        status = machine_status(vm(**spec), observed, None)
        assert status.get("pendingChanges", []) == [{"field": field, "applies": "OnRestart"} for field in fields]


def test_a_restart_that_is_due_is_said_until_the_new_run_is_there() -> None:
    machine = vm(restartedAt=ASKED)
    status = machine_status(machine, replace(RUNNING, restarted_at=""), None)
    assert conditions(status) == {"Ready": ("False", "Restarting"), "Reconciling": ("True", "Restarting")}
    assert f"restart as asked by restartedAt {ASKED}" in status["conditions"][0]["message"]
    assert "restartedAt" not in status
    status = machine_status(machine, replace(RUNNING, restarted_at=ASKED), None)
    assert conditions(status) == {"Ready": ("True", "Running")}
    assert status["restartedAt"] == ASKED


def test_a_restart_is_no_matter_of_a_machine_that_is_to_be_off() -> None:
    machine = vm(power_state="Stopped", restartedAt=ASKED)
    assert conditions(machine_status(machine, RUNNING, None))["Ready"] == ("False", "ShuttingDown")
    assert conditions(machine_status(machine, STOPPED, None))["Ready"] == ("True", "Stopped")


@pytest.mark.parametrize(
    ("observed", "restarts", "restarted_at"),
    [
        pytest.param(replace(RUNNING, restarts=3, restarted_at=ASKED), 3, ASKED,
                     id="as the host counts"),
        pytest.param(RUNNING, 2, "2026-11-24T09:00:00Z", id="as it was said, where the host knows of none"),
        pytest.param(ABSENT, 2, "2026-11-24T09:00:00Z", id="as it was said, where the machine is not there yet"),
    ],
)  # fmt: skip
def test_what_was_said_of_restarts_stays_where_the_host_knows_nothing(
    observed: Observed, restarts: int, restarted_at: str
) -> None:
    before = {"restarts": 2, "restartedAt": "2026-11-24T09:00:00Z"}
    status = machine_status(vm(status=before), observed, None)
    assert (status["restarts"], status["restartedAt"]) == (restarts, restarted_at)


def test_a_stopped_machine_has_no_pending_change() -> None:
    assert "pendingChanges" not in machine_status(vm(cpu={"cores": 4}), STOPPED, None)


def test_the_last_exit_is_said_as_it_was_seen() -> None:
    exit_ = Exit(ExitReason.CRASHED, STARTED, "QEMU was ended by signal 9" + "." * 5000)
    said = machine_status(vm(), replace(STOPPED, last_exit=exit_), None)["lastExit"]
    assert (said["reason"], said["time"]) == ("Crashed", "2026-11-24T09:59:58Z")
    assert said["message"].startswith("QEMU was ended by signal 9")
    assert len(said["message"]) == 4096
    silent = replace(STOPPED, last_exit=Exit(ExitReason.STOPPED, STARTED))
    assert "message" not in machine_status(vm(), silent, None)["lastExit"]


def test_the_last_exit_is_kept_where_the_host_tells_of_none() -> None:
    before = {"reason": "HostRebooted", "time": "2026-11-23T00:00:00Z"}
    assert machine_status(vm(status={"lastExit": before}), RUNNING, None)["lastExit"] == before


def test_the_time_of_ready_stays_while_only_the_reason_changes() -> None:
    before = {"type": "Ready", "status": "False", "reason": "Starting", "message": "", "observedGeneration": 1}
    machine = vm(status={"conditions": [before | {"lastTransitionTime": "2026-11-23T00:00:00Z"}]})
    status = machine_status(machine, ABSENT, NOT_READY)
    assert status["conditions"][0]["lastTransitionTime"] == "2026-11-23T00:00:00Z"
    assert status["conditions"][1]["lastTransitionTime"] > "2026-11-23T00:00:00Z"
