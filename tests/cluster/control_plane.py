"""A real Kubernetes control plane for tests and for `make run`: etcd, kube-apiserver, kube-controller-manager.

    with ControlPlane() as control_plane:
        control_plane.kubectl("apply", "-f", "-", input=manifest)

It starts in a few seconds, has its own certificate authority, runs no pods, and keeps everything in one folder that
goes away with it. Its processes belong to a `Supervisor`: they end when `stop` is called and when the process that
started them dies in whatever way.
"""

import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec

from tests.cluster import binaries as cluster_binaries
from tests.cluster import credentials
from tests.cluster.api_requests import RequestKind, audit_events, request_totals
from tests.cluster.binaries import Binaries
from tests.cluster.components import (
    HOST,
    SERVER_NAMES,
    Layout,
    apiserver_argv,
    controller_manager_argv,
    etcd_argv,
)
from tests.cluster.supervisor import Supervisor

ETCD, APISERVER, CONTROLLER_MANAGER = "etcd", "kube-apiserver", "kube-controller-manager"

# Long for the 3 s that it takes on an idle machine: a loaded one is slow, not broken, and a process that ended is
# noticed at once.
START_TIMEOUT_S = 90.0
POLL_INTERVAL_S = 0.05
LOG_TAIL_LINES = 25
FIRST_NAMESPACES = ("/api/v1/namespaces/default", "/api/v1/namespaces/kube-system")  # made soon after /readyz says ok

# Its owner never was, so the garbage collector deletes it as soon as it works.
_GARBAGE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {
        "name": "is-the-garbage-collector-working",
        "namespace": "default",
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "never-was", "uid": "never-was"}],
    },
}


class ControlPlaneError(Exception):
    """A process of the control plane ended or did not become ready; the message ends with the tail of its log."""


class CommandError(Exception):
    """kubectl or helm exited with an error; the message holds what it wrote."""

    def __init__(self, argv: Sequence[str], done: subprocess.CompletedProcess[str]) -> None:
        said = f"{done.stdout}{done.stderr}".strip()
        super().__init__(f"{Path(argv[0]).name} {' '.join(argv[1:])} exited {done.returncode}: {said}")
        self.exit_code = done.returncode
        self.stderr = done.stderr


class ApiError(Exception):
    """The API server's answer to a raw request was not 2xx."""

    def __init__(self, method: str, path: str, code: int, body: bytes) -> None:
        super().__init__(f"{method} {path}: {code} {body[:500].decode(errors='replace')}")
        self.code = code


