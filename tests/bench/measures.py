"""What is read off the kernel and the API server."""

import os
from collections import Counter
from pathlib import Path

from tests.cluster.api_requests import RequestKind

_READS = frozenset({"GET", "LIST", "WATCH"})
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that at least so many percent do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def cpu_s(pid: int) -> float:
    """User and system time of a process so far (/proc/PID/stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def writes(before: Counter[RequestKind], after: Counter[RequestKind], resource: str = "") -> int:
    """Writes to our group's objects between two counts of the API server, failed ones included; of all writers."""
    return sum(
        count - before[kind]
        for kind, count in after.items()
        if kind.group == "virtplane.dev" and kind.verb not in _READS and resource in ("", kind.resource)
    )
