"""What one machine's QEMU may take of the host, as a pure function of its definition."""

from virtplane_drivers.host.cgroup import PERIOD_US, Limits
from virtplane_drivers.hypervisor.qemu.argv import tcg_cache_mib
from virtplane_drivers.hypervisor.qemu.definition import Definition

_DISPLAY_MIB = 16
"""A VGA adapter's own memory."""


def limits_of(definition: Definition) -> Limits:
    """Room for all that QEMU has beside the guest's memory, a weight of 100 and one CPU for each virtual CPU.

    That is page tables, virtual CPUs, the disks' caches, frames that wait for a slow reader, and code translated by
    TCG; one CPU more is for QEMU's own threads.
    """
    overhead_mib = 256 + definition.memory_mib // 32 + 16 * definition.cores + 8 * len(definition.disks)
    # Without traffic 0.6 MiB of a NIC, and 0.1 of each further pair of queues.
    overhead_mib += sum(8 + nic.queues for nic in definition.nics)
    if definition.display is not None:
        overhead_mib += _DISPLAY_MIB
    if definition.accelerator == "tcg":
        overhead_mib += tcg_cache_mib(definition)
    return Limits(
        memory_mib=definition.memory_mib + overhead_mib,
        cpu_weight=100 * definition.cores,
        cpu_quota_us=(definition.cores + 1) * PERIOD_US,
    )
