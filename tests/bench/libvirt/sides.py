"""Our side and libvirt's, under one set of verbs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.libvirt.contestants import Contestant
from tests.bench.libvirt.daemons import Daemons
from tests.bench.libvirt.machines import Guest, definition, domain_xml, make_disk
from tests.bench.libvirt.packages import SYSTEM_PYTHON
from virtplane_drivers.host.users import FIRST_UID, find_users
from virtplane_drivers.hypervisor.qemu.output import SERIAL_LOG

_ROOT = Path(__file__).parents[3]
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Side:
    """One side, with as many guests as it may have to run at once."""

    name: str
    contestant: Contestant
    guests: tuple[Guest, ...]
    definitions: tuple[str, Callable[[Guest], str]]
    """What `define` needs of each guest: the argument's name, and its value."""
    manager_pids: tuple[int, ...]
    """Processes whose memory counts."""

    def define(self, guests: Sequence[Guest]) -> None:
        """Make them known; their consoles are empty."""
        for guest in guests:
            guest.serial_log.unlink(missing_ok=True)
        name, value = self.definitions
        self.contestant.timed("define", [guest.uid for guest in guests], **{name: [value(guest) for guest in guests]})

    def timed(self, verb: str, guests: Sequence[Guest]) -> float:
        """Seconds that it took."""
        return self.contestant.timed(verb, [guest.uid for guest in guests])

    def wait_until_up(self, timeout_s: float = 180.0) -> None:
        """Return once all guests have printed a tick: from then on they need next to no processor time.

        Raises:
            TimeoutError: one has not.
        """
        deadline = time.monotonic() + timeout_s
        while waiting := [guest for guest in self.guests if not _ticks(guest.serial_log)]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(waiting)} guests of {self.name} are not up, {waiting[0].uid} for one")
            time.sleep(0.1)


@contextmanager
def our_side(folder: Path, run: str, count: int) -> Iterator[Side]:
    """A driver in a process of its own; its disks are root's."""
    uids = [f"{run}-{number:03}" for number in range(count)]
    guests = tuple(Guest(uid, folder / f"{uid}.img", folder / "state" / uid / SERIAL_LOG) for uid in uids)
    for guest in guests:
        make_disk(guest)
    argv = [sys.executable, "-m", "tests.bench.libvirt.ours", str(folder)]
    path = os.pathsep.join(str(_ROOT / part) for part in (".", "crds", "drivers", "agent"))
    env = os.environ | {"PYTHONPATH": path}
    with Contestant(argv, folder / "contestant.log", env, _ROOT) as contestant:
        yield Side("ours", contestant, guests, ("disks", lambda guest: str(guest.disk)), (contestant.pid,))


@contextmanager
def their_side(folder: Path, run: str, count: int, daemons: Daemons, machine_type: str, ports: int) -> Iterator[Side]:
    """A client of libvirtd; each disk is of its machine's user, as libvirt is told not to change owners."""
    are_own = find_users().are_own
    users = {f"{run}-{number:03}": FIRST_UID + number if are_own else None for number in range(count)}
    guests = tuple(Guest(uid, folder / f"{uid}.img", folder / f"{uid}.log") for uid in users)
    for guest in guests:
        make_disk(guest, users[guest.uid])

    def xml(guest: Guest) -> str:
        return domain_xml(definition(machine_type, guest), guest, ports=ports, user=users[guest.uid])

    argv = [SYSTEM_PYTHON, "-E", "-s", str(_HERE / "theirs.py"), daemons.uri]
    with Contestant(argv, folder / "contestant.log", os.environ, folder) as contestant:
        yield Side("theirs", contestant, guests, ("xml", xml), daemons.pids)


@contextmanager
def groups_removed(run: str) -> Iterator[None]:
    """After the block, or the death of this process, no cgroup of the run is left."""
    argv = [sys.executable, "-I", "-S", str(_HERE / "groups.py"), run]
    # A session of its own: Ctrl-C is for us, who end the machines first.
    cleaner = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    with cleaner:
        assert cleaner.stdout is not None
        cleaner.stdout.readline()
        yield


def _ticks(log: Path) -> bool:
    try:
        return b"tick" in log.read_bytes()
    except FileNotFoundError:
        return False
