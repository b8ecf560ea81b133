"""libvirtd and virtlogd of the benchmark's own: they see no configuration, state or network of the host, and end whole.

They run in namespaces of their own (mount, process, network), in which /etc/libvirt, /var and /run are folders of the
benchmark. The machines that they start live in there too: the end of the namespace's first process is the end of all.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.supervisor import Supervisor

_NAME = "libvirt"
_START_TIMEOUT_S = 30.0
_USER = "libvirt-qemu"
"""Compiled into Debian's libvirtd, which does not start without it; made by a package that is not needed here."""

QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
seccomp_sandbox = 1
stdio_handler = "file"
namespaces = []
"""
"""As near to what ours does as it goes: a private /dev for each machine (`namespaces`) is more, and is left out."""

LIBVIRTD_CONF = """\
unix_sock_dir = "{folder}/sock"
auth_unix_rw = "none"
max_client_requests = 20
log_outputs = "3:stderr"
"""
"""More requests at a time than the five that one connection may have by default: there are ten threads."""

# dash as the first process reaps what libvirtd leaves. Below /var or /run the folder itself would be out of sight.
INSIDE = """\
set -e
cd "$1"
mount --bind etc /etc/libvirt
mount --bind passwd /etc/passwd
mount --bind group /etc/group
mount -t tmpfs tmpfs /run
mount --bind var /var
[ -d "$1" ] || { mkdir -p "$1"; mount --bind . "$1"; }
virtlogd --config virtlogd.conf &
libvirtd --config libvirtd.conf &
wait
"""


@dataclass(frozen=True, slots=True)
class Daemons:
    """Both, running."""

    uri: str
    pids: tuple[int, ...]


def start_daemons(supervisor: Supervisor, folder: Path) -> Daemons:
    """Start them below a folder; they end with the supervisor.

    Raises:
        RuntimeError: libvirtd does not come up; the message has its output.
    """
    for name in ("etc", "sock", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt", "var/tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/qemu.conf").write_text(QEMU_CONF)
    (folder / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(folder=folder))
    (folder / "virtlogd.conf").write_text('log_outputs = "3:stderr"\n')
    for database, entry in (("passwd", "x:64055:64055::/:/usr/sbin/nologin"), ("group", "x:64055:")):
        known = Path("/etc", database).read_text()
        (folder / database).write_text(known if f"\n{_USER}:" in known else f"{known}{_USER}:{entry}\n")
    argv = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", "sh", "-c", INSIDE]
    log = folder / "libvirt.log"
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"}
    outer = supervisor.start(_NAME, [*argv, "sh", folder], log, env)
    socket = folder / "sock" / "libvirt-sock"
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not socket.exists() or len(_daemons_below(outer)) < 2:
        if supervisor.exit_code(_NAME) is not None or time.monotonic() > deadline:
            raise RuntimeError(f"libvirtd does not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.05)
    return Daemons(f"qemu+unix:///system?socket={socket}", _daemons_below(outer))


def _daemons_below(outer: int) -> tuple[int, ...]:
    """Pids of the two as this namespace sees them: children of the only child of `outer`."""
    return tuple(
        pid
        for init in _children(outer)
        for pid in _children(init)
        if Path(f"/proc/{pid}/comm").read_text().strip() in ("libvirtd", "virtlogd")
    )


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
