"""Why a machine's run is over, as a pure function of what was known when it went."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from virtplane_api.vocabulary import ExitReason
from virtplane_drivers.host.process import boot_id
from virtplane_drivers.hypervisor.contract import Exit
from virtplane_drivers.hypervisor.qemu.record import Intent, Record

_OF_GUEST: Mapping[str, tuple[ExitReason, str]] = {
    "guest-panic": (ExitReason.GUEST_PANICKED, "the guest's kernel panicked"),
    "watchdog": (ExitReason.WATCHDOG_EXPIRED, "the guest stopped feeding its watchdog"),
    "internal-error": (ExitReason.CRASHED, "the hypervisor could not execute the guest any further (internal error)"),
    "inmigrate": (ExitReason.CRASHED, "it woke while its record was lost, and nobody sends it the rest of its memory"),
}


_OF_HOST = frozenset({"host-signal", "host-qmp-quit", "host-ui"})


@dataclass(frozen=True, slots=True)
class Death:
    """What was seen of the end."""

    time: datetime
    cause: str = ""
    """ShutdownCause of QMP's first SHUTDOWN event (QAPI run-state.json), or `run_states.END_CAUSES` of a QEMU that was
    found paused in such a state."""
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
    if death.cause == "guest-shutdown":
        if record.shut_down_asked_at is not None:
            return Exit(ExitReason.STOPPED, death.time, "the guest shut down as asked")
        return Exit(ExitReason.GUEST_SHUTDOWN, death.time, "the guest shut itself down")
    if death.cause in _OF_GUEST:
        reason, message = _OF_GUEST[death.cause]
        return Exit(reason, death.time, _with_output(message, death))
    if not death.same_boot:
        return Exit(ExitReason.HOST_REBOOTED, death.time, "the host was rebooted")
    if death.cause in _OF_HOST:
        return Exit(ExitReason.KILLED, death.time, f"QEMU was told to end by somebody else ({death.cause})")
    return Exit(ExitReason.CRASHED, death.time, _with_output(_how(death), death))


def _how(death: Death) -> str:
    if death.exit_status is None:
        return "QEMU ended while nobody watched it"
    if death.exit_status < 0:
        return f"QEMU was ended by signal {-death.exit_status}"
    return f"QEMU exited with status {death.exit_status}"


def _with_output(message: str, death: Death) -> str:
    return f"{message}; its last output: {death.last_output}" if death.last_output else message


def is_same_boot(record: Record) -> bool:
    """Whether the recorded process, if any, was of the boot that we are in."""
    return record.process is None or record.process.boot_id == boot_id()
