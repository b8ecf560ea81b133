"""A QMP monitor: one connection to one QEMU. It knows nothing of machines.

Source: QEMU's docs/interop/qmp-spec.rst.
"""

from virtplane_drivers.hypervisor.qemu.monitor.connection import Monitor, connect
from virtplane_drivers.hypervisor.qemu.monitor.errors import (
    CommandFailed,
    MonitorClosed,
    MonitorError,
    MonitorTimeout,
    ProtocolViolation,
)

__all__ = [
    "CommandFailed",
    "Monitor",
    "MonitorClosed",
    "MonitorError",
    "MonitorTimeout",
    "ProtocolViolation",
    "connect",
]
