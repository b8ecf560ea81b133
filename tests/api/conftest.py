"""The kinds on a real API server."""

from collections.abc import Iterator

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.kinds import wait_for_kinds
from tests.cluster.namespaces import kinds_are_read, nobody_serves
from tests.cluster.waiting import eventually
from virtplane_api.crdgen import crd
from virtplane_api.models import RESOURCES


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with nothing of ours but the kinds."""
    everything = "---\n".join(yaml.safe_dump(crd(resource)) for resource in RESOURCES)
    control_plane.kubectl("apply", "-f", "-", input=everything)
    wait_for_kinds(control_plane.kubectl)
    # Discovery learns new kinds a moment after they are established.
    eventually(lambda: "vpvm" in control_plane.kubectl("api-resources", "--api-group=virtplane.dev"))
    eventually(lambda: kinds_are_read(control_plane))
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    """Without an operator: what the chart puts on new objects, if it was installed before, is taken off them."""
    yield namespace
    nobody_serves(control_plane, namespace)
