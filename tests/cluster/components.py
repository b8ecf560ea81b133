"""The command lines of the control plane's processes, and the files they share.

Everything listens on loopback or on a socket inside the folder. Authorization is RBAC, users are client certificates
and service account tokens. The ServiceAccount admission plug-in is off: nothing here runs pods, and with it each pod
would wait for its account.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.binaries import Binaries

HOST = "127.0.0.1"
SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc"
SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")

CONTROLLERS = (
    "certificatesigningrequest-signing-controller",
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
)

AUDITED_GROUPS = ("virtplane.dev", "coordination.k8s.io", "events.k8s.io")
AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "Metadata", "resources": [{"group": group} for group in AUDITED_GROUPS]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["events"]}]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class Layout:
    """Where the control plane keeps its files and listens."""

    directory: Path
    port: int

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{HOST}:{self.port}"

    @property
    def etcd_socket(self) -> str:
        """etcd's URL: a socket in a private folder, for etcd asks no one who they are."""
        return f"unix://{self.directory}/etcd.sock"

    @property
    def admin_kubeconfig(self) -> Path:
        """Credentials of a member of system:masters."""
        return self.directory / "admin.kubeconfig"

    @property
    def controller_manager_kubeconfig(self) -> Path:
        """Credentials of system:kube-controller-manager."""
        return self.directory / "kube-controller-manager.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON object a line, when auditing is on."""
        return self.directory / "audit.jsonl"

    @property
    def audit_policy(self) -> Path:
        """`AUDIT_POLICY` as a file."""
        return self.directory / "audit-policy.yaml"

    def log(self, component: str) -> Path:
        """What the component writes to stdout and stderr."""
        return self.directory / f"{component}.log"

    def file(self, name: str) -> Path:
        """A certificate or key."""
        return self.directory / name

    def write_audit_policy(self) -> None:
        """Puts the policy where the API server looks for it."""
        self.audit_policy.write_text(yaml.safe_dump(AUDIT_POLICY), encoding="utf-8")


def etcd_argv(binaries: Binaries, layout: Layout) -> list[str]:
    """etcd, alone, which may lose its data in a power cut."""
    peer = f"unix://{layout.directory}/etcd-peer.sock"
    return [
        str(binaries.etcd),
        f"--data-dir={layout.directory}/etcd",
        "--name=default",
        f"--listen-client-urls={layout.etcd_socket}",
        f"--advertise-client-urls={layout.etcd_socket}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_argv(binaries: Binaries, layout: Layout, *, audit: bool) -> list[str]:
    """kube-apiserver, on the port that the control plane holds for it."""
    argv = [
        str(binaries.kube_apiserver),
        f"--etcd-servers={layout.etcd_socket}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={layout.port}",
        "--permit-port-sharing",  # with the socket that keeps the port from others while the server is away
        "--endpoint-reconciler-type=none",  # it refuses to publish a loopback address
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--tls-cert-file={layout.file('server.crt')}",
        f"--tls-private-key-file={layout.file('server.key')}",
        f"--client-ca-file={layout.file('ca.crt')}",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",
        f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
        f"--service-account-key-file={layout.file('service-account.key')}",
        f"--service-account-signing-key-file={layout.file('service-account.key')}",
        "--allow-privileged=true",
        "--profiling=false",
    ]
    if audit:
        argv += [f"--audit-policy-file={layout.audit_policy}", f"--audit-log-path={layout.audit_log}"]
    return argv


def controller_manager_argv(binaries: Binaries, layout: Layout) -> list[str]:
    """kube-controller-manager with the controllers that objects without pods need."""
    return [
        str(binaries.kube_controller_manager),
        f"--kubeconfig={layout.controller_manager_kubeconfig}",
        f"--authentication-kubeconfig={layout.controller_manager_kubeconfig}",
        f"--authorization-kubeconfig={layout.controller_manager_kubeconfig}",
        f"--controllers={','.join(CONTROLLERS)}",
        f"--cluster-signing-cert-file={layout.file('ca.crt')}",
        f"--cluster-signing-key-file={layout.file('ca.key')}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--secure-port=0",
        # The defaults, 20 and 30, make the end of one namespace take 5 s: it deletes from each kind of the API.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]
