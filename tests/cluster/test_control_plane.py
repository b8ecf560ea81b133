"""The control plane does what tests of the rest rely on."""

import base64
import json

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cluster.api_requests import RequestKind
from tests.cluster.control_plane import ApiError, CommandError, ControlPlane
from tests.cluster.kinds import wait_for_kinds
from tests.cluster.waiting import eventually

WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.test.virtplane.dev"},
    "spec": {
        "group": "test.virtplane.dev",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "properties": {"color": {"type": "string"}}}},
                    }
                },
            }
        ],
    },
}


def exists(control_plane: ControlPlane, path: str) -> bool:
    try:
        control_plane.request("GET", path)
    except ApiError as error:
        if error.code != 404:
            raise
        return False
    return True


@pytest.fixture(scope="module")
def widgets(control_plane: ControlPlane) -> ControlPlane:
    control_plane.kubectl("apply", "-f", "-", input=json.dumps(WIDGETS))
    wait_for_kinds(control_plane.kubectl, "test.virtplane.dev")
    return control_plane


def widget(name: str, color: str) -> str:
    return json.dumps(
        {
            "apiVersion": "test.virtplane.dev/v1",
            "kind": "Widget",
            "metadata": {"name": name},
            "spec": {"color": color},
        }
    )


def test_custom_kinds_are_selected_by_a_field_of_theirs(widgets: ControlPlane, namespace: str) -> None:
    for name, color in [("apple", "red"), ("pear", "green")]:
        widgets.kubectl("create", "-n", namespace, "-f", "-", input=widget(name, color))
    selected = widgets.kubectl("get", "widgets", "-n", namespace, "--field-selector=spec.color=green", "-o", "name")
    assert selected.split() == ["widget.test.virtplane.dev/pear"]


def test_a_refused_command_raises_with_the_words_of_the_api_server(control_plane: ControlPlane) -> None:
    with pytest.raises(CommandError, match='namespaces "never-was" not found'):
        control_plane.kubectl("get", "namespace", "never-was")


def test_a_client_certificate_carries_user_and_groups_and_no_rights(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.client_kubeconfig("virtplane:agent:host-a", ["virtplane:agents"])
    seen = json.loads(control_plane.kubectl("auth", "whoami", "-o", "json", "--kubeconfig", str(kubeconfig)))
    assert seen["status"]["userInfo"]["username"] == "virtplane:agent:host-a"
    assert set(seen["status"]["userInfo"]["groups"]) == {"virtplane:agents", "system:authenticated"}
    with pytest.raises(CommandError, match="Forbidden"):
        control_plane.kubectl("get", "secrets", "-A", "--kubeconfig", str(kubeconfig))


def test_a_service_account_token_is_accepted_as_that_account(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "serviceaccount", "robot", "-n", namespace)
    kubeconfig = control_plane.service_account_kubeconfig(namespace, "robot")
    seen = json.loads(control_plane.kubectl("auth", "whoami", "-o", "json", "--kubeconfig", str(kubeconfig)))
    assert seen["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:robot"


def test_an_approved_signing_request_yields_a_certificate_that_logs_in(control_plane: ControlPlane) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "virtplane:agent:joined")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    manifest = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "joined"},
        "spec": {
            "request": base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
        },
    }
    control_plane.kubectl("create", "-f", "-", input=json.dumps(manifest))
    control_plane.kubectl("certificate", "approve", "joined")
    control_plane.kubectl("wait", "--for=jsonpath={.status.certificate}", "csr/joined", "--timeout=20s")
    signed = control_plane.kubectl("get", "csr", "joined", "-o", "jsonpath={.status.certificate}")

    kubeconfig = control_plane.client_kubeconfig("replaced")
    config = yaml.safe_load(kubeconfig.read_text())
    config["users"][0]["user"] = {
        "client-certificate-data": signed,
        "client-key-data": base64.b64encode(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        ).decode(),
    }
    kubeconfig.write_text(yaml.safe_dump(config))
    seen = control_plane.kubectl("auth", "whoami", "--kubeconfig", str(kubeconfig))
    assert "virtplane:agent:joined" in seen


def test_an_object_whose_owner_is_gone_is_collected(control_plane: ControlPlane, namespace: str) -> None:
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    owner = json.loads(control_plane.request("POST", maps, {"metadata": {"name": "owner"}}))["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    control_plane.request("POST", maps, {"metadata": {"name": "owned", "ownerReferences": [reference]}})
    control_plane.request("DELETE", f"{maps}/owner")
    eventually(lambda: not exists(control_plane, f"{maps}/owned"))


def test_a_new_kind_is_collected_at_once_after_the_controllers_were_restarted(
    widgets: ControlPlane, namespace: str
) -> None:
    widgets.restart_controller_manager()
    owner = json.loads(
        widgets.kubectl("create", "-n", namespace, "-o", "json", "-f", "-", input=widget("owner", "red"))
    )["metadata"]
    reference = {"apiVersion": "test.virtplane.dev/v1", "kind": "Widget", "name": "owner", "uid": owner["uid"]}
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    widgets.request("POST", maps, {"metadata": {"name": "owned", "ownerReferences": [reference]}})
    widgets.kubectl("delete", "widget", "owner", "-n", namespace)
    eventually(lambda: not exists(widgets, f"{maps}/owned"), timeout_s=10)


def test_a_deleted_namespace_really_ends(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "short-lived")
    control_plane.kubectl("create", "configmap", "inside", "-n", "short-lived")
    control_plane.kubectl("delete", "namespace", "short-lived", "--wait=false")
    eventually(lambda: not exists(control_plane, "/api/v1/namespaces/short-lived"), timeout_s=30)


def test_requests_are_counted_by_verb_resource_and_code(control_plane: ControlPlane, namespace: str) -> None:
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
    before = control_plane.requests_total()
    control_plane.request("POST", leases, {"metadata": {"name": "counted"}})
    with pytest.raises(ApiError):
        control_plane.request("POST", leases, {"metadata": {"name": "counted"}})
    control_plane.request(
        "PATCH",
        f"{leases}/counted?fieldManager=test&force=true",
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "counted"},
            "spec": {"holderIdentity": "me"},
        },
        content_type="application/apply-patch+yaml",
    )
    control_plane.request("POST", f"{leases}?dryRun=All", {"metadata": {"name": "not-counted"}})
    happened = control_plane.requests_total() - before
    # Not GET, LIST and DELETE: the namespace controller empties the namespaces of earlier tests meanwhile.
    verbs = ("POST", "PUT", "PATCH", "APPLY")
    ours = {kind: count for kind, count in happened.items() if kind.resource == "leases" and kind.verb in verbs}
    group = "coordination.k8s.io"
    assert ours == {
        RequestKind("POST", group, "leases", "", 201): 1,
        RequestKind("POST", group, "leases", "", 409): 1,
        RequestKind("APPLY", group, "leases", "", 200): 1,
    }


def test_the_audit_log_says_who_wrote_what(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.request(
        "POST", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", {"metadata": {"name": "seen"}}
    )
    control_plane.request("POST", f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "unseen"}})

    def writes() -> list[tuple[str, str, str, int]]:
        return [
            (event["user"]["username"], event["verb"], event["objectRef"]["name"], event["responseStatus"]["code"])
            for event in control_plane.audit_events()
            if event["objectRef"].get("namespace") == namespace and event["verb"] == "create"
        ]

    eventually(lambda: writes() == [("virtplane-test-admin", "create", "seen", 201)])
