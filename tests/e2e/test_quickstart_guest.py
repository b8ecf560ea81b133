"""One real Linux guest through its whole life: boot, stop, start, and the deaths of those who look after it."""

import re

import pytest

from tests.cluster.guests.quickstart import BOOT_NUMBER_PREFIX, POWERING_OFF_LINE, UP_LINE, UPTIME_PREFIX
from tests.cluster.system import OPERATOR
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, condition, root_disk, start_qemu_agent, vm


def uptimes(console: str) -> list[int]:
    return [int(seconds) for seconds in re.findall(rf"^{UPTIME_PREFIX}(\d+)", console, re.MULTILINE)]


def test_a_guest_boots_stops_in_order_and_starts_again_from_its_own_disk(live: Live, namespace: str) -> None:
    source = live.images.source("quickstart.qcow2")
    more = {"memory": {"size": "128Mi"}, "terminationGracePeriodSeconds": 60}
    live.apply(vm("web", namespace, root_disk(source, "64Mi"), **more))
    machine = live.wait_ready("web", namespace)
    assert machine["status"]["powerState"] == "Running"
    eventually(lambda: UP_LINE in live.serial(machine), 60)

    live.set_power("web", namespace, "Stopped")
    stopped = live.wait_ready("web", namespace)
    assert stopped["status"]["powerState"] == "Stopped"
    assert stopped["status"]["lastExit"]["reason"] == "Stopped"
    assert POWERING_OFF_LINE in live.serial(machine)
    assert live.pids(machine) == []

    live.set_power("web", namespace, "Running")
    live.wait_ready("web", namespace)
    eventually(lambda: f"{BOOT_NUMBER_PREFIX}2" in live.serial(machine), 60)


@pytest.mark.long
@pytest.mark.timeout(180)  # the Lease of an operator that was killed lasts 40 s
def test_a_guest_does_not_notice_that_agent_and_operator_are_killed(live: Live, namespace: str) -> None:
    source = live.images.source("quickstart.qcow2")
    live.apply(vm("web", namespace, root_disk(source, "64Mi"), memory={"size": "128Mi"}))
    machine = live.wait_ready("web", namespace)
    eventually(lambda: len(uptimes(live.serial(machine))) >= 2, 60)
    before, started = live.pids(machine), machine["status"]["startTime"]
    seen = len(uptimes(live.serial(machine)))

    live.system.stop(AGENT, grace_s=0)
    live.system.stop(OPERATOR, grace_s=0)
    live.apply(vm("late", namespace, root_disk(live.images.source("obedient.img"))))
    eventually(lambda: len(uptimes(live.serial(machine))) > seen, 20)
    live.system.start_operator()
    start_qemu_agent(live)
    eventually(lambda: condition(live.get("vphv", f"{AGENT}-qemu"), "Ready").get("status") == "True", 30)

    # A change that only the new agent can act on shows that it has taken the machine over.
    live.kubectl("patch", "vpvm", "web", "-n", namespace, "--type=merge", "-p", '{"spec":{"cpu":{"cores":2}}}')
    machine = live.wait_ready("web", namespace)
    assert machine["status"]["pendingChanges"] == [{"field": "spec.cpu.cores", "applies": "OnRestart"}]
    assert live.pids(machine) == before
    assert machine["status"]["startTime"] == started
    ticks = uptimes(live.serial(machine))
    assert ticks == sorted(ticks), "the uptime fell: the guest was reset"
    assert live.serial(machine).count(UP_LINE) == 1

    # What was applied while nobody was there is done as if nothing had been.
    late = live.wait_ready("late", namespace, timeout_s=90)
    assert len(live.pids(late)) == 1
