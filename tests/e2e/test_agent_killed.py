"""The whole agent, killed at points all over its start, its adoption of guests, and its work, with a real API server.

`make test-long` runs it: each point takes seconds. What a driver does between two awaits is tried in
tests/drivers/qemu/recovery, at every one of them.
"""

import pytest

from tests.cluster.guests.boot_sector import GREETING
from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, root_disk, start_qemu_agent, vm

STEP = 151
"""Callbacks between two points; a start with one machine takes some 1,500."""
POINTS = 12

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def killed_agent(live: Live, fatal: int) -> None:
    """Runs the agent until it is killed at the point, or has come past it and idles."""
    live.system.start_agent(
        AGENT,
        ["qemu"],
        "--allow-source",
        live.images.server.address,
        "--qemu-accelerator",
        "tcg",
        module=["tests.e2e.killed_agent", str(fatal)],
    )
    eventually(lambda: live.system.exit_code(AGENT) is not None, 60)


@pytest.fixture
def bystander(live: Live, namespace: str) -> tuple[str, list[int]]:
    """A guest that runs all the time, whatever happens to those who look after it."""
    live.apply(vm("bystander", namespace, root_disk(live.images.source("obedient.img"))))
    machine = live.wait_ready("bystander", namespace)
    return "bystander", live.pids(machine)


def test_machines_are_made_and_deleted_whenever_the_agent_is_killed(
    live: Live, namespace: str, bystander: tuple[str, list[int]]
) -> None:
    name, pids = bystander
    for number in range(POINTS):
        fatal = 60 + number * STEP
        live.system.stop(AGENT)
        live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img")), terminationGracePeriodSeconds=1))
        killed_agent(live, fatal)
        start_qemu_agent(live)
        machine = live.wait_ready("web", namespace, 60)
        assert len(live.pids(machine)) == 1
        eventually(lambda: GREETING in live.serial(machine))  # noqa: B023  # called at once

        live.system.stop(AGENT)
        live.kubectl("delete", "vpvm", "web", "-n", namespace, "--wait=false")
        killed_agent(live, fatal)
        start_qemu_agent(live)
        eventually(lambda: not live.exists("vpvm", "web", namespace), 60)
        assert live.pids(machine) == []

        still = live.get("vpvm", name, namespace)
        assert live.pids(still) == pids
        assert live.serial(still).count(GREETING) == 1
