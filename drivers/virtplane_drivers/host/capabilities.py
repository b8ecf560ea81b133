"""Capabilities of this process: root in a container may lack some (capabilities(7))."""

from pathlib import Path

CAP_SETGID, CAP_SETUID, CAP_NET_ADMIN, CAP_SYS_ADMIN = 6, 7, 12, 21


def has_capabilities(*numbers: int) -> bool:
    """Whether all of these are in effect. Blocking."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return all(effective >> number & 1 for number in numbers)
