"""What the other tests here stand on: the host itself, and that nothing of it is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, Host

KILLED = """
import subprocess, sys, time
from pathlib import Path
from tests.drivers.network.linux.host import new_host
with new_host(Path(sys.argv[1])) as host:
    mounted = host.folder / "mounted"
    mounted.touch()
    subprocess.run(["mount", "--bind", str(host.outside.path), str(mounted)], check=True)
    print(host.machine.path.parts[2], host.outside.path.parts[2], flush=True)
    time.sleep(60)
"""


def test_the_host_and_the_outside_reach_each_other(host: Host) -> None:
    for address in (OUTSIDE_IPV4, OUTSIDE_IPV6):
        host.machine.reaches(address)
    for address in (HOST_IPV4, HOST_IPV6):
        host.outside.reaches(address)
    assert not host.outside.pings("203.0.113.77", timeout_s=0.05)


@pytest.mark.usefixtures("root")
def test_a_test_that_is_killed_leaves_no_namespace_and_no_mount(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    argv = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        holders = process.stdout.readline().split()
        assert len(holders) == 2
        assert mounts(tmp_path)
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in holders) and not mounts(tmp_path))


def mounts(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{folder}/" in line]
