"""How a disk is reached: what a storage driver gives and a hypervisor driver takes.

Each storage technology that guests reach in its own way adds one class here; a driver says in its facts which ones it
can use.
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
