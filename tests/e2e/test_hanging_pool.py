"""A pool whose server went away, seen by the whole of Virtplane."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.storage.hanging_pool import HangingPool, hanging_pool, needs_fuse
from tests.e2e.conftest import AGENT, Live, condition, pool, root_disk, start_qemu_agent, vm, volume

pytestmark = needs_fuse


@pytest.fixture
def hanging(live: Live, namespace: str, tmp_path: Path) -> Iterator[HangingPool]:
    with hanging_pool(tmp_path) as away:
        live.apply(pool("away", directory={"path": str(away.folder)}))
        live.apply(volume("data", namespace, poolName="away"))
        yield away
        away.come_back()
        live.kubectl("delete", "vpvol", "data", "-n", namespace, "--timeout=60s", timeout_s=90)
        live.kubectl("delete", "vppool", "away", "--timeout=60s", timeout_s=90)


def pool_state(live: Live) -> tuple[str, str]:
    pools = live.get("vphv", f"{AGENT}-qemu")["status"]["pools"]
    return next((one["state"], one.get("message", "")) for one in pools if one["name"] == "away")


def test_a_pool_whose_server_is_away_is_told_of_and_neither_work_nor_stop_nor_start_of_the_agent_waits_for_it(
    live: Live, namespace: str, hanging: HangingPool
) -> None:
    live.wait_condition("vpvol", "data", namespace, "Made")
    source = live.images.source("obedient.img")
    live.apply(vm("web", namespace, root_disk(source)))
    before = live.pids(live.wait_ready("web", namespace))

    hanging.go_away()
    # A change of the pool has everybody look at once; else they look once a minute.
    live.kubectl("annotate", "vppool", "away", "example.com/look=now")
    seen = live.wait_condition("vpvol", "data", namespace, "PoolSilent", 40)
    assert "does not answer" in condition(seen, "Ready")["message"]
    eventually(lambda: pool_state(live)[0] == "Failed", 40)
    assert "does not answer" in pool_state(live)[1]
    live.apply(vm("other", namespace, root_disk(source)))
    live.wait_ready("other", namespace)

    assert live.system.stop(AGENT) == 0  # by itself, and not killed after its grace
    start_qemu_agent(live)
    live.set_power("web", namespace, "Paused")
    machine = live.wait_ready("web", namespace)
    assert live.pids(machine) == before

    hanging.come_back()
    live.wait_condition("vpvol", "data", namespace, "Made", 90)
    eventually(lambda: pool_state(live)[0] == "Ready", 90)
