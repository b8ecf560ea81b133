"""QEMU with the command line that ours has, and nothing around it: what no manager can be faster than."""

import os
import select
import signal
import socket
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass

from tests.bench.libvirt.machines import Guest
from virtplane_drivers.hypervisor.contract import Owner
from virtplane_drivers.hypervisor.qemu.argv import Run, argv_of
from virtplane_drivers.hypervisor.qemu.definition import Definition
from virtplane_drivers.hypervisor.qemu.grants import GrantedFile, Grants

_TIMEOUT_S = 30.0


def bare_argv(machine: Definition, guest: Guest, *, monitor: int, agent: int, disk: int, log: int) -> list[str]:
    """The command line, with these descriptors."""
    grants = Grants((GrantedFile(disk, guest.disk),), GrantedFile(log, guest.serial_log), locks=())
    return argv_of(machine, Run(guest.uid, "bare", Owner("bench", 1), "bare", monitor, agent, grants))


@dataclass(frozen=True, slots=True)
class BareTimes:
    """Of one run, in seconds."""

    greeting: float
    """From exec to QMP's greeting, which QEMU sends before it has made the machine."""
    ready: float
    """From exec to the first reply, when the machine is made: only now is it known that QEMU does not refuse it."""
    killed: float
    """From SIGKILL to the end."""


def bare_run(machine: Definition, guest: Guest) -> BareTimes:
    """Start it, wait until it answers, kill it."""
    path, agent_path = guest.disk.with_suffix(".monitor"), guest.disk.with_suffix(".agent")
    for socket_path in (path, agent_path):
        socket_path.unlink(missing_ok=True)
    log = os.open(guest.serial_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    disk = os.open(guest.disk, os.O_RDWR)
    with (
        closing(socket.socket(socket.AF_UNIX)) as listener,
        closing(socket.socket(socket.AF_UNIX)) as agent,
        closing(socket.socket(socket.AF_UNIX)) as monitor,
    ):
        for one, socket_path in ((listener, path), (agent, agent_path)):
            one.bind(str(socket_path))
            one.listen(1)
        descriptors = [listener.fileno(), agent.fileno(), disk, log]
        argv = bare_argv(machine, guest, monitor=descriptors[0], agent=descriptors[1], disk=disk, log=log)
        monitor.settimeout(_TIMEOUT_S)
        began = time.perf_counter()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=descriptors)
        try:
            monitor.connect(str(path))
            times = []
            for command in (b"", b'{"execute":"qmp_capabilities"}\n'):
                monitor.sendall(command)
                if not monitor.recv(65536):
                    raise RuntimeError(f"QEMU ended with status {process.wait()}")
                times.append(time.perf_counter() - began)
        finally:
            ended = _killed(process)
            for descriptor in (log, disk):
                os.close(descriptor)
    return BareTimes(greeting=times[0], ready=times[1], killed=ended)


def _killed(process: "subprocess.Popen[bytes]") -> float:
    descriptor = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    began = time.perf_counter()
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    poll.poll(_TIMEOUT_S * 1000)
    took = time.perf_counter() - began
    process.wait()
    os.close(descriptor)
    return took
