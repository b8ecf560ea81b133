"""Virtplane itself on a control plane: operator and agents as processes, with credentials of their own.

    with System(credentials) as system:
        system.start_operator()
        system.start_agent("host-a", ["fake"])

Guests are no children of anything here; those whose files lie in the system's folder end with it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

from tests.cluster.supervisor import Supervisor
from tests.cluster.system_packages import SEARCH_PATH
from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, Namespace

_HOST = " && ".join(
    (
        "ip link set lo up",
        "ip link add eth0 type veth peer name eth0 netns {outside}",
        "ip link set eth0 up",
        f"ip address add {HOST_IPV4}/24 dev eth0",
        f"ip address add {HOST_IPV6}/64 dev eth0 nodad",
        # The other end comes up a moment later; a route over a link without a carrier is taken all the same.
        f"ip route add default via {OUTSIDE_IPV4}",
        f"ip -6 route add default via {OUTSIDE_IPV6}",
    )
)
_OUTSIDE = " && ".join(
    (
        "ip link set lo up",
        "ip link set eth0 up",
        f"ip address add {OUTSIDE_IPV4}/24 dev eth0",
        f"ip address add {OUTSIDE_IPV6}/64 dev eth0 nodad",
    )
)
SYSTEM_NAMESPACE = "virtplane-system"
OPERATOR = "operator"


class Credentials(Protocol):
    """Where the parts' identities come from."""

    def operator_kubeconfig(self) -> Path:
        """Of the operator's ServiceAccount."""
        ...

    def agent_kubeconfig(self, name: str) -> Path:
        """Of the user virtplane:agent:<name>, group virtplane:agents."""
        ...


class System:
    """The processes of one Virtplane; also a context manager. `close` is idempotent."""

    def __init__(self, credentials: Callable[[Path], Credentials]) -> None:
        """`credentials` gets the folder to keep secrets in: the system's own, which goes away with it."""
        self._supervisor = Supervisor(prefix="virtplane-")
        self._credentials = credentials(self._supervisor.directory)
        self.pids: dict[str, int] = {}
        self._hosts: dict[str, Namespace] = {}
        self._outsides: dict[str, Namespace] = {}

    @property
    def directory(self) -> Path:
        """Logs, and the agents' folders; removed by `close`."""
        return self._supervisor.directory

    def state_folder(self, agent: str) -> Path:
        """Of an agent; kept over its restarts."""
        return self.directory / agent / "state"

    def runtime_folder(self, agent: str) -> Path:
        """Of an agent; kept over its restarts."""
        return self.directory / agent / "run"

    def host(self, agent: str) -> Namespace:
        """The network namespace that the networks of an agent lead out through: nothing of this machine's is touched.

        It has a loopback and a way to its `outside`; it is kept over restarts of the agent.
        """
        if agent not in self._hosts:
            outside, pid = self._namespace(f"{agent}-outside", "true")
            self._outsides[agent] = outside
            self._hosts[agent], _ = self._namespace(f"{agent}-network", _HOST.format(outside=pid))
            outside.run("sh", "-c", _OUTSIDE)
        return self._hosts[agent]

    def outside(self, agent: str) -> Namespace:
        """What lies behind the default routes of an agent's host, at OUTSIDE_IPV4 and OUTSIDE_IPV6.

        It knows no way to anything but the host's own addresses.
        """
        self.host(agent)
        return self._outsides[agent]

    def start_operator(self, *more: str) -> int:
        """Starts the operator; returns its pid."""
        argv = ["-m", "virtplane_operator.main", "--kubeconfig", str(self._credentials.operator_kubeconfig()), *more]
        return self._start(OPERATOR, argv)

    def start_agent(
        self, name: str, drivers: Sequence[str], *more: str, module: Sequence[str] = ("virtplane_agent.main",)
    ) -> int:
        """Starts an agent, again with the same folders; returns its pid. `module` runs it in another way."""
        argv = ["-m", *module, "--name", name, "--drivers", ",".join(drivers)]
        argv += ["--kubeconfig", str(self._credentials.agent_kubeconfig(name))]
        argv += ["--state-dir", str(self.state_folder(name)), "--runtime-dir", str(self.runtime_folder(name))]
        if os.geteuid() == 0:
            argv += ["--host-netns", str(self.host(name).path)]
        return self._start(name, [*argv, *more])

    def stop(self, part: str, grace_s: float = 10.0) -> int | None:
        """SIGTERM and wait, or with no grace SIGKILL; returns the exit code."""
        self.pids.pop(part, None)
        return self._supervisor.stop(part, grace_s)

    def exit_code(self, part: str) -> int | None:
        """Of a part that ended by itself; None while it runs."""
        return self._supervisor.exit_code(part)

    def log(self, part: str) -> str:
        """All that a part has printed."""
        path = self.directory / f"{part}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Ends the parts, then their guests, and removes everything."""
        for part in list(self.pids):
            self.stop(part, grace_s=5.0)
        self._supervisor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _namespace(self, name: str, setup: str) -> tuple[Namespace, int]:
        """A network namespace that this shell script has set up, and the process that holds it."""
        argv = ["unshare", "--net", "--", "sh", "-c", f"{setup} && exec sleep infinity"]
        pid = self._supervisor.start(name, argv, self.directory / f"{name}.log", _path())
        # Its last act before it sleeps.
        eventually(lambda: (Path(f"/proc/{pid}") / "cmdline").read_bytes().startswith(b"sleep\0"), interval_s=0.005)
        return Namespace(Path(f"/proc/{pid}/ns/net")), pid

    def _start(self, name: str, argv: Sequence[str]) -> int:
        env = _path() | {"HOME": str(self.directory), "PYTHONUNBUFFERED": "1"}
        env["PYTHONPATH"] = str(Path(__file__).parents[2])  # for an agent that is run in a test's own way
        pid = self._supervisor.start(name, [sys.executable, *argv], self.directory / f"{name}.log", env)
        self.pids[name] = pid
        return pid


def _path() -> dict[str, str]:
    # Debian keeps sbin out of other users' PATH.
    return {"PATH": SEARCH_PATH}
