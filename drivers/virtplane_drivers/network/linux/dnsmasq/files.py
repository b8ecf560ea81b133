"""The folder of one run of dnsmasq: what it was started with, and what it was told since. Blocking; for a thread.

Its settings are those of its start for ever; its reservations only grow. So a process that is found later, by whoever,
is known by its folder, and what it has read of it is asked of itself (`Configuration.mark`).
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.linux.dnsmasq.configuration import Configuration
from virtplane_drivers.network.linux.dnsmasq.process import NAMES, OUTPUT, RESERVATIONS, SERVERS, SETTINGS

_SEARCHABLE = 0o711
"""dnsmasq must get through to what it may read, and need not see what else is there."""


def made(network_folder: Path, configuration: Configuration, user: int) -> Path:
    """The folder of a new run, readable by the user and by nobody else.

    Raises:
        Unavailable: a folder above ours lets nobody through.
    """
    for folder in (network_folder.parent, network_folder):
        folder.mkdir(mode=_SEARCHABLE, parents=True, exist_ok=True)
        folder.chmod(_SEARCHABLE)
    for folder in network_folder.parents:
        if not folder.stat().st_mode & 0o001:
            message = f"dnsmasq, which is of a user of its own, gets to no file of it: chmod o+x {folder}"
            raise Unavailable(message, reason=Reason.NETWORK_ERROR, retry_after_s=60.0)
    run = network_folder / secrets.token_hex(6)
    run.mkdir(mode=0o700)
    os.chown(run, -1, user)
    run.chmod(0o750)
    os.mkfifo(run / OUTPUT, 0o600)
    _write(run / SETTINGS, configuration.settings)
    _write_readable_again(run, configuration)
    return run


def brought_up_to_date(run: Path, configuration: Configuration) -> bool | None:
    """Whether something was written that the run's process is to read again; None: it can only be started anew."""
    try:
        known = set((run / RESERVATIONS).read_text().splitlines())
        if (run / SETTINGS).read_text() != configuration.settings or not known <= set(configuration.reservations):
            return None
        return _write_readable_again(run, configuration)
    except FileNotFoundError:
        return None


def remove_others(network_folder: Path, kept: Path) -> None:
    """Remove the folders of earlier runs."""
    for entry in network_folder.iterdir():
        if entry != kept:
            remove(entry)


def remove(path: Path) -> None:
    """Leave nothing of a folder."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def network_uids(folder: Path) -> set[str]:
    """All networks that have a folder."""
    try:
        return {entry.name for entry in folder.iterdir() if entry.is_dir()}
    except FileNotFoundError:
        return set()


def _write_readable_again(run: Path, configuration: Configuration) -> bool:
    reservations = "".join(f"{line}\n" for line in configuration.reservations)
    texts = {RESERVATIONS: reservations, SERVERS: configuration.servers, NAMES: configuration.names}
    written = [_write(run / name, text) for name, text in texts.items()]
    return any(written)


def _write(path: Path, text: str) -> bool:
    """Whether it was not so already. dnsmasq reads the old text, or the new one."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == text:
            return False
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    os.chown(fresh, -1, path.parent.stat().st_gid)
    fresh.chmod(0o640)
    fresh.replace(path)
    return True
