"""QEMU's command line, as a pure function of a definition and of where the machine's files are.

What the guest sees is stable: the machine type is pinned, every device has a root port of its own at an address that
its number gives, and eight more root ports wait for devices to come. Values go in as JSON, where no comma or quote can
start another option; the two places that take no JSON double their commas (QEMU's own rule).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtplane_api.vocabulary import DiskType
from virtplane_drivers.hypervisor.contract import Owner
from virtplane_drivers.hypervisor.qemu.definition import Definition, DiskDefinition

QEMU = "qemu-system-x86_64"
SPARE_PORTS = 8
MARKER = "virtplane"

_FIRST_PORT_SLOT = 2
"""On pcie.0: slot 0 is the host bridge, slot 1 is left for a display; 31 is q35's own chipset."""
_FUNCTIONS = 8
_SERIAL_CONTROLLER_PORT = 0
_FIRST_DISK_PORT = 1


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a machine: who it is for, and what it was given."""

    uid: str
    incarnation: str
    owner: Owner
    monitor_fd: int
    """A listening unix socket, inherited under this number."""
    serial_log: Path


def argv_of(definition: Definition, run: Run) -> list[str]:
    """The whole command line."""
    argv = [QEMU, "-name", f"guest={_escaped(marker_of(definition, run))},debug-threads=on"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none"]
    # spawn=deny needs no helper programs: all descriptors are given.
    argv += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    argv += ["-machine", f"{definition.machine_type},usb=off,vmport=off,dump-guest-core=off"]
    argv += ["-accel", _accelerator(definition)]
    argv += ["-cpu", definition.cpu_model]
    argv += ["-smp", f"cpus={definition.cores},sockets=1,cores={definition.cores},threads=1"]
    argv += ["-m", f"size={definition.memory_mib}M"]
    argv += ["-uuid", definition.smbios_uuid]
    argv += ["-rtc", "base=utc", "-boot", "menu=off,strict=on"]
    # A guest that shuts itself down leaves QEMU behind, paused: an agent that was away still learns of it.
    argv += ["-action", "shutdown=pause,reboot=reset"]
    argv += ["-chardev", f"socket,id=monitor,fd={run.monitor_fd},server=on,wait=off"]
    argv += ["-mon", "chardev=monitor,mode=control"]
    argv += ["-chardev", f"null,id=serial0,logfile={_escaped(str(run.serial_log))},logappend=on"]
    for device in _devices(definition):
        argv += ["-device", json.dumps(device)]
    for node in _block_nodes(definition):
        argv += ["-blockdev", json.dumps(node)]
    for device in _disk_devices(definition):
        argv += ["-device", json.dumps(device)]
    return argv


def marker_of(definition: Definition, run: Run) -> str:
    """What a process is recognised by when its record is lost: `virtplane/cluster/token/namespace/name/uid/run`."""
    parts = (run.owner.cluster_id, str(run.owner.token), definition.namespace, definition.name)
    return "/".join((MARKER, *parts, run.uid, run.incarnation))


def port_address(port: int) -> str:
    """Address of a root port on pcie.0, as slot.function."""
    return f"{_FIRST_PORT_SLOT + port // _FUNCTIONS:#x}.{port % _FUNCTIONS:#x}"


def _devices(definition: Definition) -> Iterator[dict[str, Any]]:
    used = [_FIRST_DISK_PORT + disk.port for disk in definition.disks if disk.type is DiskType.DISK]
    ports = max([_SERIAL_CONTROLLER_PORT, *used]) + 1 + SPARE_PORTS
    for port in range(ports):
        device: dict[str, Any] = {
            "driver": "pcie-root-port",
            # Not "port": the bus takes the id, and would collide with the property of that name.
            "id": f"rp{port}",
            "bus": "pcie.0",
            "addr": port_address(port),
            "chassis": port + 1,
            "port": port,
        }
        if port % _FUNCTIONS == 0:
            device["multifunction"] = True
        yield device
    yield {"driver": "virtio-serial-pci", "id": "virtio-serial0", "bus": f"rp{_SERIAL_CONTROLLER_PORT}"}
    yield {"driver": "isa-serial", "id": "serial0-device", "chardev": "serial0"}


def _block_nodes(definition: Definition) -> Iterator[dict[str, Any]]:
    for index, disk in enumerate(definition.disks):
        read_only = disk.type is DiskType.CDROM
        yield {
            "driver": "file",
            "node-name": f"file{index}",
            "filename": disk.path,
            "read-only": read_only,
            "auto-read-only": False,
            "discard": "unmap",
        }
        yield {
            "driver": disk.format.value,
            "node-name": f"disk{index}",
            "file": f"file{index}",
            "read-only": read_only,
            "discard": "unmap",
        }


def _disk_devices(definition: Definition) -> Iterator[dict[str, Any]]:
    boot = _boot_indices(definition.disks)
    for index, disk in enumerate(definition.disks):
        device: dict[str, Any] = {"id": f"disk-{disk.name}", "drive": f"disk{index}"}
        if disk.type is DiskType.CDROM:
            device |= {"driver": "ide-cd", "bus": f"ide.{disk.port}"}
        else:
            # virtio's serial holds 20 bytes; guests show it below /dev/disk/by-id.
            device |= {
                "driver": "virtio-blk-pci",
                "bus": f"rp{_FIRST_DISK_PORT + disk.port}",
                "serial": disk.name[:20],
            }
        if disk.name in boot:
            device["bootindex"] = boot[disk.name]
        yield device


def _boot_indices(disks: tuple[DiskDefinition, ...]) -> dict[str, int]:
    """Those with a number, in its order; without any, the first of the list."""
    numbered = sorted((disk for disk in disks if disk.boot_order is not None), key=lambda disk: disk.boot_order or 0)
    return {disk.name: index + 1 for index, disk in enumerate(numbered or disks[:1])}


def _accelerator(definition: Definition) -> str:
    if definition.accelerator != "tcg":
        return definition.accelerator
    # The default translation cache lets a 512 MiB guest grow to 1.3 GB.
    return f"tcg,tb-size={min(256, max(32, definition.memory_mib // 8))}"


def _escaped(value: str) -> str:
    return value.replace(",", ",,")
