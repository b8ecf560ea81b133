"""The machines of a state folder after a start of the driver: from their records, and from what runs without one."""

import logging
import os
import re
from dataclasses import dataclass, replace

from virtplane_drivers.host.process import ProcessIdentity, boot_id, command_lines, start_ticks, user_of
from virtplane_drivers.host.users import Users
from virtplane_drivers.hypervisor.contract import Owner
from virtplane_drivers.hypervisor.qemu.argv import MARKER
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records, TornRecord

_log = logging.getLogger(__name__)

_GUEST = "guest="
_TOKEN = re.compile(r"[0-9]{1,16}")
_NAME = re.compile(r"[0-9a-z][-0-9a-z.]{0,252}")
_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
"""It names a folder: nothing of a path may be in it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A process that says on its command line which run of which machine it is."""

    identity: ProcessIdentity
    record: Record


def recover(records: Records, users: Users) -> dict[str, tuple[Record, ProcessIdentity | None]]:
    """Each machine with its record, and the process that is its run where one says so.

    A record that is torn or lost is read off the process; only its definition cannot be.
    """
    running = _running(records, users)
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


def _running(records: Records, users: Users) -> dict[str, Found]:
    """Processes of this very state folder: another agent's on this host are none of ours."""
    boot, found = boot_id(), {}
    for pid, words in command_lines().items():
        marker = _marker(words, records.state_id)
        if marker is None:
            continue
        ticks, user = start_ticks(pid), user_of(pid)
        # Anybody can write such a command line; nobody can be of the machine's user.
        if ticks is not None and user is not None and users.may_be(user, marker.uid):
            own = None if user == os.geteuid() else user
            found[marker.uid] = Found(ProcessIdentity(boot, pid, ticks), replace(marker, user=own))
    return found


def _marker(words: list[str], state_id: str) -> Record | None:
    if "-name" not in words[:-1]:
        return None
    name = words[words.index("-name") + 1].split(",debug-threads")[0]
    parts = name.removeprefix(_GUEST).split("/")
    if len(parts) != 8 or parts[:2] != [MARKER, state_id]:
        return None
    cluster_id, token, namespace, machine, uid, incarnation = parts[2:]
    words_are_names = all(_NAME.fullmatch(word) for word in (cluster_id, namespace, machine, incarnation))
    if not words_are_names or not _TOKEN.fullmatch(token) or not _UID.fullmatch(uid):
        return None
    return Record(
        uid=uid,
        namespace=namespace,
        name=machine,
        owner=Owner(cluster_id, int(token)),
        intent=Intent.STARTING,
        incarnation=incarnation,
    )
