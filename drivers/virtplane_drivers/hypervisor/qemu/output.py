"""What a guest prints on its serial console, and what QEMU itself prints: kept, and kept small."""

import os
from pathlib import Path

SERIAL_LOG = "serial.log"
_OLDER = "serial.log.1"
QEMU_LOG = "qemu.log"
_TAIL_BYTES = 2000


def read_serial(folder: Path, max_bytes: int) -> bytes:
    """The last bytes of the console, the part before the last cut included."""
    newest = _tail(folder / SERIAL_LOG, max_bytes)
    return _tail(folder / _OLDER, max_bytes - len(newest)) + newest


def cap_serial(folder: Path, max_bytes: int) -> None:
    """Keep half of a log that is too long, and empty it: QEMU holds it open for appending, and writes on at its start.

    What the guest prints between the copy and the cut is lost.
    """
    path = folder / SERIAL_LOG
    try:
        if path.stat().st_size <= max_bytes:
            return
    except FileNotFoundError:
        return
    fresh = folder / f"{_OLDER}.new"
    fresh.write_bytes(_tail(path, max_bytes // 2))
    fresh.replace(folder / _OLDER)
    os.truncate(path, 0)


def last_output(folder: Path) -> str:
    """The end of what QEMU printed, for people."""
    return _tail(folder / QEMU_LOG, _TAIL_BYTES).decode(errors="replace").strip()


def _tail(path: Path, max_bytes: int) -> bytes:
    if max_bytes <= 0:
        return b""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            return file.read(max_bytes)
    except FileNotFoundError:
        return b""
