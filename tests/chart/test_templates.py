"""The chart as text: what helm renders, and what it refuses."""

import re

import pytest

from tests.cluster.control_plane import CommandError, ControlPlane
from virtplane_api.kube.resources import Object

KINDS = ("hypervisors", "storagepools", "virtualmachineactions", "virtualmachines", "virtualnetworks", "volumes")
RECOMMENDED = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"}


def test_the_kinds_and_with_them_all_machines_survive_an_uninstallation(rendered: list[Object]) -> None:
    crds = [obj for obj in rendered if obj["kind"] == "CustomResourceDefinition"]
    assert sorted(crd["spec"]["names"]["plural"] for crd in crds) == sorted(KINDS)
    assert all(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for crd in crds)


def test_no_role_has_a_wildcard(rendered: list[Object]) -> None:
    for role in (obj for obj in rendered if obj["kind"] in ("Role", "ClusterRole")):
        for rule in role["rules"]:
            assert not {"*"} & {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}, role["metadata"]["name"]


def test_everything_carries_the_recommended_labels(rendered: list[Object]) -> None:
    for obj in rendered:
        if obj["kind"] != "CustomResourceDefinition":
            assert set(obj["metadata"]["labels"]) >= RECOMMENDED, obj["metadata"]["name"]


def test_no_policy_for_finalizers_where_the_api_server_has_none(control_plane: ControlPlane) -> None:
    def render(*versions: str) -> str:
        flags = [word for version in versions for word in ("--api-versions", version)]
        return control_plane.helm("template", "virtplane", "helm/virtplane", "--kube-version", "1.31.0", *flags)

    assert "kind: MutatingAdmissionPolicy\n" not in render()
    with_policy = render("admissionregistration.k8s.io/v1/MutatingAdmissionPolicy")
    assert "kind: MutatingAdmissionPolicy\n" in with_policy


def test_a_value_that_does_not_exist_is_refused_by_its_name(control_plane: ControlPlane) -> None:
    with pytest.raises(CommandError) as refused:
        control_plane.helm("template", "virtplane", "helm/virtplane", "--set", "operator.replicas=2")
    assert re.search("replicas", refused.value.stderr)
