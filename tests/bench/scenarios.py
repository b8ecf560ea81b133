"""The measurements, each with what it is compared to in the same run."""

import asyncio
import hashlib
import time
from contextlib import closing
from pathlib import Path

from tests.bench.measures import cpu_s, percentile, rss_mib, writes
from tests.bench.watching import ReadyTimes, create_paced
from tests.cluster.control_plane import ControlPlane
from tests.cluster.system import OPERATOR, System
from tests.e2e.conftest import pool, vm, volume
from tests.http_images.server import ImageServer
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import is_true
from virtplane_api.kube.errors import ApiUnavailable
from virtplane_api.kube.resources import HYPERVISORS, STORAGE_POOLS, VIRTUAL_MACHINES, VOLUMES, Object, Resource
from virtplane_api.vocabulary import DiskFormat, DiskType
from virtplane_drivers.host.process import watch_child
from virtplane_drivers.hypervisor.contract import Owner
from virtplane_drivers.hypervisor.qemu import host
from virtplane_drivers.hypervisor.qemu.definition import Definition, DiskDefinition
from virtplane_drivers.hypervisor.qemu.launch import MONITOR, LaunchSite, launch, run_folder
from virtplane_drivers.hypervisor.qemu.monitor import connect
from virtplane_drivers.hypervisor.qemu.record import Record

Figures = dict[str, float]
NAMESPACE = "bench"
REST_S = 60.0


class Bench:
    """One control plane, one operator, and an agent at a time."""

    def __init__(self, control_plane: ControlPlane, system: System, client: KubeClient, images: ImageServer) -> None:
        self._control_plane = control_plane
        self._system = system
        self._client = client
        self._images = images

    async def fake_fleet(self) -> Figures:
        """100 machines, 100 ms apart; what they cost; and a minute of rest."""
        agent = self._system.start_agent("bench-fake", ["fake"])
        await self._create(STORAGE_POOLS, pool("bench", default=True, fake={}))
        await self._ready(STORAGE_POOLS, "bench")
        counted, spent = self._control_plane.requests_total(), cpu_s(self._system.pids[OPERATOR])
        machines = [vm(f"fake-{number:03}", NAMESPACE) for number in range(100)]
        async with ReadyTimes(self._client).running() as ready:
            asked = await create_paced(self._client, machines, 0.1)
            await ready.wait_for(len(machines), 60)
            await asyncio.sleep(1.0)  # late writes count too
            after = self._control_plane.requests_total()
            operator_ms = 1000 * (cpu_s(self._system.pids[OPERATOR]) - spent)
            await asyncio.sleep(REST_S)
            rested = self._control_plane.requests_total()
            latencies = [ready.at_s[name] - moment for name, moment in asked.items()]
            figures = {
                "fake_100.p50_s": percentile(latencies, 50),
                "fake_100.p95_s": percentile(latencies, 95),
                "writes_per_vm": writes(counted, after) / len(machines) - 1,
                "writes_at_rest": float(writes(after, rested)),
                "operator_cpu_ms_per_vm": operator_ms / len(machines),
                "fake_agent_rss_mib.100": rss_mib(agent),
            }
            self._delete_machines()
            await ready.wait_until_gone(60)
        return figures | await self._writes_per_volume()

    async def _writes_per_volume(self) -> Figures:
        count = 20
        disk = {"name": "root", "volume": {"size": "1Gi"}}
        counted = self._control_plane.requests_total()
        async with ReadyTimes(self._client).running() as ready:
            machines = [vm(f"disk-{number:03}", NAMESPACE, disk) for number in range(count)]
            await create_paced(self._client, machines, 0.1)
            await ready.wait_for(count, 60)
            await asyncio.sleep(1.0)
            figures = {"writes_per_volume": writes(counted, self._control_plane.requests_total(), "volumes") / count}
            self._delete_machines()
            await ready.wait_until_gone(60)
        self._control_plane.kubectl("delete", "vppool", "bench", "--timeout=60s")
        self._system.stop("bench-fake")
        return figures

    async def qemu(self) -> Figures:
        """20 boot-sector guests 250 ms apart beside the bare process, and the agent's memory."""
        arguments = ("--allow-source", self._images.address, "--qemu-accelerator", "tcg")
        agent = self._system.start_agent("bench-qemu", ["qemu"], *arguments)
        await self._create(
            STORAGE_POOLS, pool("bench", default=True, directory={"path": str(self._system.directory / "pool")})
        )
        await self._ready(STORAGE_POOLS, "bench")
        await self._ready(HYPERVISORS, "bench-qemu-qemu")
        ratio = '{"spec":{"cpuAllocationRatio":100}}'  # more machines than this host would get else
        self._control_plane.kubectl("patch", "vphv", "bench-qemu-qemu", "--type=merge", "-p", ratio)
        figures = {"agent_rss_mib.0": rss_mib(agent)}
        names = [f"qemu-{number:03}" for number in range(50)]
        for name in names:
            await self._create(VOLUMES, volume(name, NAMESPACE, source=self._source(), deletionPolicy="Delete"))
        for name in names:
            await self._ready(VOLUMES, name, NAMESPACE)
        machines = [vm(name, NAMESPACE, {"name": "root", "volumeName": name}) for name in names]
        async with ReadyTimes(self._client).running() as ready:
            asked = await create_paced(self._client, machines[:20], 0.25)
            await ready.wait_for(20, 60)
            latencies = [ready.at_s[name] - moment for name, moment in asked.items()]
            await create_paced(self._client, machines[20:], 0.25)
            await ready.wait_for(50, 120)
            await asyncio.sleep(12.0)  # each has been looked at once more
            figures["agent_rss_mib.50"] = rss_mib(agent)
            self._delete_machines()
            await ready.wait_until_gone(120)
        self._control_plane.kubectl("delete", "vpvol", "--all", "-n", NAMESPACE, "--timeout=60s")
        self._control_plane.kubectl("delete", "vppool", "bench", "--timeout=60s")
        self._system.stop("bench-qemu")
        bare = await bare_starts(self._system.directory / "bare", self._images.folder / "obedient.img")
        return figures | {
            "qemu_20.p50_s": percentile(latencies, 50),
            "qemu_20.p95_s": percentile(latencies, 95),
            "qemu_20.bare_p50_s": percentile(bare, 50),
        }

    def _source(self) -> Object:
        digest = hashlib.sha256((self._images.folder / "obedient.img").read_bytes()).hexdigest()
        return {"http": {"url": self._images.url("obedient.img"), "checksum": f"sha256:{digest}"}}

    async def _create(self, resource: Resource, obj: Object) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    await self._client.create(resource, obj, field_manager="bench")
                except ApiUnavailable:  # a kind that is a second old is read already, and not yet written
                    await asyncio.sleep(0.2)
                else:
                    return

    async def _ready(self, resource: Resource, name: str, namespace: str = "") -> None:
        async with asyncio.timeout(60):
            while not await self._is_ready(resource, name, namespace):
                await asyncio.sleep(0.05)

    async def _is_ready(self, resource: Resource, name: str, namespace: str) -> bool:
        listed, _version = await self._client.list_all(resource, namespace)
        return any(obj["metadata"]["name"] == name and is_true(obj, "Ready") for obj in listed)

    def _delete_machines(self) -> None:
        self._control_plane.request(
            "DELETE", VIRTUAL_MACHINES.path(NAMESPACE), {"kind": "DeleteOptions", "apiVersion": "v1"}
        )