class ControlPlane:
    """A running control plane between `start` and `stop`; also a context manager. `stop` is idempotent.

    `audit` makes the API server log who did what to our objects, Leases and Events (`audit_events`).
    """

    def __init__(self, *, audit: bool = False, binaries: Binaries | None = None) -> None:
        self._audit = audit
        self.binaries = binaries or cluster_binaries.ensure()
        self.pids: dict[str, int] = {}
        self._supervisor: Supervisor | None = None
        self._port_holder: socket.socket | None = None

    # Life

    def start(self) -> None:
        """Returns when requests are served, RBAC's own roles exist and the controllers work.

        Raises:
            ControlPlaneError: nothing is left running.
        """
        try:
            self._supervisor = Supervisor(prefix="virtplane-control-plane-")
            self._port_holder = _hold_free_port()
            self._layout = Layout(self._supervisor.directory, self._port_holder.getsockname()[1])
            self._write_files()
            self._run(ETCD, etcd_argv(self.binaries, self._layout))
            self.start_apiserver()
            self.restart_controller_manager()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends all processes and removes all files."""
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
        if self._port_holder is not None:
            self._port_holder.close()
            self._port_holder = None
        self.pids.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start_apiserver(self) -> None:
        """Starts the API server, on its port of before, and waits until it is ready."""
        self._run(APISERVER, apiserver_argv(self.binaries, self._layout, audit=self._audit))
        self._wait(APISERVER, "ready", lambda: self._serves("/readyz", *FIRST_NAMESPACES))

    def stop_apiserver(self, grace_s: float = 0.0) -> None:
        """Kills the API server. Its port then refuses connections, and no one else can get it.

        With a `grace_s` it gets a SIGTERM and that time first, in which it serves the open watches and takes no new
        connections.
        """
        self._require_supervisor().stop(APISERVER, grace_s)
        self.pids.pop(APISERVER, None)

    def restart_apiserver(self) -> None:
        """Kills the API server and starts it again: watches break, the data stays, `requests_total` begins at zero."""
        self.stop_apiserver()
        self.start_apiserver()

    def restart_controller_manager(self) -> None:
        """Starts the controllers afresh.

        The garbage collector looks for new kinds every 30 s only. After CRDs were installed, this makes it know them at
        once.
        """
        self._require_supervisor().stop(CONTROLLER_MANAGER, grace_s=0)
        self.request("POST", f"/api/v1/namespaces/{_GARBAGE['metadata']['namespace']}/configmaps", _GARBAGE)
        self._run(CONTROLLER_MANAGER, controller_manager_argv(self.binaries, self._layout))
        self._wait(CONTROLLER_MANAGER, "working", self._controllers_work)

    # What it has

    @property
    def directory(self) -> Path:
        """All its files, its logs among them; removed by `stop`."""
        return self._layout.directory

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._layout.server

    @property
    def admin_kubeconfig(self) -> Path:
        """A kubeconfig that may do everything."""
        return self._layout.admin_kubeconfig

    def client_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate for the user, signed by the cluster's own authority."""
        path = self.directory / f"{_file_name(user)}.kubeconfig"
        return self._write_kubeconfig(path, user, self._authority.client(user, groups))

    def service_account_kubeconfig(self, namespace: str, name: str, lifetime: str = "24h") -> Path:
        """A kubeconfig with a token of the service account (TokenRequest, not bound to a pod)."""
        token = self.kubectl("create", "token", name, "-n", namespace, f"--duration={lifetime}").strip()
        path = self.directory / f"serviceaccount-{_file_name(namespace)}-{_file_name(name)}.kubeconfig"
        return self._write_kubeconfig(path, f"{namespace}-{name}", token)

    # Ways to talk to it, all as the administrator

    def kubectl(self, *args: str, input: str | None = None, timeout_s: float = 60.0) -> str:  # noqa: A002
        """Runs kubectl and returns its stdout.

        Raises:
            CommandError: with its stderr.
        """
        argv = [str(self.binaries.kubectl), "--kubeconfig", str(self.admin_kubeconfig), *args]
        return self._command(argv, input, timeout_s)

    def helm(self, *args: str, input: str | None = None, timeout_s: float = 120.0) -> str:  # noqa: A002
        """Runs helm, as `kubectl` does."""
        return self._command(
            [str(self.binaries.helm), *args, "--kubeconfig", str(self.admin_kubeconfig)], input, timeout_s
        )

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = 30.0,
    ) -> bytes:
        """One HTTP request, without a client library's opinion; returns the body.

        Raises:
            ApiError: an answer other than 2xx.
            OSError: no answer.
        """
        connection = http.client.HTTPSConnection(HOST, self._layout.port, timeout=timeout_s, context=self._tls)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": content_type, "Accept": "application/json, */*"})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise ApiError(method, path, response.status, answer)
        return answer

    def requests_total(self) -> Counter[RequestKind]:
        """What the API server counted since it started; the difference of two is what happened between."""
        return request_totals(self.request("GET", "/metrics").decode())

    def audit_events(self) -> list[dict[str, Any]]:
        """The audit log so far, requests that are complete; empty unless `audit`."""
        return audit_events(self._layout.audit_log)

    def log_tail(self, component: str) -> str:
        """The last lines of a component's log."""
        path = self._layout.log(component)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])

    # Inside

    def _require_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise ControlPlaneError("the control plane is not started")
        return self._supervisor

    def _run(self, component: str, argv: Sequence[str]) -> None:
        # No proxy, no Go setting and no kubeconfig of the user's reaches the servers.
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.directory)}
        self.pids[component] = self._require_supervisor().start(component, argv, self._layout.log(component), env)

    def _wait(self, component: str, state: str, condition: Callable[[], bool]) -> None:
        supervisor = self._require_supervisor()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            for name in self.pids:
                if (code := supervisor.exit_code(name)) is not None:
                    raise ControlPlaneError(f"{name} ended with exit code {code}; its log:\n{self.log_tail(name)}")
            if time.monotonic() > deadline:
                raise ControlPlaneError(
                    f"{component} is not {state} after {START_TIMEOUT_S:.0f} s; its log:\n{self.log_tail(component)}"
                )
            time.sleep(POLL_INTERVAL_S)

    def _serves(self, *paths: str) -> bool:
        try:
            for path in paths:
                self.request("GET", path, timeout_s=5)
        except (OSError, http.client.HTTPException, ApiError):
            return False
        return True

    def _controllers_work(self) -> bool:
        """True once an orphan was collected: the slowest to start, because it first watches each kind of the API."""
        namespace, name = _GARBAGE["metadata"]["namespace"], _GARBAGE["metadata"]["name"]
        try:
            self.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        except ApiError as error:
            default_account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
            return error.code == http.HTTPStatus.NOT_FOUND and self._serves(default_account)
        except (OSError, http.client.HTTPException):
            pass
        return False

    def _write_files(self) -> None:
        layout = self._layout
        self._authority = credentials.Authority.create()
        self._authority.root.write(self.directory, "ca")
        self._authority.server(SERVER_NAMES, [HOST]).write(self.directory, "server")
        signing_key = credentials.private_key_pem(ec.generate_private_key(ec.SECP256R1()))
        credentials.write_private(layout.file("service-account.key"), signing_key)
        admin = self._authority.client("virtplane-test-admin", ["system:masters"])
        self._write_kubeconfig(layout.admin_kubeconfig, "admin", admin)
        self._tls = ssl.create_default_context(cadata=self._authority.root.certificate.decode())
        self._tls.load_cert_chain(*admin.write(self.directory, "admin"))
        controller_manager = self._authority.client("system:kube-controller-manager")
        self._write_kubeconfig(layout.controller_manager_kubeconfig, "kube-controller-manager", controller_manager)
        if self._audit:
            layout.write_audit_policy()

    def _write_kubeconfig(self, path: Path, user: str, credential: credentials.KeyPair | str) -> Path:
        content = credentials.kubeconfig(self.server, self._authority.root.certificate, user, credential)
        return credentials.write_private(path, content.encode())

    def _command(self, argv: list[str], given: str | None, timeout_s: float) -> str:
        # The clients' caches and settings are the control plane's own: none of the user's is read, none is left behind.
        own = {
            "KUBECACHEDIR": "kube-cache",
            "HELM_CACHE_HOME": "helm-cache",
            "HELM_CONFIG_HOME": "helm-config",
            "HELM_DATA_HOME": "helm-data",
        }
        env = os.environ | {name: str(self.directory / folder) for name, folder in own.items()}
        env |= {"KUBERC": "off", "KUBECONFIG": str(self.admin_kubeconfig)}
        done = subprocess.run(
            argv, input=given, capture_output=True, text=True, timeout=timeout_s, check=False, env=env
        )
        if done.returncode != 0:
            raise CommandError(argv, done)
        return done.stdout


def _hold_free_port() -> socket.socket:
    """A socket that owns a free port and never listens.

    The API server shares the port (SO_REUSEPORT); no one else can take it before its start or while it is away.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((HOST, 0))
    return holder


def _file_name(user: str) -> str:
    return "".join(character if character.isalnum() or character in "-." else "_" for character in user)
