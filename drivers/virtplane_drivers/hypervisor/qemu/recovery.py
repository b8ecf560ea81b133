"""The machines of a state folder after a start of the driver: from their records, and from what runs without one."""

import logging
from dataclasses import dataclass

from virtplane_drivers.hypervisor.contract import Owner
from virtplane_drivers.hypervisor.qemu.argv import MARKER
from virtplane_drivers.hypervisor.qemu.process import ProcessIdentity, boot_id, command_lines, start_ticks
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records, TornRecord

_log = logging.getLogger(__name__)

_GUEST = "guest="


@dataclass(frozen=True, slots=True)
class Found:
    """A process that says on its command line which run of which machine it is."""

    identity: ProcessIdentity
    record: Record


def recover(records: Records) -> dict[str, tuple[Record, ProcessIdentity | None]]:
    """Each machine with its record, and the process that is its run where one says so.

    A record that is torn or lost is read off the process; only its definition cannot be.
    """
    running = _running(records)
    machines: dict[str, tuple[Record, ProcessIdentity | None]] = {}
    for uid in records.uids():
        found = running.get(uid)
        try:
            record = records.read(uid)
        except TornRecord as torn:
            _log.error("machine %s: its record cannot be read and was moved aside: %s", uid, torn)
            record = None
        if record is not None:
            same_run = found is not None and found.record.incarnation == record.incarnation
            machines[uid] = (record, found.identity if found is not None and same_run else None)
    for uid, found in running.items():
        if uid not in machines:
            _log.warning("machine %s: no record, but pid %d is it", uid, found.identity.pid)
            machines[uid] = (found.record, found.identity)
    return machines


def _running(records: Records) -> dict[str, Found]:
    """Processes whose logs lie in this very state folder: another agent's on this host are none of ours."""
    boot, found = boot_id(), {}
    for pid, words in command_lines().items():
        marker = _marker(words)
        if marker is None or not any(str(records.machine_folder(marker.uid)) in word for word in words):
            continue
        ticks = start_ticks(pid)
        if ticks is not None:
            found[marker.uid] = Found(ProcessIdentity(boot, pid, ticks), marker)
    return found


def _marker(words: list[str]) -> Record | None:
    if "-name" not in words[:-1]:
        return None
    name = words[words.index("-name") + 1].split(",debug-threads")[0]
    parts = name.removeprefix(_GUEST).split("/")
    if len(parts) != 7 or parts[0] != MARKER or not parts[2].isdigit():
        return None
    _, cluster_id, token, namespace, machine, uid, incarnation = parts
    return Record(
        uid=uid,
        namespace=namespace,
        name=machine,
        owner=Owner(cluster_id, int(token)),
        intent=Intent.STARTING,
        incarnation=incarnation,
    )
