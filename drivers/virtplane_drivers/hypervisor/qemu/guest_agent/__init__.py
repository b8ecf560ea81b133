"""A client of the QEMU guest agent: of a program inside the guest, which may lie, stall, flood or not be there.

It shares nothing with the monitor but the framing: whatever a guest does to it, the monitor answers as before.
Source: QEMU's docs/interop/qemu-ga-ref.
"""

from virtplane_drivers.hypervisor.qemu.guest_agent.client import GuestAgent, connect
from virtplane_drivers.hypervisor.qemu.guest_agent.errors import (
    AgentDisconnected,
    AgentGarbage,
    AgentRefused,
    AgentSilent,
    GuestAgentError,
)

__all__ = [
    "AgentDisconnected",
    "AgentGarbage",
    "AgentRefused",
    "AgentSilent",
    "GuestAgent",
    "GuestAgentError",
    "connect",
]
