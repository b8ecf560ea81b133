"""Names, words and sizes cannot begin an option: what a real QEMU understood is what was meant, or it refuses."""

import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from virtplane_api.models.common import DNS_LABEL
from virtplane_api.vocabulary import DiskFormat, DiskType
from virtplane_drivers.host.process import spawn, watch_child
from virtplane_drivers.hypervisor.contract import Owner
from virtplane_drivers.hypervisor.qemu.argv import DISK_ID, argv_of
from virtplane_drivers.hypervisor.qemu.argv import Run as Arguments
from virtplane_drivers.hypervisor.qemu.definition import Definition, DiskDefinition
from virtplane_drivers.hypervisor.qemu.disk_locks import DiskOwner
from virtplane_drivers.hypervisor.qemu.grants import granted
from virtplane_drivers.hypervisor.qemu.launch import GUEST_AGENT, MONITOR, _listening
from virtplane_drivers.hypervisor.qemu.monitor import Monitor, MonitorError, connect

OWNER = DiskOwner("c", "u", "n/n", 1, "h", "run-1")
ODD = [
    "a,b=c",
    'a"b',
    "a\\b",
    "a\nb",
    ",,",
    "a,id=x,bus=y",
    "-S",
    "on,debug-threads=off",
    "ü💾",
    "a'b",
    "%s",
    "a b",
    "{}",
    "a,,b",
]
# No slash: it separates the marker's parts, and no name of Kubernetes has one. No NUL: no argument can hold one.
WORDS = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=30)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    namespace=WORDS,
    name=WORDS,
    disk=WORDS,
    folder=WORDS,
    cores=st.integers(1, 8),
    memory_mib=st.integers(16, 4096),
    boot_order=st.integers(1, 64),
)
@example("shop", "a,b", "a,b=c,drive=x", 'a,"b', 1, 33, 1)
@example("shop", "web", "1-st", "plain", 2, 64, 2)
@example("shop", "web", "root", "x,opaque=y,fd=0", 2, 64, 2)
async def test_qemu_understands_what_was_meant_or_refuses(
    namespace: str, name: str, disk: str, folder: str, cores: int, memory_mib: int, boot_order: int
) -> None:
    with tempfile.TemporaryDirectory(prefix="virtplane-injection-") as temporary:
        where = Path(temporary, f"f{folder}")
        image = _image_in(where)
        disks = (DiskDefinition(disk, str(image), DiskFormat.RAW, DiskType.DISK, boot_order, 0),)
        definition = Definition(
            namespace,
            name,
            "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11",
            cores,
            "max",
            memory_mib,
            "q35",
            "tcg",
            disks,
            guest_agent=True,
        )
        understood = await _understood(definition, where)
        if understood is None:
            # An id of QEMU takes less than a DNS label does; whatever is one must be understood.
            assert not re.fullmatch(DNS_LABEL, disk)
            return
        assert understood["name"] == f"virtplane/state/cluster/1/{namespace}/{name}/uid-1/run-1"
        assert understood["cpus"] == cores
        assert understood["memory"] == memory_mib << 20
        assert understood["qdevs"] == [f"/machine/peripheral/{DISK_ID}{disk}/virtio-backend"]
        assert understood["opaque"] == sorted([str(where / "serial.log"), str(image)])
        assert understood["status"] == "prelaunch"


def _image_in(where: Path) -> Path:
    where.mkdir()
    image = where / "disk.img"
    image.write_bytes(b"\0" * (1 << 20))
    return image


async def _understood(definition: Definition, where: Path) -> dict[str, Any] | None:
    """What QEMU says of itself; None when it refused the command line, in words."""
    folder = where / "run"
    folder.mkdir()
    output = where / "qemu.log"
    with (
        granted(definition, where / "serial.log", OWNER, claims_confirmed=True) as grants,
        _listening(folder, MONITOR) as listener,
        _listening(folder, GUEST_AGENT) as agent,
    ):
        arguments = Arguments("uid-1", "run-1", Owner("cluster", 1), "state", listener, agent, grants)
        argv = [*argv_of(definition, arguments), "-S"]
        child = spawn(argv, output=output, pass_fds=[listener, agent, *grants.descriptors], user=None, groups=())
    process = watch_child(child)
    try:
        monitor = await connect(folder / MONITOR, on_event=lambda _e: None, on_close=lambda _e: None, timeout_s=20.0)
    except (MonitorError, OSError):
        await process.wait(5.0)
        assert process.exit_status == 1
        assert "qemu-system" in output.read_text()
        return None
    try:
        return await _facts(monitor)
    finally:
        monitor.close()
        process.kill()
        await process.wait(10.0)


async def _facts(monitor: Monitor) -> dict[str, Any]:
    sets = await monitor.execute("query-fdsets")
    return {
        "name": (await monitor.execute("query-name"))["name"],
        "cpus": len(await monitor.execute("query-cpus-fast")),
        "memory": (await monitor.execute("query-memory-size-summary"))["base-memory"],
        "qdevs": [block["qdev"] for block in await monitor.execute("query-block")],
        "opaque": sorted({fd["opaque"] for one in sets for fd in one["fds"]}),
        "status": (await monitor.execute("query-status"))["status"],
    }
