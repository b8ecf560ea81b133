"""The hosts that the hypervisors' contract is tried on: one per driver, with guests that do as they are told."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from tests.cluster.guest_processes import end_guests
from tests.cluster.guests.boot_sector import GREETING, BootSectorKind, boot_sector_image
from tests.unix_sockets import bound
from virtplane_api.vocabulary import DiskFormat, DisplayType
from virtplane_drivers.attachment import (
    Attachment,
    FakeAttachment,
    FakeNicAttachment,
    FileAttachment,
    NicAttachment,
    StreamAttachment,
)
from virtplane_drivers.hypervisor.contract import Cpu, Desired, Disk, HypervisorDriver, Nic, Owner
from virtplane_drivers.hypervisor.fake import FakeHypervisor, World
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver

SMBIOS_UUID = "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"


class Host(Protocol):
    """A host that outlives its driver."""

    def open(self) -> AbstractAsyncContextManager[HypervisorDriver]:
        """A driver of this host, not yet entered."""
        ...

    def disk(self, *, obedient: bool) -> Attachment:
        """Of a guest that shuts down when asked, or of one that does not."""
        ...

    def port(self) -> AbstractContextManager[NicAttachment]:
        """Of a network, which drops what it is sent."""
        ...

    def cut_off(self, uid: str, nic: Nic) -> None:
        """What the machine's adapter was joined to lets go of it."""
        ...

    def foreign_port(self) -> NicAttachment:
        """One that it cannot join."""
        ...

    def end_guest(self, uid: str) -> None:
        """The machine dies."""
        ...

    def boots(self, console: str) -> int:
        """How often its guest has booted, by what that printed."""
        ...


class FakeHost:
    """A world in memory."""

    def __init__(self, _folder: Path) -> None:
        self.world = World()
        self._drivers: list[FakeHypervisor] = []

    def open(self) -> FakeHypervisor:
        driver = FakeHypervisor(self.world)
        self._drivers.append(driver)
        return driver

    def disk(self, *, obedient: bool) -> Attachment:
        self._drivers[-1].faults.shut_down_s = 0.0 if obedient else None
        self._drivers[-1].faults.keeps_nics = True  # as QEMU's boot sectors, which know no hot-plug
        return FakeAttachment(uuid4().hex)

    @contextmanager
    def port(self) -> Iterator[NicAttachment]:
        yield FakeNicAttachment("net-1", (uuid4().hex, "lan"))

    def cut_off(self, uid: str, nic: Nic) -> None:
        self.world.cut_off(uid, nic.name)

    def foreign_port(self) -> NicAttachment:
        return StreamAttachment(Path("/run/stream"))

    def end_guest(self, uid: str) -> None:
        self.world.crash(uid)

    def boots(self, console: str) -> int:
        return console.count("fake guest: up") + console.count("fake guest: reset")


class QemuHost:
    """Real QEMU processes below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listeners: dict[NicAttachment, socket.socket] = {}

    def open(self) -> QemuDriver:
        return QemuDriver(self.folder / "state", self.folder / "run", accelerator="tcg")

    def disk(self, *, obedient: bool) -> Attachment:
        kind = BootSectorKind.OBEDIENT if obedient else BootSectorKind.DEAF
        return FileAttachment(boot_sector_image(kind, self.folder / f"{uuid4().hex}.img"), DiskFormat.RAW)

    @contextmanager
    def port(self) -> Iterator[NicAttachment]:
        path = self.folder / f"{uuid4().hex}.sock"
        with bound(path) as listener:
            listener.listen(16)
            self._listeners[StreamAttachment(path)] = listener
            yield StreamAttachment(path)

    def cut_off(self, uid: str, nic: Nic) -> None:
        self._listeners[nic.attachment].accept()[0].close()

    def foreign_port(self) -> NicAttachment:
        return FakeNicAttachment("net-1", (uuid4().hex, "lan"))

    def end_guest(self, uid: str) -> None:
        end_guests(self.folder / "state" / uid)

    def boots(self, console: str) -> int:
        return console.count(GREETING)


HOSTS: dict[str, Callable[[Path], Host]] = {"fake": FakeHost, "qemu": QemuHost}


def machine(
    host: Host,
    *,
    cores: int = 1,
    token: int = 1,
    obedient: bool = True,
    uid: str = "",
    display: DisplayType | None = None,
) -> Desired:
    """A small machine with one disk."""
    return Desired(
        uid=uid or str(uuid4()),
        namespace="shop",
        name="web",
        owner=Owner("cluster-1", token),
        smbios_uuid=SMBIOS_UUID,
        cpu=Cpu(cores),
        memory_mib=32,
        disks=(Disk("root", host.disk(obedient=obedient)),),
        display=display,
    )
