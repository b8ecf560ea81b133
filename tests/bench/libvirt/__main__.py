"""`make bench-libvirt`: our driver beside Debian's libvirt and the bare QEMU, in turns, with the same machine.

Prints a table and writes build/bench-libvirt.json (flat keys). Done by both: a monitor that answers when a start
returns, a Unix user and cgroups for each machine, QEMU's sandbox, the console in a file. By ours only: a record of
the machine and a lock of its disk that are durable (three fsyncs before QEMU runs), hard memory limits, and a
`destroy` that leaves no file of the machine, where theirs is a power-off of one that stays defined. By theirs only:
questions to a new QEMU about its devices before it may go on, a file with a key, a cgroup for each kind of thread.
Left out of theirs: a private /dev for each machine, and virtlogd between QEMU and its log, both of which libvirt does
unless it is told not to.
"""

import os
import signal
import sys

from tests.bench.libvirt.packages import install
from tests.bench.libvirt.rounds import measure
from tests.bench.report import report

GOALS = {
    "libvirt.start_ratio": "<= 0.35",
    "libvirt.destroy_ratio": "<= 0.1",
    "libvirt.start50_ratio": "<= 0.25",
    "libvirt.memory_ratio": "<= 1.6",
}


def main() -> int:
    """Measure and print; the exit status does not judge."""
    if os.geteuid() != 0:
        print("bench-libvirt needs root: for users, cgroups and namespaces", file=sys.stderr)
        return 1
    if not install():
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        figures = measure()
    except KeyboardInterrupt:
        return 130
    report(figures, GOALS, "bench-libvirt.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
