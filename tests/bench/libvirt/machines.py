"""The one machine that both sides run: a boot-sector guest of 32 MiB on the newest q35, emulated."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from tests.cluster.guests.boot_sector import BootSectorKind, boot_sector_image
from virtplane_api.vocabulary import DiskFormat
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Disk, Owner
from virtplane_drivers.hypervisor.qemu.argv import tcg_cache_mib
from virtplane_drivers.hypervisor.qemu.definition import Definition, definition_of
from virtplane_drivers.hypervisor.qemu.limits import limits_of

ACCELERATOR = "tcg"
MEMORY_MIB = 32
SMBIOS_UUID = "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"


@dataclass(frozen=True, slots=True)
class Guest:
    """One machine of one side."""

    uid: str
    disk: Path
    serial_log: Path


def make_disk(guest: Guest, user: int | None = None) -> None:
    """Write its disk, of this user and readable by no other."""
    guest.disk.parent.mkdir(parents=True, exist_ok=True)
    boot_sector_image(BootSectorKind.OBEDIENT, guest.disk).chmod(0o600)
    if user is not None:
        os.chown(guest.disk, user, user)


def desired(uid: str, disk: Path) -> Desired:
    """As an agent asks for it."""
    root = Disk("root", FileAttachment(disk, DiskFormat.RAW))
    return Desired(uid, "bench", uid, Owner("bench", 1), SMBIOS_UUID, Cpu(1), MEMORY_MIB, (root,))


def definition(machine_type: str, guest: Guest) -> Definition:
    """As the driver understands it."""
    asked = desired(guest.uid, guest.disk)
    return definition_of(
        asked, previous=None, newest_machine_type=machine_type, accelerator=ACCELERATOR, joinable=frozenset()
    )


def root_ports(argv: Sequence[str]) -> int:
    """How many PCIe root ports a command line of ours has."""
    return sum('"pcie-root-port"' in word for word in argv)


def domain_xml(machine: Definition, guest: Guest, *, ports: int, user: int | None) -> str:
    """The same as a libvirt domain: devices, limits, sandbox (libvirt's own default) and the user of its process.

    What libvirt 9.0 cannot be told: the chipset's watchdog (it is left wound down), files as inherited descriptors,
    and a hard memory limit, for which it also raises RLIMIT_MEMLOCK, which a container may not; the soft limit costs it
    one write to the cgroup as well.
    """
    limits = limits_of(machine)
    label = ""
    if user is not None:
        label = f"<seclabel type='static' model='dac' relabel='no'><label>+{user}:+{user}</label></seclabel>"
    root = "".join(f"<controller type='pci' index='{port + 1}' model='pcie-root-port'/>" for port in range(ports))
    return f"""<domain type='qemu'>
  <name>{guest.uid}</name>
  <memory unit='MiB'>{machine.memory_mib}</memory>
  <memtune><soft_limit unit='MiB'>{limits.memory_mib}</soft_limit></memtune>
  <vcpu>{machine.cores}</vcpu>
  <cputune>
    <shares>{1024 * machine.cores}</shares>
    <global_period>100000</global_period>
    <global_quota>{limits.cpu_quota_us}</global_quota>
  </cputune>
  <os><type arch='x86_64' machine='{machine.machine_type}'>hvm</type></os>
  <features><acpi/><apic/><tcg><tb-cache unit='MiB'>{tcg_cache_mib(machine)}</tb-cache></tcg></features>
  <cpu mode='maximum'/>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  {label}
  <devices>
    {root}
    <controller type='virtio-serial' index='0'/>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' discard='unmap' error_policy='stop' rerror_policy='stop'/>
      <source file={quoteattr(str(guest.disk))}/>
      <target dev='vda' bus='virtio'/>
      <serial>root</serial>
      <boot order='1'/>
    </disk>
    <serial type='null'><log file={quoteattr(str(guest.serial_log))} append='on'/><target port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <panic model='isa'/>
    <memballoon model='none'/>
    <video><model type='none'/></video>
    <audio id='1' type='none'/>
  </devices>
</domain>"""
