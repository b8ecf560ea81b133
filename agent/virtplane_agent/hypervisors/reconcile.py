"""One pass over one Hypervisor of this agent: look, and report what differs."""

import logging

from virtplane_agent import __version__
from virtplane_agent.endpoints import Endpoint, Endpoints
from virtplane_agent.hypervisors.pools import PoolProbe
from virtplane_agent.hypervisors.status import OWNED, OWNED_CONDITIONS, hypervisor_status
from virtplane_agent.machines.strays import Strays
from virtplane_agent.networks.serving import Networks
from virtplane_api.host_networks import GivenNetwork
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs
from virtplane_api.kube.errors import AlreadyExists
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import HYPERVISORS, Key
from virtplane_api.names import AGENT_FIELD_MANAGER
from virtplane_api.reconcile import Done, Outcome, Wait
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import FindsHostNetworks

_log = logging.getLogger(__name__)

PROBE_EVERY_S = 60.0


class NameTaken(Exception):
    """A Hypervisor of our name belongs to another agent."""


class HypervisorReconciler:
    """Passes over this agent's Hypervisors by name."""

    def __init__(
        self,
        client: KubeClient,
        endpoints: Endpoints,
        hypervisors: Informer,
        pools: PoolProbe,
        networks: Networks,
        strays: Strays,
    ) -> None:
        self._client = client
        self._endpoints = endpoints
        self._hypervisors = hypervisors
        self._pools = pools
        self._networks = networks
        self._strays = strays

    async def reconcile(self, name: str) -> Outcome:
        """Write the status if it differs, and look at the pools again in a minute."""
        hypervisor, endpoint = self._hypervisors.objects.get(Key("", name)), self._endpoints.hypervisors.get(name)
        if hypervisor is None or endpoint is None:
            return Done()
        status = hypervisor_status(
            hypervisor,
            endpoint.facts,
            agent_version=__version__,
            pool_types=endpoint.pool_types,
            pools=await self._pools.reports(hypervisor, endpoint),
            network_modes=[mode.value for mode in endpoint.network_modes],
            underlay=endpoint.underlay,
            host_networks=await self._host_networks(endpoint),
            routed=endpoint.routed,
            networks=self._networks.reports(hypervisor, endpoint),
            orphans=self._strays.orphans(name),
        )
        if differs(hypervisor, status, owned=OWNED, owned_conditions=OWNED_CONDITIONS):
            await self._client.apply_status(HYPERVISORS, hypervisor, status, field_manager=AGENT_FIELD_MANAGER)
        return Wait(PROBE_EVERY_S, "probe the pools again")

    async def _host_networks(self, endpoint: Endpoint) -> tuple[GivenNetwork, ...] | None:
        """What is given as it is now, where the driver looks."""
        driver = self._endpoints.networks.get(endpoint.network_modes.get(NetworkMode.BRIDGE, ""))
        if not isinstance(driver, FindsHostNetworks):
            return endpoint.host_networks
        try:
            return await driver.host_networks()
        except Unavailable as error:
            _log.warning("%s: %s", endpoint.name, error)
            return endpoint.host_networks


async def register(client: KubeClient, agent_name: str, endpoint: Endpoint) -> None:
    """Make the Hypervisor of one of our drivers, once; what a person changed in it since then stays.

    Raises:
        NameTaken: it exists and is another agent's.
        ApiError: no answer, or a refusal.
    """
    hypervisor = {
        "apiVersion": HYPERVISORS.api_version,
        "kind": HYPERVISORS.kind,
        "metadata": {"name": endpoint.name},
        "spec": {"driver": endpoint.driver.name, "agentName": agent_name},
    }
    try:
        await client.create(HYPERVISORS, hypervisor, field_manager=AGENT_FIELD_MANAGER)
    except AlreadyExists:
        existing = await client.get(HYPERVISORS, endpoint.name)
        owner = existing["spec"]["agentName"]
        if owner != agent_name:
            message = f"Hypervisor {endpoint.name} belongs to agent {owner}; start this agent under another --name"
            raise NameTaken(message) from None
