"""What a host has to have before it has networks of ours: rights, programs, a folder that name servers get through."""

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

_PROGRAMS: Mapping[str, str] = {
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "nsenter": "util-linux",
}
"""Command -> the Debian package that brings it."""
_SEARCHABLE = 0o711
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21


def what_is_missing(runtime_folder: Path) -> str:
    """Why this host has no networks of ours, and what would bring them; empty when it has. Blocking."""
    if not _has_capabilities():
        return "networks take root (CAP_NET_ADMIN, CAP_SYS_ADMIN): start the agent as root"
    lacking = [f"{command} (package {package})" for command, package in _PROGRAMS.items() if not shutil.which(command)]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    runtime_folder.mkdir(mode=_SEARCHABLE, parents=True, exist_ok=True)
    runtime_folder.chmod(stat.S_IMODE(runtime_folder.stat().st_mode) | _SEARCHABLE)
    hidden = next((one for one in runtime_folder.absolute().parents if not one.stat().st_mode & stat.S_IXOTH), None)
    if hidden is not None:
        return f"name servers of networks have users of their own, who cannot get through {hidden}: chmod o+x {hidden}"
    return ""


def _has_capabilities() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    wanted = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN
    return os.path.exists("/proc/self/ns/net") and effective & wanted == wanted  # noqa: PTH110
