"""A second host beside the first one, and machines that are placed on either by hand."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.waiting import eventually
from tests.e2e.conftest import AGENT, Live, pool, start_qemu_agent

OTHER = "host-b"
BOTH = "both"
"""A pool that both hosts reach."""


@contextmanager
def second_host(live: Live, *options: str) -> Iterator[None]:
    """It has an agent with these options, and the pool, until the block ends."""
    start_qemu_agent(live, OTHER, *options)
    live.apply(pool(BOTH, access="Shared", directory={"path": str(live.system.directory / BOTH)}))

    def reached() -> bool:
        rows = live.get("vppool", BOTH)["status"].get("hypervisors", [])
        return sorted(row["name"] for row in rows if row["state"] == "Ready") == [f"{AGENT}-qemu", f"{OTHER}-qemu"]

    eventually(reached, 60)
    yield
    live.kubectl("delete", "vppool", BOTH, "--timeout=60s", timeout_s=90)
    live.system.stop(OTHER)
    live.kubectl("delete", "vphv", f"{OTHER}-qemu", "--wait=false")


def place(live: Live, name: str, namespace: str, agent: str, token: int) -> None:
    """As an operator would, or one that errs: nobody looks whether the machine runs elsewhere."""
    placement = {"hypervisor": f"{agent}-qemu", "agentName": agent, "token": token}
    patch = json.dumps({"status": {"placement": placement}})
    live.kubectl("patch", "vpvm", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
