"""`make bench`: measures the whole on a real control plane, prints a table, writes build/bench.json (flat keys)."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.bench.monitor import figures as monitor
from tests.bench.network import figures as network
from tests.bench.report import report
from tests.bench.scenarios import NAMESPACE, Bench, Figures
from tests.cluster.clusters import OwnCluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.guests.boot_sector import BootSectorKind, boot_sector_image
from tests.cluster.identities import Identities
from tests.cluster.quickstart import CHART
from tests.cluster.system import SYSTEM_NAMESPACE, System
from tests.http_images.server import serve_folder
from virtplane_api.kube.client import KubeClient, wait_until_served
from virtplane_api.kube.resources import HYPERVISORS, STORAGE_POOLS, VIRTUAL_MACHINES, VOLUMES

GOALS = {
    "fake_100.p50_s": "< 0.2",
    "qemu_20.p50_s": "<= qemu_20.bare_p50_s + 0.2",
    "writes_per_vm": "<= 2",
    "writes_per_volume": "<= 3",
    "writes_at_rest": "0",
    "operator_cpu_ms_per_vm": "<= 3",
    "agent_rss_mib.50": "< 100",
    **monitor.GOALS,
    **network.GOALS,
}


async def measure() -> Figures:
    """All figures."""
    with ControlPlane() as control_plane, tempfile.TemporaryDirectory(prefix="virtplane-bench-") as folder:
        boot_sector_image(BootSectorKind.OBEDIENT, Path(folder, "obedient.img"))
        cluster = OwnCluster(control_plane)
        cluster.helm("install", "virtplane", str(CHART), "-n", SYSTEM_NAMESPACE, "--create-namespace")
        cluster.kinds_were_added()
        cluster.kubectl("create", "namespace", NAMESPACE)
        with (
            serve_folder(Path(folder)) as images,
            System(lambda secrets: Identities(cluster.kubectl, secrets, SYSTEM_NAMESPACE)) as system,
        ):
            async with KubeClient.connect(cluster.kubeconfig) as client:
                for resource in (HYPERVISORS, STORAGE_POOLS, VOLUMES, VIRTUAL_MACHINES):
                    await wait_until_served(client, resource)
                system.start_operator()
                bench = Bench(control_plane, system, client, images)
                figures = await bench.fake_fleet()
                return figures | await bench.qemu()


def main() -> int:
    """Measure and print; the exit status does not judge."""
    figures = asyncio.run(measure()) | asyncio.run(monitor.figures()) | asyncio.run(network.figures())
    report(figures, GOALS, "bench.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
