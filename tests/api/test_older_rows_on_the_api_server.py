"""Objects that an older agent wrote, under the schema of now: a copy of the kind, so that nobody else's is changed."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.control_plane import ApiError, ControlPlane
from tests.cluster.kinds import wait_for_kinds
from tests.cluster.waiting import eventually
from virtplane_api.crdgen import crd
from virtplane_api.interfaces import left_behind
from virtplane_api.models import RESOURCES
from virtplane_api.names import AGENT_FIELD_MANAGER, OPERATOR_FIELD_MANAGER

GROUP = "older.virtplane.dev"
PATH = f"/apis/{GROUP}/v1alpha1/namespaces/default/virtualmachines/web"
OLD_ROW = {"name": "lan", "macAddress": "52:54:00:12:34:56", "ipAddresses": ["10.20.0.9"]}
ROW = OLD_ROW | {"networkName": "shop-lan", "networkUID": "0f5cbe2a-4f63-4b2e-8a3e-0c5d4f9f1a11"}


def kind(*, older: bool) -> dict[str, Any]:
    made = copy.deepcopy(crd(next(one for one in RESOURCES if one.kind == "VirtualMachine")))
    made["metadata"] = {"name": f"virtualmachines.{GROUP}"}
    made["spec"] |= {"group": GROUP}
    made["spec"]["names"] = {"kind": "VirtualMachine", "plural": "virtualmachines"}
    if older:
        schema = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        rows = schema["properties"]["status"]["properties"]["interfaces"]
        rows |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        rows["items"]["required"] = ["name", "macAddress"]
        for field in ("networkName", "networkUID", "bandwidth"):
            del rows["items"]["properties"][field]
    return made


@pytest.fixture
def older(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Serves the kind as it was, until a test changes that."""
    control_plane.kubectl("apply", "-f", "-", input=json.dumps(kind(older=True)))
    wait_for_kinds(control_plane.kubectl, GROUP)
    eventually(lambda: GROUP in control_plane.kubectl("api-versions"))
    yield control_plane
    control_plane.kubectl("delete", "crd", f"virtualmachines.{GROUP}")


def apply_as(server: ControlPlane, manager: str, subresource: str = "", *, more: str = "", **fields: Any) -> Any:
    """A server-side apply."""
    body = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "VirtualMachine", "metadata": {"name": "web"}} | fields
    path = f"{PATH}{subresource}?fieldManager={manager}&force=true{more}"
    return json.loads(server.request("PATCH", path, body, content_type="application/apply-patch+yaml"))


def knows_networks(server: ControlPlane) -> bool:
    """Whether the API server takes the schema of now: it goes on with the one of before for a moment."""
    said = {"observedGeneration": 1, "interfaces": [ROW]}
    try:
        written = apply_as(server, AGENT_FIELD_MANAGER, "/status", more="&dryRun=All", status=said)
    except ApiError as refused:
        if "field not declared in schema" not in str(refused):
            raise
        return False
    return bool(written["status"]["interfaces"] == [ROW])


def test_a_machine_whose_rows_are_of_an_older_agent_is_written_by_all_who_write_it(older: ControlPlane) -> None:
    spec = {"powerState": "Running", "cpu": {"cores": 1}, "memory": {"size": "64Mi"}}
    apply_as(older, "user", spec=spec)
    apply_as(older, AGENT_FIELD_MANAGER, "/status", status={"observedGeneration": 1, "interfaces": [OLD_ROW]})
    assert not knows_networks(older)
    older.kubectl("apply", "-f", "-", input=json.dumps(kind(older=False)))
    eventually(lambda: knows_networks(older))
    read = json.loads(older.request("GET", PATH))
    assert read["status"]["interfaces"] == [OLD_ROW]
    assert left_behind({}, read["status"]["interfaces"]) == []
    apply_as(older, OPERATOR_FIELD_MANAGER, "/status", status={"placement": {"token": 1}})
    apply_as(older, "user", spec=spec | {"powerState": "Stopped"})
    older.kubectl("annotate", f"virtualmachines.{GROUP}", "web", "note=kept")
    written = apply_as(older, AGENT_FIELD_MANAGER, "/status", status={"observedGeneration": 2, "interfaces": [ROW]})
    assert (written["status"]["interfaces"], written["status"]["placement"]) == ([ROW], {"token": 1})
