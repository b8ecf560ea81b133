"""A Unix user per machine, from a range of numbers that no user database knows.

A machine's number follows from its UID, so that it is the same after every restart and needs no list; where two
machines of one host meet on a number, the later one takes the next.
"""

import hashlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from virtplane_drivers.host.capabilities import CAP_SETGID, CAP_SETUID, has_capabilities

FIRST_UID = 1_900_000_000
"""Of the numbers that systemd's table of users and groups (UIDS-GIDS) leaves unused."""
UIDS = 100_000_000
_MAX_STEPS = 64

_KVM = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class Users:
    """Whom machines run as. `are_own` is False where this process may not change users: they run as it then."""

    are_own: bool
    missing: str = ""
    """Why they have none of their own."""
    first: int = FIRST_UID

    @property
    def last(self) -> int:
        """The highest number that any of them may have."""
        return self.first + UIDS + _MAX_STEPS - 1

    def choose(self, machine_uid: str, taken: Collection[int]) -> int | None:
        """The machine's number, none of `taken`; None where machines have no users of their own."""
        if not self.are_own:
            return None
        return next(number for number in self._candidates(machine_uid) if number not in taken)

    def may_be(self, number: int, machine_uid: str) -> bool:
        """Whether a process of this user may be the machine's: of what says so itself, by its own command line."""
        return number == os.geteuid() or (self.are_own and number in self._candidates(machine_uid))

    def _candidates(self, machine_uid: str) -> range:
        first = self.first + int.from_bytes(hashlib.sha256(machine_uid.encode()).digest()[:8]) % UIDS
        return range(first, first + _MAX_STEPS)


def find_users(first: int = FIRST_UID, who: str = "guests") -> Users:
    """Whether this process may change users to `UIDS` numbers from `first` on: as root, in a user namespace with them.

    `who` runs as them, in the plural, for people.
    """
    if not has_capabilities(CAP_SETGID, CAP_SETUID):
        return Users(are_own=False, missing=f"{who} run as the agent's own user: start the agent as root")
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        mapped, _outside, length = (int(word) for word in line.split())
        if mapped <= first and mapped + length >= first + UIDS + _MAX_STEPS:
            return Users(are_own=True, first=first)
    message = f"{who} run as root: this user namespace maps no users from {first} on"
    return Users(are_own=False, missing=message)


def groups_for(accelerator: str) -> list[int]:
    """The further groups that a machine's process needs: that of /dev/kvm, and no other."""
    if accelerator != "kvm":
        return []
    status = _KVM.stat()
    return [] if status.st_mode & 0o006 == 0o006 else [status.st_gid]
