"""`make run` and `make smoke`: a machine from `kubectl apply` to its console, with everything that this takes.

Control plane, chart, operator and agent are the real ones; operator and agent are processes with credentials of their
own. All of it ends with this process, in whatever way it ends.
"""

import argparse
import hashlib
import os
import signal
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import yaml

from tests.cluster.binaries import BuildError
from tests.cluster.clusters import Cluster, current_cluster, own_cluster
from tests.cluster.control_plane import CommandError, ControlPlaneError
from tests.cluster.guest_processes import guest_processes
from tests.cluster.guests.quickstart import PAGE, UP_LINE, ImageError, quickstart_image
from tests.cluster.identities import Identities
from tests.cluster.kinds import wait_for_kinds
from tests.cluster.network_leftovers import mounts_below, network_processes
from tests.cluster.relay import relayed
from tests.cluster.system import OPERATOR, SYSTEM_NAMESPACE, System
from tests.http_images.server import serve_folder

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "virtplane"
EXAMPLE = ROOT / "docs" / "examples" / "quickstart.yaml"
AGENT = "local"
RELEASE = "virtplane"
MACHINE = "quickstart"
HOST_PORT = 8080
"""Of the example's port forward."""
READY_TIMEOUT_S = 120.0
SERVED_TIMEOUT_S = 30.0


class QuickstartError(Exception):
    """It did not come to its end; the message says where, with the logs that tell why."""


def say(text: str) -> None:
    """One line for the user, at once."""
    print(text, flush=True)


