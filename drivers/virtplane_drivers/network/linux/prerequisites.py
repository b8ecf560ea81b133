"""What a host has to have before it has networks of ours: rights, programs, a folder that name servers get through."""

import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from virtplane_drivers.host.capabilities import CAP_NET_ADMIN, CAP_SYS_ADMIN, has_capabilities

_PROGRAMS: Mapping[str, str] = {
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "nsenter": "util-linux",
}
"""Command -> the Debian package that brings it."""
_SEARCHABLE = 0o711


def what_is_missing(runtime_folder: Path) -> str:
    """Why this host has no networks of ours, and what would bring them; empty when it has. Blocking."""
    if not (Path("/proc/self/ns/net").exists() and has_capabilities(CAP_NET_ADMIN, CAP_SYS_ADMIN)):
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
