"""How a disk or a network is reached: what a storage or a network driver gives and a hypervisor driver takes.

Each technology that guests reach in its own way adds one class here; a driver says in its facts which ones it can use.
"""

from dataclasses import dataclass
from pathlib import Path

from virtplane_api.vocabulary import DiskFormat

LOCK_SUFFIX = ".lock"
"""After the image's name: beside it, the lock of who writes the image. It goes when the image goes."""


@dataclass(frozen=True, slots=True)
class FileAttachment:
    """An image file on this host."""

    path: Path
    format: DiskFormat


@dataclass(frozen=True, slots=True)
class FakeAttachment:
    """A disk that exists only in memory, under the volume's UID."""

    volume_uid: str


Attachment = FileAttachment | FakeAttachment


@dataclass(frozen=True, slots=True)
class TapAttachment:
    """A port of a bridge in a network namespace of this host, joined by whoever opens the tap (see `tap`)."""

    namespace: Path
    """A file that holds the network namespace open."""
    name: str
    """Of the tap: nobody else's in that namespace; at most 15 bytes."""
    bridge: str
    mtu: int
    alias: str
    """For people: what the tap is of."""


@dataclass(frozen=True, slots=True)
class StreamAttachment:
    """A program of this host that takes frames over a unix socket, each after its length in 4 bytes."""

    socket: Path


@dataclass(frozen=True, slots=True)
class FakeNicAttachment:
    """A port that exists only in memory."""

    network_uid: str
    port: tuple[str, str]


NicAttachment = TapAttachment | StreamAttachment | FakeNicAttachment
