"""An initramfs: a newc archive (kernel documentation, driver-api/early-userspace/buffer-format) and kernel modules."""

import lzma
import re
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

TRAILER = "TRAILER!!!"

UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".xz": lzma.decompress,
    ".zst": lambda packed: subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=True).stdout,
}
"""Debian 12 does not compress modules, Debian 13 by xz, Ubuntu by zstd. busybox's insmod takes plain ones."""


class ModuleError(Exception):
    """A kernel has no such module; the message is for people."""


class Archive:
    """Collects entries of an initramfs in memory, owned by root, of the year 1970: equal input, equal bytes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._folders: set[Path] = set()
        self._inode = 0

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file. Its folders need not exist yet."""
        self._parents(path)
        self._entry(path, stat.S_IFREG | mode, content)

    def symlink(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._parents(path)
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def folder(self, path: str) -> None:
        """A folder, with those above it, once however often it is asked for."""
        self._parents(f"{path}/entry")

    def console(self) -> None:
        """/dev/console, which the kernel opens for process 1 before anything can mount a /dev."""
        self._parents("dev/console")
        self._entry("dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1))

    def to_bytes(self) -> bytes:
        """The whole archive, uncompressed."""
        end = Archive()
        end._entry(TRAILER, 0, b"")
        return bytes(self._bytes + end._bytes)

    def _parents(self, path: str) -> None:
        for parent in reversed(Path(path).parents[:-1]):
            if parent not in self._folders:
                self._folders.add(parent)
                self._entry(str(parent), stat.S_IFDIR | 0o755, b"")

    def _entry(self, name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        uid = gid = mtime = major = minor = checksum = 0
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (
            self._inode,
            mode,
            uid,
            gid,
            links,
            mtime,
            len(content),
            major,
            minor,
            *device,
            len(encoded),
            checksum,
        )
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + encoded, content):
            self._bytes += part + b"\0" * (-len(part) % 4)


def modules_in_load_order(tree: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The modules `wanted`, behind those that each depends on, by name; those built into the kernel are left out.

    `tree` is /lib/modules/VERSION as packages have it, without depmod's files: dependencies come from the modules.

    Raises:
        ModuleError: the kernel has no such module.
    """
    built_in = {_name(Path(line)) for line in (tree / "modules.builtin").read_text().splitlines()}
    paths = {_name(path): path for path in tree.rglob("*.ko*")}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name in built_in:
            return
        if name not in paths:
            raise ModuleError(f"the kernel in {tree} has no module {name}")
        content = UNPACK[paths[name].suffix](paths[name].read_bytes())
        for dependency in _depends(content):
            load(dependency)
        loaded[name] = content

    for name in wanted:
        load(name)
    return loaded


def _name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _depends(module: bytes) -> Iterator[str]:
    """The names in the module's `.modinfo` section, a row of NUL-terminated `key=value`."""
    if found := re.search(rb"\0depends=([^\0]*)\0", module):
        yield from (name.replace("-", "_") for name in found[1].decode().split(",") if name)
