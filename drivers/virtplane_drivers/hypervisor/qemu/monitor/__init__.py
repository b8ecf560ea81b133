"""A QMP monitor: one connection to one QEMU. It knows nothing of machines.

Source: QEMU's docs/interop/qmp-spec.rst.
"""

from virtplane_drivers.hypervisor.qemu.monitor.connecting import connect
from virtplane_drivers.hypervisor.qemu.monitor.connection import Monitor
from virtplane_drivers.hypervisor.qemu.monitor.errors import (
    CommandFailed,
    ConnectionSpoilt,
    EventsLost,
    HungUp,
    MonitorClosed,
    MonitorError,
    MonitorTimeout,
    OutOfBandNotOffered,
    ProtocolViolation,
)
from virtplane_drivers.hypervisor.qemu.monitor.events import EventQueue

__all__ = [
    "CommandFailed",
    "ConnectionSpoilt",
    "EventQueue",
    "EventsLost",
    "HungUp",
    "Monitor",
    "MonitorClosed",
    "MonitorError",
    "MonitorTimeout",
    "OutOfBandNotOffered",
    "ProtocolViolation",
    "connect",
]
