"""Why a machine's process is gone, as a pure function of what was known when it went."""

from dataclasses import dataclass
from datetime import datetime

from virtplane_api.vocabulary import ExitReason
from virtplane_drivers.hypervisor.contract import Exit
from virtplane_drivers.hypervisor.qemu.process import boot_id
from virtplane_drivers.hypervisor.qemu.record import Intent, Record

GUEST_SHUTDOWNS = frozenset({"guest-shutdown"})
"""Values of ShutdownCause (QAPI run-state.json) that mean: the guest ended itself."""


@dataclass(frozen=True, slots=True)
class Death:
    """What was seen of the end."""

    time: datetime
    shutdown_cause: str = ""
    """Of QMP's last SHUTDOWN event, or `guest-shutdown` when QEMU was found paused in that state."""
    exit_status: int | None = None
    """Known of own children only; -N for signal N."""
    last_output: str = ""
    same_boot: bool = True


def exit_of(record: Record, death: Death) -> Exit:
    """The reason, from the surest sign to the least sure."""
    if record.intent is Intent.POWERING_OFF:
        asked = record.shut_down_asked_at is not None
        message = "the guest did not shut down in its grace period" if asked else "powered off as asked"
        return Exit(ExitReason.POWERED_OFF, death.time, message)
    if death.shutdown_cause in GUEST_SHUTDOWNS:
        if record.shut_down_asked_at is not None:
            return Exit(ExitReason.STOPPED, death.time, "the guest shut down as asked")
        return Exit(ExitReason.GUEST_SHUTDOWN, death.time, "the guest shut itself down")
    if not death.same_boot:
        return Exit(ExitReason.HOST_REBOOTED, death.time, "the host was rebooted")
    if death.shutdown_cause.startswith("host-"):
        return Exit(ExitReason.POWERED_OFF, death.time, f"ended from outside ({death.shutdown_cause})")
    return Exit(ExitReason.CRASHED, death.time, _crash_message(death))


def _crash_message(death: Death) -> str:
    if death.exit_status is None:
        how = "QEMU ended while nobody watched it"
    elif death.exit_status < 0:
        how = f"QEMU was ended by signal {-death.exit_status}"
    else:
        how = f"QEMU exited with status {death.exit_status}"
    return f"{how}; its last output: {death.last_output}" if death.last_output else how


def is_same_boot(record: Record) -> bool:
    """Whether the recorded process, if any, was of the boot that we are in."""
    return record.process is None or record.process.boot_id == boot_id()