class Quickstart:
    """Everything that runs, entered once."""

    def __init__(self, cluster: Cluster, image: Path) -> None:
        self._cluster = cluster
        self._image = image
        self._stack = ExitStack()
        self._applied = False
        self._installed = False
        self._is_root = os.geteuid() == 0
        """Networks of mode NAT take root; other users get one of mode User."""
        self._page_url = ""

    def __enter__(self) -> Self:
        try:
            self._server = self._stack.enter_context(serve_folder(self._image.parent))
            self._install()
            self._start_parts()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Takes away what was made, in the reverse order; what fails in that is said, and does not stop the rest."""
        if self._applied:
            self._quietly("delete", "-f", "-", "--ignore-not-found", "--timeout=60s", input=self.manifest())
            self._applied = False
        self._stack.close()
        if self._installed and self._cluster.outlives_us:
            self._quietly("delete", "vphv", f"{AGENT}-qemu", "--ignore-not-found")
            try:
                self._cluster.helm("uninstall", RELEASE, "-n", SYSTEM_NAMESPACE)
            except CommandError as error:
                say(f"  {error}")
            say("the kinds (CRDs) and the namespace stay in the cluster")
        self._installed = False

    def _quietly(self, *args: str, input: str | None = None) -> None:  # noqa: A002
        try:
            self._cluster.kubectl(*args, input=input, timeout_s=90.0)
        except CommandError as error:
            say(f"  {error}")

    def _install(self) -> None:
        say(f"installing the chart {CHART.relative_to(ROOT)} into namespace {SYSTEM_NAMESPACE}")
        self._cluster.helm("install", RELEASE, str(CHART), "-n", SYSTEM_NAMESPACE, "--create-namespace")
        self._installed = True
        wait_for_kinds(self._cluster.kubectl)
        self._cluster.kinds_were_added()
        self._wait_until_served()

    def _wait_until_served(self) -> None:
        """An API server that has just got a kind answers 503 to the first requests for it."""
        deadline = time.monotonic() + SERVED_TIMEOUT_S
        while True:
            try:
                self._cluster.kubectl("apply", "--dry-run=server", "-f", str(EXAMPLE))
            except CommandError as error:
                if time.monotonic() > deadline:
                    raise QuickstartError(f"the API server does not take the example: {error}") from error
                time.sleep(0.1)
            else:
                return

    def _start_parts(self) -> None:
        say("starting virtplane-operator and virtplane-agent, each with credentials of its own")
        self.system = self._stack.enter_context(
            System(lambda folder: Identities(self._cluster.kubectl, folder, SYSTEM_NAMESPACE))
        )
        self.system.start_operator()
        self.system.start_agent(AGENT, ["qemu"], "--allow-source", self._server.address)
        self._page_url = f"http://127.0.0.1:{HOST_PORT}/"
        if self._is_root:
            # The network is in a namespace of its own, so that nothing of this machine's is changed.
            relay = relayed(self.system.host(AGENT), "127.0.0.1", HOST_PORT)
            self._page_url = f"http://127.0.0.1:{self._stack.enter_context(relay)}/"

    def manifest(self) -> str:
        """The example, with the image's address and checksum of today, and a pool that goes away with us."""
        pool, network, machine = yaml.safe_load_all(EXAMPLE.read_text())
        pool["spec"]["directory"]["path"] = str(self.system.directory / "pool")
        source = machine["spec"]["disks"][0]["volume"]["source"]["http"]
        source["url"] = self._server.url(self._image.name)
        source["checksum"] = f"sha256:{hashlib.sha256(self._image.read_bytes()).hexdigest()}"
        if not self._is_root:
            network["spec"]["mode"] = "User"
        return str(yaml.safe_dump_all([pool, network, machine], sort_keys=False))

    def boot(self) -> None:
        """Apply the example, and wait for the machine's Ready and its console."""
        say(f"kubectl apply -f {EXAMPLE.relative_to(ROOT)}")
        began = time.monotonic()
        self._applied = True
        say(_indented(self._cluster.kubectl("apply", "-f", "-", input=self.manifest())))
        self._wait_for_ready()
        say(_indented(self._cluster.kubectl("get", "vpvm,vpnet,vpvol,vphv,vppool")))
        say(f"Ready after {time.monotonic() - began:.1f} s; its serial console:")
        self._show_console()
        say(f"the guest is up, {time.monotonic() - began:.1f} s after the apply")
        say(f"its page, by way of its network: {self._page()}")

    def remove(self) -> None:
        """Delete the machine, and see that nothing of it is left."""
        self._cluster.kubectl("delete", "-f", "-", "--timeout=60s", input=self.manifest(), timeout_s=90.0)
        self._cluster.kubectl("wait", "--for=delete", "vpvol", "--all", "--timeout=60s", timeout_s=90.0)
        self._applied = False
        left = guest_processes(self.system.directory)
        if left:
            raise QuickstartError(f"the machine is gone and its processes are not: {left}")
        deadline = time.monotonic() + SERVED_TIMEOUT_S
        while found := [*mounts_below(self.system.directory), *network_processes(self.system.directory)]:
            if time.monotonic() > deadline:
                raise QuickstartError(f"the network is gone and this of it is not: {found}\n{self._logs()}")
            time.sleep(0.1)

    def _page(self) -> str:
        """What the guest's web server shows; it begins to serve a moment after the guest is up."""
        deadline = time.monotonic() + SERVED_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(self._page_url, timeout=5) as answer:  # noqa: S310  # our own
                    page = str(answer.read().decode().strip())
            except OSError as error:
                if time.monotonic() > deadline:
                    why = self._cluster.kubectl("describe", "vpvm,vpnet")
                    message = f"{self._page_url} shows nothing: {error}\n{why}\n{self._logs()}"
                    raise QuickstartError(message) from error
                time.sleep(0.2)
            else:
                if page != PAGE:
                    raise QuickstartError(f"{self._page_url} shows {page!r} instead of {PAGE!r}")
                return page

    def _wait_for_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        shown = ""
        while True:
            line = self._cluster.kubectl("get", "vpvm", MACHINE, "--no-headers", "-o", _COLUMNS).strip()
            state = " ".join(line.split()[1:])
            if state != shown:
                say(f"  {line}")
                shown = state
            if state.startswith("Running True"):
                return
            self._check_parts()
            if time.monotonic() > deadline:
                why = self._cluster.kubectl("describe", "vpvm,vpvol")
                raise QuickstartError(f"not Ready after {READY_TIMEOUT_S:.0f} s:\n{why}\n{self._logs()}")
            time.sleep(0.2)

    def _show_console(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        uid = self._cluster.kubectl("get", "vpvm", MACHINE, "-o", "jsonpath={.metadata.uid}")
        log = self.system.state_folder(AGENT) / "qemu" / uid / "serial.log"
        shown = 0
        while True:
            lines = log.read_text(errors="replace").splitlines(keepends=True) if log.exists() else []
            for line in lines[shown:]:
                if line.endswith("\n"):
                    say(f"  | {line.strip()}")
                    shown += 1
            if any(UP_LINE in line for line in lines[:shown]):
                return
            self._check_parts()
            if time.monotonic() > deadline:
                raise QuickstartError(f"nothing of {UP_LINE!r} on the console after {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.1)

    def _check_parts(self) -> None:
        for part in (OPERATOR, AGENT):
            if self.system.exit_code(part) is not None:
                raise QuickstartError(f"the {part} ended by itself:\n{self.system.log(part)}")

    def _logs(self) -> str:
        return "\n".join(f"--- {part}:\n{self.system.log(part)[-3000:]}" for part in (OPERATOR, AGENT))

    def next_steps(self) -> str:
        """What the user may type now."""
        kubectl = self._cluster.kubectl_program
        return f"""
Now it is yours. In another terminal:

  export KUBECONFIG={self._cluster.kubeconfig}
  alias kubectl={kubectl}
  kubectl get vpvm -w
  kubectl explain vpvm.spec  # and vpact.spec: resets, screenshots, commands in the guest
  kubectl patch vpvm {MACHINE} --type=merge -p '{{"spec":{{"powerState":"Stopped"}}}}'
  kubectl describe vpvm {MACHINE}
  curl {self._page_url}  # port {HOST_PORT} of the agent's host leads to port 80 of the guest
  tail -f {self.system.state_folder(AGENT)}/qemu/*/serial.log

Logs: {self.system.directory}/*.log
Ctrl-C here ends and removes everything.
"""


_COLUMNS = (
    "custom-columns=NAME:.metadata.name,POWER:.status.powerState,"
    "READY:.status.conditions[?(@.type=='Ready')].status,REASON:.status.conditions[?(@.type=='Ready')].reason"
)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())


def main() -> int:
    """Run it; exit status 0 when it came to its end, or was ended by Ctrl-C after it was up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="end once the guest is up and everything is removed")
    parser.add_argument("--cluster", choices=["own", "current"], default="own")
    options = parser.parse_args()
    # A demo that is killed cleans up as one that is interrupted.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    up = False
    try:
        image = quickstart_image(say)
        say("starting a Kubernetes control plane" if options.cluster == "own" else "using your current cluster")
        with ExitStack() as stack:
            cluster = stack.enter_context(own_cluster() if options.cluster == "own" else current_cluster())
            quickstart = stack.enter_context(Quickstart(cluster, image))
            quickstart.boot()
            up = True
            if options.smoke:
                quickstart.remove()
            else:
                say(quickstart.next_steps())
                signal.pause()
    except KeyboardInterrupt:
        say("everything is ended and removed")
        return 0 if up else 130
    except (QuickstartError, CommandError, ControlPlaneError, ImageError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    say("everything is ended and removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
