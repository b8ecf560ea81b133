"""What a machine's process is given as open files, so that it needs no rights on any path.

An image, a log and a lock belong to the agent and are readable by nobody else; QEMU gets their descriptors (`-add-fd`,
and `/dev/fdset/N` in the place of a path). The file's name is told beside the descriptor, for people and for `ps`.
A tap takes rights to make, and a socket to connect to: QEMU gets what is made and connected. A tap is there for as long
as a process has it open.

All functions block: they are called in a thread.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import DiskType
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.tap import open_tap
from virtplane_drivers.hypervisor.qemu.definition import Definition, DiskDefinition, NicDefinition
from virtplane_drivers.hypervisor.qemu.disk_locks import DiskOwner, lock_disk


@dataclass(frozen=True, slots=True)
class GrantedFile:
    """An open file that QEMU knows as `/dev/fdset/<set>`."""

    fd: int
    path: Path


@dataclass(frozen=True, slots=True)
class Grants:
    """All that is handed over."""

    disks: tuple[GrantedFile, ...]
    """In the order of the definition's disks."""
    serial_log: GrantedFile
    locks: tuple[int, ...]
    """Descriptors that QEMU inherits and is told nothing of."""
    nics: tuple[tuple[int, ...], ...] = ()
    """In the order of the definition's NICs: one descriptor for each pair of queues."""

    @property
    def descriptors(self) -> list[int]:
        """All of them."""
        queues = (descriptor for nic in self.nics for descriptor in nic)
        return [*(disk.fd for disk in self.disks), self.serial_log.fd, *self.locks, *queues]


@contextmanager
def granted(
    definition: Definition, serial_log: Path, owner: DiskOwner, *, claims_confirmed: bool, is_waking: bool = False
) -> Iterator[Grants]:
    """Locks and opens everything for the length of the block: a process that was started in it holds its own copies.

    What is on record of the disks changes last: a start that fails at one of them leaves them as they were, and a
    suspended memory that fits them.

    Raises:
        Unavailable, StaleToken, Refused: see `disk_locks`; Unavailable also for a port that cannot be joined.
        OSError: a file cannot be opened.
    """
    with ExitStack() as stack:

        def kept(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        locks = []
        for path in definition.writable_disks:
            lock = lock_disk(path)
            kept(lock.descriptor)
            lock.check_owner(owner, claim_is_confirmed=claims_confirmed)
            if is_waking:
                lock.check_memory(owner.incarnation)
            locks.append(lock)
        disks = tuple(GrantedFile(kept(_open_image(disk)), Path(disk.path)) for disk in definition.disks)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        log = GrantedFile(kept(os.open(serial_log, flags, 0o600)), serial_log)
        nics = tuple(tuple(map(kept, joined(nic))) for nic in definition.nics)
        for lock in locks:
            lock.write(owner)
        yield Grants(disks, log, tuple(lock.descriptor for lock in locks), nics)


def _open_image(disk: DiskDefinition) -> int:
    mode = os.O_RDWR if disk.type is DiskType.DISK else os.O_RDONLY
    return os.open(disk.path, mode | os.O_NOFOLLOW | os.O_CLOEXEC)


def joined(nic: NicDefinition) -> list[int]:
    """Descriptors of the port of a NIC's network, one for each pair of queues. Blocks.

    Raises:
        Unavailable: it cannot be joined now.
    """
    attachment = nic.attachment
    try:
        if isinstance(attachment, TapAttachment):
            return open_tap(attachment, nic.queues)
        return [_connected(attachment.socket)]
    except OSError as error:
        message = f"interface {nic.name}: its network's port cannot be joined: {error}"
        raise Unavailable(message, reason=Reason.NETWORK_NOT_READY) from error


def _connected(path: Path) -> int:
    """A socket connected by way of its folder's descriptor: an address holds 107 bytes (unix(7)), a path may be longer.

    QEMU itself may have no right to it. A program that takes no connection now is an error at once (EAGAIN).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(0)
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            client.connect(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        return client.detach()
