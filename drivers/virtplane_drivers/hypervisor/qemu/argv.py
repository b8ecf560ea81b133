"""QEMU's command line, as a pure function of a definition and of where the machine's files are.

What the guest sees is stable: the machine type is pinned, every device has a root port of its own at an address that
its number gives, and eight more root ports wait for devices to come. A machine has all eight ports that NICs can
have, in a slot behind all that disks can take. Values go in as JSON, where no comma or quote can
start another option; the two places that take no JSON double their commas (QEMU's own rule).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virtplane_api.vocabulary import DiskType, DisplayType, InterfaceModel
from virtplane_drivers.hypervisor.contract import Owner
from virtplane_drivers.hypervisor.qemu.definition import MAX_NICS, Definition, NicDefinition
from virtplane_drivers.hypervisor.qemu.grants import Grants

QEMU = "qemu-system-x86_64"
SPARE_PORTS = 8
MARKER = "virtplane"
DISK_ID = "disk-"
"""Before a disk's name: its device's id."""
NIC_ID = "nic-"
"""Before a NIC's name: the id of what the guest sees of it."""
NETWORK_ID = "net-"
"""Before a NIC's name: the id of the host's end of it."""

_FIRST_PORT_SLOT = 2
"""On pcie.0: slot 0 is the host bridge, slot 1 a display's; 31 is q35's own chipset."""
_DISPLAY_ADDRESS = "0x1"
_FUNCTIONS = 8
_SERIAL_CONTROLLER_PORT = 0
_FIRST_DISK_PORT = 1
_FIRST_NIC_PORT = 40
"""The first of slot 7; disks and spare ports end in slot 6."""
_SERIAL_CHARS = 20
_ROM_BYTES = 1 << 20
"""A power of 2; iPXE's takes a quarter of it."""

_SERIAL_SET = 0
_FIRST_DISK_SET = 1
"""Numbers of the sets of descriptors, as they are given on the command line."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a machine: who it is for, and what it was given."""

    uid: str
    incarnation: str
    owner: Owner
    state_id: str
    """Of the state folder that has the machine's record."""
    monitor_fd: int
    """A listening unix socket, inherited under this number."""
    guest_agent_fd: int
    """Another one."""
    grants: Grants
    is_waking: bool = False
    """Wait for the guest's memory (`migrate-incoming`) instead of booting."""
    is_held: bool = False
    """Boot when it is told to (`cont`): something is to be done before."""


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
    # A guest that is over leaves QEMU behind, paused: an agent that was away still learns of it.
    argv += ["-action", "shutdown=pause,reboot=reset,panic=pause,watchdog=pause"]
    # q35's own watchdog (iTCO); it barks only when the guest has wound it up.
    argv += ["-global", "ICH9-LPC.noreboot=off"]
    argv += ["-chardev", f"socket,id=monitor,fd={run.monitor_fd},server=on,wait=off"]
    argv += ["-mon", "chardev=monitor,mode=control"]
    if definition.guest_agent:
        argv += ["-chardev", f"socket,id=guest-agent,fd={run.guest_agent_fd},server=on,wait=off"]
    for number, file in enumerate([run.grants.serial_log, *run.grants.disks]):
        argv += ["-add-fd", f"fd={file.fd},set={number},opaque={_escaped(str(file.path))}"]
    argv += ["-chardev", f"null,id=serial0,logfile={_granted_path(_SERIAL_SET)},logappend=on"]
    for device in _devices(definition):
        argv += ["-device", json.dumps(device)]
    for node in _block_nodes(definition):
        argv += ["-blockdev", json.dumps(node)]
    boot = _boot_indices(definition)
    for device in _disk_devices(definition, boot):
        argv += ["-device", json.dumps(device)]
    for nic, descriptors in zip(definition.nics, run.grants.nics, strict=True):
        argv += ["-netdev", json.dumps(network_of(nic, descriptors))]
        argv += ["-device", json.dumps(nic_device(nic, boot))]
    if run.is_waking:
        argv += ["-incoming", "defer"]
    elif run.is_held:
        argv += ["-S"]
    return argv


def marker_of(definition: Definition, run: Run) -> str:
    """What a process is recognised by when its record is lost.

    `virtplane/<state folder>/<cluster>/<token>/<namespace>/<name>/<uid>/<incarnation>`
    """
    parts = (run.owner.cluster_id, str(run.owner.token), definition.namespace, definition.name)
    return "/".join((MARKER, run.state_id, *parts, run.uid, run.incarnation))


def port_address(port: int) -> str:
    """Address of a root port on pcie.0, as slot.function."""
    return f"{_FIRST_PORT_SLOT + port // _FUNCTIONS:#x}.{port % _FUNCTIONS:#x}"


def _granted_path(number: int) -> str:
    return f"/dev/fdset/{number}"


