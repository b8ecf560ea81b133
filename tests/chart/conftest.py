"""Objects on the real API server, and the identities that try to write them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.control_plane import ControlPlane
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.resources import ACTIONS, HYPERVISORS, NETWORKS, VIRTUAL_MACHINES, VOLUMES, Object, Resource
from virtplane_api.names import AGENT_FIELD_MANAGER, AGENT_GROUP, AGENT_USER_PREFIX, OPERATOR_FIELD_MANAGER

SYSTEM_NAMESPACE = "virtplane-system"


class Cluster:
    """Clients of the parts, and objects that are taken away again with their finalizers."""

    def __init__(self, control_plane: ControlPlane, namespace: str, stack: AsyncExitStack) -> None:
        self.control_plane = control_plane
        self.namespace = namespace
        self._stack = stack
        self._made: list[tuple[Resource, str]] = []

    async def agent(self, name: str) -> KubeClient:
        """The agent of that name."""
        return await self.user(f"{AGENT_USER_PREFIX}{name}", AGENT_GROUP)

    async def user(self, name: str, *groups: str) -> KubeClient:
        """Anyone, by client certificate."""
        return await self._connect(str(self.control_plane.client_kubeconfig(name, groups)))

    async def operator(self) -> KubeClient:
        """The operator's ServiceAccount."""
        return await self._connect(
            str(self.control_plane.service_account_kubeconfig(SYSTEM_NAMESPACE, "virtplane-operator"))
        )

    async def admin(self) -> KubeClient:
        """Who may do everything."""
        return await self._connect(str(self.control_plane.admin_kubeconfig))

    async def _connect(self, kubeconfig: str) -> KubeClient:
        return await self._stack.enter_async_context(KubeClient.connect(Path(kubeconfig)))

    async def machine(self, name: str = "web", *, agent: str = "") -> Object:
        """A VirtualMachine, placed on an agent where one is named."""
        spec = {"powerState": "Running", "cpu": {"cores": 1}, "memory": {"size": "64Mi"}}
        return await self._make(VIRTUAL_MACHINES, name, spec, agent)

    async def volume(self, name: str = "data", *, agent: str = "") -> Object:
        """A Volume, placed on an agent where one is named."""
        return await self._make(VOLUMES, name, {"size": "1Gi"}, agent)

    async def network(self, name: str = "lan") -> Object:
        """A VirtualNetwork of mode NAT."""
        return await self._make(NETWORKS, name, {"mode": "NAT", "ipv4": {"cidr": "10.20.0.0/24"}}, "")

    async def action(self, name: str = "reset-1", *, agent: str = "") -> Object:
        """A reset of the machine `web`, given to an agent where one is named."""
        made = await self._make(ACTIONS, name, {"vmName": "web", "type": "Reset"}, "")
        if not agent:
            return made
        placement = {"hypervisor": f"{agent}-qemu", "agentName": agent, "vmUID": "1"}
        return await (await self.operator()).apply_status(
            ACTIONS, made, {"placement": placement}, field_manager=OPERATOR_FIELD_MANAGER
        )

    async def _make(self, resource: Resource, name: str, spec: dict[str, Any], agent: str) -> Object:
        obj = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }
        made = await (await self.admin()).create(resource, obj, field_manager="user")
        self._made.append((resource, name))
        if not agent:
            return made
        placement = {"hypervisor": f"{agent}-qemu", "agentName": agent, "token": 1}
        return await (await self.operator()).apply_status(
            resource, made, {"placement": placement}, field_manager=OPERATOR_FIELD_MANAGER
        )

    async def hypervisor(self, agent: str) -> Object:
        """A Hypervisor that its agent made."""
        obj = {
            "apiVersion": HYPERVISORS.api_version,
            "kind": HYPERVISORS.kind,
            "metadata": {"name": f"{agent}-qemu"},
            "spec": {"driver": "qemu", "agentName": agent},
        }
        client = await self.agent(agent)
        return await client.create(HYPERVISORS, obj, field_manager=AGENT_FIELD_MANAGER)

    def clean_up(self) -> None:
        """Nobody runs who would care for the finalizers."""
        for resource, name in self._made:
            path = resource.path(self.namespace, name)
            self.control_plane.request(
                "PATCH", path, {"metadata": {"finalizers": None}}, content_type="application/merge-patch+json"
            )
        self.control_plane.kubectl("delete", "vphv", "--all", "--wait=false")


@pytest.fixture
async def cluster(installed: ControlPlane, namespace: str) -> AsyncIterator[Cluster]:
    """The installed chart, as its users meet it."""
    async with AsyncExitStack() as stack:
        cluster = Cluster(installed, namespace, stack)
        yield cluster
        cluster.clean_up()


@pytest.fixture(scope="session")
def rendered(control_plane: ControlPlane) -> list[Object]:
    """All objects of the chart."""
    text = control_plane.helm("template", "virtplane", "helm/virtplane", "-n", SYSTEM_NAMESPACE)
    return [obj for obj in yaml.safe_load_all(text) if obj]
