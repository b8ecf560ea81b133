"""Virtplane as a whole: operator and agents as processes on the real control plane, images on a web server."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import CommandError, ControlPlane
from tests.cluster.guest_processes import guest_processes
from tests.cluster.guests.boot_sector import BootSectorKind, boot_sector_image
from tests.cluster.guests.quickstart import quickstart_image
from tests.cluster.identities import Identities
from tests.cluster.system import SYSTEM_NAMESPACE, System
from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Namespace
from tests.e2e.invariants import broken, two_writers
from tests.http_images.server import ImageServer, serve_folder

AGENT = "host-a"
BRIDGE = "br-lan"
"""Of the agents' hosts, given to networks; tests make it where they need it."""
Object = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)


@dataclass
class Images:
    """Images on a web server, with their checksums."""

    server: ImageServer

    def source(self, name: str) -> Object:
        """`spec.source` of a Volume for a file of the server's folder."""
        content = (self.server.folder / name).read_bytes()
        return {"http": {"url": self.server.url(name), "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}"}}


class Live:
    """A running Virtplane, and how a user speaks to it."""

    def __init__(self, control_plane: ControlPlane, system: System, images: Images) -> None:
        self.control_plane = control_plane
        self.system = system
        self.images = images
        self.kubectl = control_plane.kubectl
        self.seen_uids: set[str] = set()

    def apply(self, *objects: Object) -> None:
        """`kubectl apply` of all of them."""
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))

    def refusal(self, *objects: Object) -> str:
        """What kubectl says when the API server does not take them."""
        with pytest.raises(CommandError) as refused:
            self.apply(*objects)
        return refused.value.stderr

    def get(self, kind: str, name: str, namespace: str = "") -> Object:
        """One object."""
        where = ["-n", namespace] if namespace else []
        found: Object = json.loads(self.kubectl("get", kind, name, *where, "-o", "json"))
        self.seen_uids.add(found["metadata"]["uid"])
        return found

    def exists(self, kind: str, name: str, namespace: str) -> bool:
        """Whether there is such an object."""
        return bool(self.kubectl("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "name").strip())

    def wait_ready(self, name: str, namespace: str, timeout_s: int = 60) -> Object:
        """The machine, once its Ready is True for its newest generation."""

        def is_ready() -> bool:
            machine = self.get("vpvm", name, namespace)
            observed = machine["status"].get("observedGeneration") == machine["metadata"]["generation"]
            return observed and condition(machine, "Ready").get("status") == "True"

        eventually(is_ready, timeout_s)
        self.writers_are_single()
        return self.get("vpvm", name, namespace)

    def wait_condition(self, kind: str, name: str, namespace: str, reason: str, timeout_s: int = 30) -> Object:
        """The object, once its Ready has this reason."""
        eventually(lambda: condition(self.get(kind, name, namespace), "Ready").get("reason") == reason, timeout_s)
        return self.get(kind, name, namespace)

    def writers_are_single(self) -> None:
        """I1, at this very moment."""
        assert list(two_writers(self.system.directory)) == []

    def set_power(self, name: str, namespace: str, power: str) -> None:
        """What a user does to start or stop a machine."""
        patch = json.dumps({"spec": {"powerState": power}})
        self.kubectl("patch", "vpvm", name, "-n", namespace, "--type=merge", "-p", patch)

    def serial(self, machine: Object, agent: str = AGENT) -> str:
        """What the guest has printed."""
        folder = self.system.state_folder(agent) / "qemu" / machine["metadata"]["uid"]
        return (folder / "serial.log").read_text(errors="replace") if (folder / "serial.log").exists() else ""

    def pids(self, machine: Object) -> list[int]:
        """Processes of a machine, by /proc."""
        return guest_processes(self.system.state_folder(AGENT) / "qemu" / machine["metadata"]["uid"])

    def taps(self, name: str, namespace: str) -> list[str]:
        """Those of machines in the router's namespace of a network that is served on one host."""
        uid = self.get("vpnet", name, namespace)["metadata"]["uid"]
        router = Namespace(next(self.system.directory.rglob(f"netns/{uid}")))
        return [link for link, row in router.links().items() if row.get("linkinfo", {}).get("info_kind") == "tun"]


def condition(obj: Object, kind: str) -> Object:
    """A condition of an object; empty when it has none of the type."""
    conditions = obj.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def finished(live: Live, name: str, namespace: str, timeout_s: int = 60) -> Object:
    """The action, once it is Complete or Failed."""

    def is_over() -> bool:
        action = live.get("vpact", name, namespace)
        return any(condition(action, kind).get("status") == "True" for kind in ("Complete", "Failed"))

    eventually(is_over, timeout_s)
    return live.get("vpact", name, namespace)


def vm(name: str, namespace: str, *disks: Object, **spec: Any) -> Object:
    """A small VirtualMachine; keywords replace fields of its spec."""
    body: Object = {"powerState": "Running", "cpu": {"cores": 1}, "memory": {"size": "32Mi"}}
    # Most of these guests hear no power button.
    body |= {"terminationGracePeriodSeconds": 2, **spec}
    if disks:
        body["disks"] = list(disks)
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": namespace},
        "spec": body,
    }


def volume(name: str, namespace: str, **spec: Any) -> Object:
    """A Volume."""
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "Volume",
        "metadata": {"name": name, "namespace": namespace},
        # Else the data would stay, as nobody's.
        "spec": {"size": "1Mi", "deletionPolicy": "Delete", **spec},
    }


