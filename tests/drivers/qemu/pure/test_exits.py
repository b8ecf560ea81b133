"""Why a machine's process is gone, as a table of what was known when it went."""

import itertools
from datetime import UTC, datetime

import pytest

from tests.drivers.qemu.pure.machines import OWNER
from virtplane_api.vocabulary import ExitReason
from virtplane_drivers.host.process import ProcessIdentity, boot_id
from virtplane_drivers.hypervisor.qemu.exits import Death, exit_of, is_same_boot
from virtplane_drivers.hypervisor.qemu.record import Intent, Record
from virtplane_drivers.hypervisor.qemu.run_states import END_CAUSES, MEANINGS, Meaning

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
BEFORE = datetime(2026, 11, 24, 9, tzinfo=UTC)
GUEST, SIGNAL, QMP = "guest-shutdown", "host-signal", "host-qmp-quit"


def record(intent: Intent = Intent.RUNNING, *, asked: bool = False) -> Record:
    return Record("vm-1", "shop", "web", OWNER, intent, shut_down_asked_at=BEFORE if asked else None)


def death(cause: str = "", *, same_boot: bool = True, status: int | None = None, output: str = "") -> Death:
    return Death(NOW, cause, status, output, same_boot)


EXITS = [
    # what we were at, what was seen; the reason, the words for people
    ("the guest was asked, and shut down", record(asked=True), death(GUEST, status=0),
     ExitReason.STOPPED, "the guest shut down as asked"),
    ("the guest shut itself down", record(), death(GUEST, status=0),
     ExitReason.GUEST_SHUTDOWN, "the guest shut itself down"),
    ("it did so before the host was rebooted", record(), death(GUEST, same_boot=False),
     ExitReason.GUEST_SHUTDOWN, "the guest shut itself down"),
    ("powered off", record(Intent.POWERING_OFF), death(QMP, status=0),
     ExitReason.POWERED_OFF, "powered off as asked"),
    ("powered off, and killed for it", record(Intent.POWERING_OFF), death(status=-9),
     ExitReason.POWERED_OFF, "powered off as asked"),
    ("powered off after its grace period", record(Intent.POWERING_OFF, asked=True), death(QMP, status=0),
     ExitReason.POWERED_OFF, "the guest did not shut down in its grace period"),
    ("powered off while nobody watched, and the host rebooted", record(Intent.POWERING_OFF), death(same_boot=False),
     ExitReason.POWERED_OFF, "powered off as asked"),
    ("the host was rebooted", record(), death(same_boot=False),
     ExitReason.HOST_REBOOTED, "the host was rebooted"),
    ("the host was rebooted while the guest shut down", record(asked=True), death(same_boot=False),
     ExitReason.HOST_REBOOTED, "the host was rebooted"),
    ("somebody sent QEMU a signal", record(), death(SIGNAL, status=0),
     ExitReason.KILLED, "QEMU was told to end by somebody else (host-signal)"),
    ("somebody said quit on its monitor", record(asked=True), death(QMP, status=0),
     ExitReason.KILLED, "QEMU was told to end by somebody else (host-qmp-quit)"),
    ("killed", record(), death(status=-9), ExitReason.CRASHED, "QEMU was ended by signal 9"),
    ("killed while the guest shut down", record(asked=True), death(status=-9),
     ExitReason.CRASHED, "QEMU was ended by signal 9"),
    ("it gave up", record(), death(status=1, output="qemu: out of memory"),
     ExitReason.CRASHED, "QEMU exited with status 1; its last output: qemu: out of memory"),
    ("gone, and nobody watched", record(), death(),
     ExitReason.CRASHED, "QEMU ended while nobody watched it"),
    ("killed while it was started", record(Intent.STARTING), death(status=-11),
     ExitReason.CRASHED, "QEMU was ended by signal 11"),
    ("the guest panicked", record(), death("guest-panic"), ExitReason.GUEST_PANICKED, "the guest's kernel panicked"),
    ("it panicked while it shut down", record(asked=True), death("guest-panic", same_boot=False),
     ExitReason.GUEST_PANICKED, "the guest's kernel panicked"),
    ("its watchdog barked", record(), death("watchdog"),
     ExitReason.WATCHDOG_EXPIRED, "the guest stopped feeding its watchdog"),
    ("a window of its was closed", record(), death("host-ui", status=0),
     ExitReason.KILLED, "QEMU was told to end by somebody else (host-ui)"),
    ("QEMU itself failed", record(), death("host-error", status=1, output="qemu: out of memory"),
     ExitReason.CRASHED, "QEMU exited with status 1; its last output: qemu: out of memory"),
    ("a cause that a later QEMU may tell of", record(), death("host-novelty"),
     ExitReason.CRASHED, "QEMU ended while nobody watched it"),
    ("KVM could not go on", record(), death("internal-error", output="KVM internal error"), ExitReason.CRASHED,
     "the hypervisor could not execute the guest any further (internal error); its last output: KVM internal error"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("known", "seen", "reason", "message"), [row[1:] for row in EXITS], ids=[row[0] for row in EXITS]
)
def test_the_surest_sign_says_why(known: Record, seen: Death, reason: ExitReason, message: str) -> None:
    found = exit_of(known, seen)
    assert (found.reason, found.message, found.time) == (reason, message, NOW)


EVERYTHING = [
    (record(intent, asked=asked), death(cause, same_boot=same_boot, status=status))
    for intent, asked, cause, same_boot, status in itertools.product(
        Intent,
        (False, True),
        ("", GUEST, SIGNAL, QMP, "host-error", "host-ui", "guest-panic", "watchdog", "internal-error", "inmigrate"),
        (True, False),
        (None, 0, 1, -9),
    )
]


def test_an_end_that_was_asked_for_is_never_called_an_accident() -> None:
    for known, seen in EVERYTHING:
        asked_for = known.intent is Intent.POWERING_OFF or (seen.cause == GUEST and known.shut_down_asked_at)
        if asked_for:
            assert exit_of(known, seen).reason in (ExitReason.STOPPED, ExitReason.POWERED_OFF)


def test_only_who_was_told_to_end_was_killed() -> None:
    told = {seen.cause for known, seen in EVERYTHING if exit_of(known, seen).reason is ExitReason.KILLED}
    assert told == {SIGNAL, QMP, "host-ui"}


def test_a_process_that_just_vanished_was_never_as_asked() -> None:
    for known, seen in EVERYTHING:
        if known.intent is not Intent.POWERING_OFF and not seen.cause:
            expected = ExitReason.CRASHED if seen.same_boot else ExitReason.HOST_REBOOTED
            assert exit_of(known, seen).reason is expected


def test_each_state_in_which_a_guest_is_over_says_why_and_no_other_does() -> None:
    assert set(END_CAUSES) == {state for state, meaning in MEANINGS.items() if meaning is Meaning.ENDED}
    for cause in END_CAUSES.values():
        assert exit_of(record(), death(cause)).message != exit_of(record(), death()).message


def test_a_process_of_this_boot_is_told_from_one_of_another() -> None:
    def with_process(boot: str) -> Record:
        return Record("vm-1", "shop", "web", OWNER, process=ProcessIdentity(boot, 7, 8))

    assert is_same_boot(with_process(boot_id()))
    assert not is_same_boot(with_process("11111111-2222-3333-4444-555555555555"))
    assert is_same_boot(record())