async def bare_starts(folder: Path, image: Path, count: int = 20, pace_s: float = 0.25) -> list[float]:
    """Seconds from exec to QMP's greeting, of the same machines at the same pace, with nothing of ours around them."""
    looked = await host.look("tcg")
    site = LaunchSite(folder / "run", "bench", "bench")
    processes, times = [], []
    began = time.monotonic()
    for index in range(count):
        await asyncio.sleep(max(0.0, began + index * pace_s - time.monotonic()))
        disk = DiskDefinition("root", str(folder / f"{index}.img"), DiskFormat.RAW, DiskType.DISK, None, 0)
        definition = Definition(
            "bench", f"bare-{index}", "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11", 1, "max", 32,
            looked.newest_machine_type, "tcg", (disk,), guest_agent=True,
        )  # fmt: skip
        record = Record(
            f"bare-{index}", "bench", f"bare-{index}", Owner("bench", 1), running=definition, incarnation="bare"
        )
        machine_folder = folder / f"bare-{index}"
        await asyncio.to_thread(_prepare, machine_folder, image, Path(disk.path))
        started = time.monotonic()
        process = watch_child(launch(record, site, machine_folder, (), claims_confirmed=True).child)
        path = run_folder(folder / "run", record.uid, "bare") / MONITOR
        with closing(await connect(path, on_event=lambda _event: None, on_close=lambda _end: None, timeout_s=30.0)):
            times.append(time.monotonic() - started)
        processes.append(process)
    for process in processes:
        process.kill()
        await process.wait(10.0)
    return times


def _prepare(machine_folder: Path, image: Path, disk: Path) -> None:
    machine_folder.mkdir(parents=True)
    disk.write_bytes(image.read_bytes())
