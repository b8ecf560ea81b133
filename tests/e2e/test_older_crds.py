"""Operator and agent that are newer than the chart, in a control plane of their own, until it is upgraded."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus

import pytest

from tests.cluster.control_plane import ApiError, ControlPlane
from tests.cluster.identities import Identities
from tests.cluster.kinds import wait_for_kinds
from tests.cluster.system import OPERATOR, SYSTEM_NAMESPACE, System
from tests.cluster.waiting import eventually
from tests.conftest import CHART
from virtplane_api.kube.older_schemas import UPGRADE_COMMAND
from virtplane_api.kube.resources import NETWORKS

AGENT = "newer"
HYPERVISOR = f"{AGENT}-fake"
NETWORK = {
    "apiVersion": "virtplane.dev/v1alpha1",
    "kind": "VirtualNetwork",
    "metadata": {"name": "lan", "namespace": "default"},
    "spec": {"mode": "NAT", "ipv4": {"cidr": "10.20.0.0/24"}},
}
SAID = "the CRDs in the cluster are older than this program: "


def without(crd: str, field: str) -> str:
    """A CRD of the chart before the field of its status was."""
    older, cut = re.subn(rf"^( +){field}:\n(?:\1 +.*\n)+", "", crd, flags=re.MULTILINE)
    assert cut == 1
    return older


def takes_networks(server: ControlPlane) -> bool:
    """Whether the API server can make one: an established kind is not served by all of it at once."""
    try:
        server.request("POST", f"{NETWORKS.path('default')}?dryRun=All", NETWORK)
    except ApiError as refused:
        if refused.code not in (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE):
            raise
        return False
    return True


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with a chart that has neither agentVersion of a Hypervisor nor hypervisorCount of a network."""
    chart = tmp_path_factory.mktemp("older") / "virtplane"
    shutil.copytree(CHART, chart)
    for name, field in (("hypervisors", "agentVersion"), ("virtualnetworks", "hypervisorCount")):
        crd = chart / "templates" / "crds" / f"{name}.yaml"
        crd.write_text(without(crd.read_text(), field))
    with ControlPlane(audit=True) as running:
        running.helm("install", "virtplane", str(chart), "-n", SYSTEM_NAMESPACE, "--create-namespace")
        wait_for_kinds(running.kubectl)
        eventually(lambda: takes_networks(running))
        yield running


@pytest.fixture
def system(older: ControlPlane) -> Iterator[System]:
    with System(lambda folder: Identities(older.kubectl, folder, SYSTEM_NAMESPACE)) as running:
        running.start_operator()
        running.start_agent(AGENT, ["fake"])
        yield running


def lines(system: System, part: str) -> list[str]:
    return [line for line in system.log(part).splitlines() if SAID in line]


def refusals(server: ControlPlane, name: str) -> int:
    """How many writes of the object's status ended in 500."""
    return sum(
        event["responseStatus"]["code"] == 500
        and event["objectRef"].get("name") == name
        and event["objectRef"].get("subresource") == "status"
        for event in server.audit_events()
        if "objectRef" in event
    )


def is_tried_again(server: ControlPlane, name: str, tries: int) -> bool:
    return refusals(server, name) > tries


@pytest.mark.control_plane
def test_programs_newer_than_the_crds_go_on_trying_and_say_once_what_to_run(
    older: ControlPlane, system: System
) -> None:
    older.kubectl("apply", "-f", "-", input=json.dumps(NETWORK))
    parts = {OPERATOR: "lan", AGENT: HYPERVISOR}
    eventually(lambda: all(lines(system, part) for part in parts), 40)
    assert "Hypervisor has no status.agentVersion." in lines(system, AGENT)[0]
    assert "VirtualNetwork has no status.hypervisorCount." in lines(system, OPERATOR)[0]
    for part, name in parts.items():
        tries = refusals(older, name)
        # With the backoff it is 4 in the first 4 s; watches and the first lists may each cause one more.
        assert 2 <= tries <= 10, (part, tries)
        # The backoff may have come to 32 s.
        eventually(partial(is_tried_again, older, name, tries), 60)
        assert (system.exit_code(part), len(lines(system, part))) == (None, 1)
        assert "Traceback" not in system.log(part)

    # As it stands in the line, from the repository.
    [command] = {line.rpartition("): ")[2] for part in parts for line in lines(system, part)}
    assert command == UPGRADE_COMMAND
    assert CHART.samefile("helm/virtplane")
    older.helm(*shlex.split(command)[1:])

    def status(kind: str, *where: str) -> dict[str, object]:
        read: dict[str, object] = json.loads(older.kubectl("get", kind, *where, "-o", "json"))["status"]
        return read

    eventually(lambda: "agentVersion" in status("vphv", HYPERVISOR), 60)
    eventually(lambda: status("vpnet", "lan", "-n", "default").get("hypervisorCount") == 0, 60)
    assert [len(lines(system, part)) for part in parts] == [1, 1]