def _devices(definition: Definition) -> Iterator[dict[str, Any]]:
    used = [_FIRST_DISK_PORT + disk.port for disk in definition.disks if disk.type is DiskType.DISK]
    ports = [*range(max([_SERIAL_CONTROLLER_PORT, *used]) + 1 + SPARE_PORTS)]
    if definition.nics or definition.nic_ports:
        ports += range(_FIRST_NIC_PORT, _FIRST_NIC_PORT + MAX_NICS)
    for port in ports:
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
    if definition.guest_agent:
        # The name is what guests' agents look for; its port's number is part of what a suspended guest wakes on.
        agent = {"driver": "virtserialport", "id": "guest-agent0", "bus": "virtio-serial0.0", "nr": 1}
        yield agent | {"chardev": "guest-agent", "name": "org.qemu.guest_agent.0"}
    if definition.display is DisplayType.VGA:
        yield {"driver": "VGA", "id": "display0", "bus": "pcie.0", "addr": _DISPLAY_ADDRESS}
    # By which a guest's kernel tells of its panic; on the ISA bus, it takes no slot.
    yield {"driver": "pvpanic", "id": "pvpanic0"}


def _block_nodes(definition: Definition) -> Iterator[dict[str, Any]]:
    for index, disk in enumerate(definition.disks):
        read_only = disk.type is DiskType.CDROM
        yield {
            "driver": "file",
            "node-name": f"file{index}",
            "filename": _granted_path(_FIRST_DISK_SET + index),
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


def _disk_devices(definition: Definition, boot: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for index, disk in enumerate(definition.disks):
        device: dict[str, Any] = {"id": (name := f"{DISK_ID}{disk.name}"), "drive": f"disk{index}"}
        # A full disk holds the guest until there is room, instead of breaking its file system.
        device |= {"werror": "stop", "rerror": "stop"}
        if disk.type is DiskType.CDROM:
            device |= {"driver": "ide-cd", "bus": f"ide.{disk.port}"}
        else:
            device |= {
                "driver": "virtio-blk-pci",
                "bus": f"rp{_FIRST_DISK_PORT + disk.port}",
                "serial": _serial(disk.name),
            }
        if name in boot:
            device["bootindex"] = boot[name]
        yield device


def _serial(disk_name: str) -> str:
    """By which guests know the disk, below /dev/disk/by-id. virtio's holds 20 bytes: of a longer name a digest."""
    if len(disk_name) <= _SERIAL_CHARS:
        return disk_name
    digest = hashlib.sha256(disk_name.encode()).hexdigest()[:8]
    return f"{disk_name[: _SERIAL_CHARS - 9]}-{digest}"


def network_of(nic: NicDefinition, descriptors: Sequence[int | str]) -> dict[str, Any]:
    """The host's end of a NIC: descriptors of a tap, or of a connected socket, by number or by the name of a getfd."""
    network: dict[str, Any] = {"id": f"{NETWORK_ID}{nic.name}"}
    numbers = ":".join(map(str, descriptors))
    if nic.socket and isinstance(descriptors[0], str):
        # `stream` looks a name up in a thread that knows no monitor, and is then joined to nothing (QEMU 7.2).
        return network | {"type": "socket", "fd": numbers}
    if nic.socket:
        return network | {"type": "stream", "server": False, "addr": {"type": "fd", "str": numbers}}
    # vhost would need rights of QEMU's own on /dev/vhost-net.
    return network | {"type": "tap", "fds" if nic.queues > 1 else "fd": numbers, "vhost": False}


def nic_device(nic: NicDefinition, boot: Mapping[str, int]) -> dict[str, Any]:
    """The guest's end of it."""
    name = f"{NIC_ID}{nic.name}"
    device: dict[str, Any] = {"id": name, "netdev": f"{NETWORK_ID}{nic.name}", "mac": nic.mac}
    # acpi-index: Linux calls it eno1, eno2 ...; a name by its bus would change with every disk that is added.
    device |= {"bus": f"rp{_FIRST_NIC_PORT + nic.port}", "acpi-index": nic.port + 1}
    if nic.model is InterfaceModel.E1000E:
        device["driver"] = "e1000e"
    else:
        device |= {"driver": "virtio-net-pci", "host_mtu": nic.mtu}
        if nic.queues > 1:
            # An interrupt for each queue of each pair, one for changes, one for the control queue.
            device |= {"mq": True, "vectors": 2 * nic.queues + 2}
    if name in boot:
        # Of iPXE, which Debian's QEMU depends on. Another version of it may be larger, and a machine that was suspended
        # wakes on a ROM of its size only.
        device |= {"bootindex": boot[name], "romsize": _ROM_BYTES}
    else:
        device["romfile"] = ""
    return device


def _boot_indices(definition: Definition) -> dict[str, int]:
    """Disks and NICs with a number, in its order, by their devices' ids; then the first disk, if none has one."""
    disks = [(disk.boot_order, f"{DISK_ID}{disk.name}") for disk in definition.disks]
    nics = [(nic.boot_order, f"{NIC_ID}{nic.name}") for nic in definition.nics]
    numbered = sorted([(order, name) for order, name in disks + nics if order is not None], key=lambda one: one[0])
    booted = [name for _order, name in numbered]
    if all(order is None for order, _name in disks):
        booted += [name for _order, name in disks[:1]]
    return {name: index + 1 for index, name in enumerate(booted)}


def tcg_cache_mib(definition: Definition) -> int:
    """Of translated code: the default lets a 512 MiB guest grow to 1.3 GB."""
    return min(256, max(32, definition.memory_mib // 8))


def _accelerator(definition: Definition) -> str:
    if definition.accelerator != "tcg":
        return definition.accelerator
    return f"tcg,tb-size={tcg_cache_mib(definition)}"


def _escaped(value: str) -> str:
    return value.replace(",", ",,")