def pool(name: str, *, default: bool = False, **spec: Any) -> Object:
    """A StoragePool."""
    annotations = {"virtplane.dev/is-default-pool": "true"} if default else {}
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "StoragePool",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"access": "Local", **spec},
    }


def root_disk(source: Object, size: str = "1Mi", **more: Any) -> Object:
    """A disk that is made with the machine."""
    return {"name": "root", "volume": {"size": size, "source": source, **more}}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """All guests' images on one web server."""
    folder = tmp_path_factory.mktemp("images")
    for kind in BootSectorKind:
        boot_sector_image(kind, folder / f"{kind}.img")
    (folder / "quickstart.qcow2").symlink_to(quickstart_image())
    with serve_folder(folder) as server:
        yield Images(server)


@pytest.fixture(scope="module")
def start_system(installed: ControlPlane) -> Iterator[Callable[[], System]]:
    """Makes Systems that end with the module, and takes away what they leave in the cluster."""
    systems: list[System] = []

    def start() -> System:
        systems.append(System(lambda folder: Identities(installed.kubectl, folder, SYSTEM_NAMESPACE)))
        return systems[-1]

    yield start
    for system in systems:
        system.close()
    installed.kubectl("delete", "vphv", "--all", "--wait=false")
    installed.kubectl("delete", "leases", "-n", SYSTEM_NAMESPACE, "--all")


@pytest.fixture(scope="module")
def live(installed: ControlPlane, start_system: Callable[[], System], images: Images) -> Iterator[Live]:
    """An operator, an agent with QEMU, and a default pool."""
    system = start_system()
    running = Live(installed, system, images)
    system.start_operator()
    start_qemu_agent(running)
    running.apply(pool("e2e", default=True, directory={"path": str(system.directory / "pool")}))
    eventually(lambda: condition(running.get("vppool", "e2e"), "Ready").get("status") == "True", 30)
    yield running
    running.kubectl("delete", "vppool", "e2e", "--timeout=60s", timeout_s=90)


@pytest.fixture(autouse=True)
def invariants(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test with real guests: what must hold whatever happened, holds."""
    yield
    if "live" in request.fixturenames:
        running: Live = request.getfixturevalue("live")
        pool_folder = running.system.directory / "pool"
        seen: list[str] = []

        def all_hold() -> bool:
            seen[:] = broken(running.control_plane, running.system, [AGENT], pool_folder, running.seen_uids)
            return not seen

        try:
            eventually(all_hold, 15)
        except AssertionError:
            pytest.fail("\n".join(seen))


def start_qemu_agent(live: Live, name: str = AGENT, *more: str) -> int:
    """Starts the agent, again with the same folders."""
    flags = ["--allow-source", live.images.server.address, "--qemu-accelerator", "tcg"]
    flags += ["--allow-bridge", BRIDGE, "--allow-routed", "10.22.0.0/16", "--metrics-address", "127.0.0.1:0"]
    return live.system.start_agent(name, ["qemu"], *flags, *more)
