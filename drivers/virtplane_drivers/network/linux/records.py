"""What was last applied of each network, as a file in the runtime folder: it goes with a reboot, as the networks do.

The rules of the host are one table for all networks: without the records an agent that starts anew would leave those
out that it has not applied yet, and cut their guests off.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux.values import Transit

_log = logging.getLogger(__name__)

FORMAT = 2
_READ = (1, 2)
"""1: without firewalls, limits and tunnels."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A network as it was last applied."""

    network: Network
    transit: Transit | None


@dataclass(frozen=True, slots=True)
class _File:
    format: int
    network: Network
    transit: Transit | None


_FILE = TypeAdapter(_File)


class Records:
    """`<folder>/<network UID>.json`, each written whole. Blocking; small enough for that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_all(self) -> dict[str, Applied]:
        """By UID; what cannot be read is left out, and applied anew."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                applied = _read(path)
            except (ValueError, OSError) as error:
                _log.warning("%s cannot be read: %r", path, error)
                continue
            if applied.network.uid == path.stem:
                found[path.stem] = applied
        return found

    def write(self, applied: Applied) -> None:
        """Not synced: after a reboot nothing of it is true."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{applied.network.uid}.json"
        content = _FILE.dump_json(_File(FORMAT, applied.network, applied.transit))
        if path.exists() and path.read_bytes() == content:
            return
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)

    def remove(self, network_uid: str) -> None:
        """Of a network that is gone."""
        (self._folder / f"{network_uid}.json").unlink(missing_ok=True)


def _read(path: Path) -> Applied:
    file = _FILE.validate_json(path.read_bytes())
    if file.format not in _READ:
        raise ValueError(f"format {file.format}, this version reads {' and '.join(map(str, _READ))}")
    return Applied(file.network, file.transit)
