"""Fixtures for every folder: one control plane for the session, the chart installed in it, a namespace per test."""

import http
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.cluster.control_plane import ApiError, ControlPlane
from tests.cluster.kinds import wait_for_kinds
from tests.cluster.namespaces import fresh_namespace, kinds_are_read
from tests.cluster.waiting import eventually

CHART = Path(__file__).parents[1] / "helm" / "virtplane"
SYSTEM_NAMESPACE = "virtplane-system"
FINALIZER = "virtplane.dev/host-state"
CONTROL_PLANE_FIXTURES = {"binaries", "control_plane", "installed", "namespace"}


def pytest_configure() -> None:
    """A shell without job control ignores Ctrl-C for what it runs in the background, and so would all our children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the control plane by what it asks for, so that `-m "not control_plane"` is always right."""
    for item in items:
        if CONTROL_PLANE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.control_plane)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds missing programs before the first test: inside one, the silent minutes would count against its timeout."""
    wanted = any(item.get_closest_marker("control_plane") for item in session.items)
    if wanted and not session.config.option.collectonly:
        capture = session.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            try:
                binaries.ensure(lambda line: print(line, flush=True))
            except binaries.BuildError as failure:
                raise pytest.UsageError(str(failure)) from failure


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One real control plane, with an audit log, for all tests that leave it as they find it."""
    with ControlPlane(audit=True) as running:
        yield running


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with the chart in it: kinds, roles, policies. No operator and no agent run."""
    # Tests of the kinds alone have put them there already, without Helm.
    how = ("--create-namespace", "--take-ownership")
    control_plane.helm("install", "virtplane", str(CHART), "-n", SYSTEM_NAMESPACE, *how)
    wait_for_kinds(control_plane.kubectl)
    control_plane.restart_controller_manager()
    eventually(lambda: kinds_are_read(control_plane))
    eventually(lambda: FINALIZER in _finalizers_given_at_creation(control_plane))
    return control_plane


def _finalizers_given_at_creation(control_plane: ControlPlane) -> list[str]:
    """What the chart's MutatingAdmissionPolicy adds: the API server takes up new policies once a second."""
    machine = {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": "probe"},
        "spec": {"powerState": "Stopped", "cpu": {"cores": 1}, "memory": {"size": "64Mi"}},
    }
    path = "/apis/virtplane.dev/v1alpha1/namespaces/default/virtualmachines?dryRun=All"
    try:
        created = json.loads(control_plane.request("POST", path, machine))
    except ApiError as error:
        if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        return []  # a kind that is a second old is read already, and not yet written
    return list(created["metadata"].get("finalizers", ()))


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace, removed after the test."""
    with fresh_namespace(control_plane) as name:
        yield name
