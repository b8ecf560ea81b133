"""Kubeconfigs for Virtplane's parts on any cluster, made as an administrator makes them: the operator's token by
TokenRequest, an agent's client certificate by a CertificateSigningRequest that is approved.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cluster.credentials import private_key_pem, write_private

AGENT_GROUP = "virtplane:agents"


class Identities:
    """Made with one `kubectl` call after the other, as its user; files go to `folder`."""

    def __init__(self, kubectl: Callable[..., str], folder: Path, system_namespace: str) -> None:
        self._kubectl = kubectl
        self._folder = folder
        self._system_namespace = system_namespace

    def operator_kubeconfig(self) -> Path:
        """Of the ServiceAccount virtplane-operator, for a day."""
        namespace = self._system_namespace
        token = self._kubectl("create", "token", "virtplane-operator", "-n", namespace, "--duration=24h").strip()
        return self._write("operator", {"token": token})

    def agent_kubeconfig(self, name: str) -> Path:
        """Of the user virtplane:agent:<name> in the group virtplane:agents."""
        path = self._folder / f"{name}.kubeconfig"
        if path.exists():
            return path
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(f"virtplane-agent-{name}", f"virtplane:agent:{name}", key)
        credential = {
            "client-certificate-data": certificate,
            "client-key-data": base64.b64encode(private_key_pem(key)).decode(),
        }
        return self._write(name, credential)

    def _signed(self, request_name: str, user: str, key: ec.EllipticCurvePrivateKey) -> str:
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, AGENT_GROUP),
                x509.NameAttribute(NameOID.COMMON_NAME, user),
            ]
        )
        signing = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        pem = signing.public_bytes(serialization.Encoding.PEM)
        request = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": request_name},
            "spec": {
                "request": base64.b64encode(pem).decode(),
                "signerName": "kubernetes.io/kube-apiserver-client",
                "usages": ["client auth"],
            },
        }
        self._kubectl("delete", "csr", request_name, "--ignore-not-found")
        self._kubectl("create", "-f", "-", input=json.dumps(request))
        self._kubectl("certificate", "approve", request_name)
        self._kubectl("wait", "--for=jsonpath={.status.certificate}", f"csr/{request_name}", "--timeout=30s")
        signed = self._kubectl("get", "csr", request_name, "-o", "jsonpath={.status.certificate}")
        self._kubectl("delete", "csr", request_name)
        return signed

    def _write(self, name: str, credential: dict[str, Any]) -> Path:
        config = json.loads(self._kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        context = {"name": "virtplane", "context": {"cluster": config["clusters"][0]["name"], "user": name}}
        own = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": config["clusters"],
            "users": [{"name": name, "user": credential}],
            "contexts": [context],
            "current-context": "virtplane",
        }
        return write_private(self._folder / f"{name}.kubeconfig", yaml.safe_dump(own).encode())
