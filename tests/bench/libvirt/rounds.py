"""What is measured: machines one by one, then fleets, each side in its turn."""

import asyncio
import secrets
from collections import defaultdict
from pathlib import Path
from statistics import median

from tests.bench.libvirt.bare import bare_argv, bare_run
from tests.bench.libvirt.daemons import start_daemons
from tests.bench.libvirt.machines import ACCELERATOR, Guest, definition, make_disk, root_ports
from tests.bench.libvirt.sides import Side, groups_removed, our_side, their_side
from tests.cluster.supervisor import Supervisor
from virtplane_drivers.hypervisor.qemu import host
from virtplane_drivers.hypervisor.qemu.definition import Definition

Figures = dict[str, float]
Samples = defaultdict[str, list[float]]

ONE_BY_ONE = 25
FLEET = 50
FLEETS = 3
LOOKS = 10
_RATIOS = ("start", "destroy", "start50", "destroy50", "stats50")


def measure() -> Figures:
    """All figures."""
    run = f"bench-{secrets.token_hex(4)}"
    machine_type = asyncio.run(host.look(ACCELERATOR)).newest_machine_type
    with groups_removed(run), Supervisor("virtplane-libvirt-") as supervisor:
        folder = supervisor.directory
        folder.chmod(0o711)  # libvirt's machines find their disks by path
        for name in ("ours", "theirs", "daemons"):
            (folder / name).mkdir()
        bare = Guest(f"{run}-bare", folder / "bare.img", folder / "bare.log")
        make_disk(bare)
        machine = definition(machine_type, bare)
        ports = root_ports(bare_argv(machine, bare, monitor=0, agent=0, disk=0, log=0))
        daemons = start_daemons(supervisor, folder / "daemons")
        with (
            their_side(folder / "theirs", run, FLEET, daemons, machine_type, ports) as theirs,
            our_side(folder / "ours", run, FLEET) as ours,
        ):
            samples: Samples = defaultdict(list)
            _one_by_one((ours, theirs), (machine, bare), samples)
            for _ in range(FLEETS):
                for side in (ours, theirs):
                    _fleet(side, samples)
    return _figures(samples)


def _one_by_one(sides: tuple[Side, ...], bare: tuple[Definition, Guest], samples: Samples) -> None:
    for number in range(ONE_BY_ONE + 1):
        # The first of each finds caches cold, libvirt's of what QEMU can do for one.
        kept: Samples = samples if number else defaultdict(list)
        for side in sides:
            guest = side.guests[:1]
            side.define(guest)
            kept[f"start_{side.name}_s"].append(side.timed("start", guest))
            kept[f"destroy_{side.name}_s"].append(side.timed("destroy", guest))
            side.timed("forget", guest)
        times = bare_run(*bare)
        kept["greeting_bare_s"].append(times.greeting)
        kept["start_bare_s"].append(times.ready)
        kept["destroy_bare_s"].append(times.killed)


def _fleet(side: Side, samples: Samples) -> None:
    name = side.name
    side.define(side.guests)
    samples[f"start50_{name}_s"].append(side.timed("start", side.guests))
    side.wait_until_up()
    samples[f"stats50_{name}_s"] += [side.timed("stats", side.guests) for _ in range(LOOKS)]
    samples[f"state50_{name}_s"] += [side.timed("states", side.guests) for _ in range(LOOKS)]
    for kind, field in (("rss", "Rss"), ("pss", "Pss")):
        samples[f"memory_{kind}_{name}_mib"].append(sum(_memory_mib(pid, field) for pid in side.manager_pids))
    samples[f"destroy50_{name}_s"].append(side.timed("destroy", side.guests))
    side.timed("forget", side.guests)


def _figures(samples: Samples) -> Figures:
    figures = {f"libvirt.{name}": median(values) for name, values in samples.items()}
    for name in _RATIOS:
        figures[f"libvirt.{name}_ratio"] = figures[f"libvirt.{name}_ours_s"] / figures[f"libvirt.{name}_theirs_s"]
    figures["libvirt.memory_ratio"] = figures["libvirt.memory_rss_ours_mib"] / figures["libvirt.memory_rss_theirs_mib"]
    return figures


def _memory_mib(pid: int, field: str) -> float:
    """Resident, or its share of it where pages are shared (/proc/PID/smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)
