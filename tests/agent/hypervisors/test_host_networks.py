"""What a host gives to networks is said as it is now, and written when it changes."""

from dataclasses import replace

import pytest

from tests.agent.doubles import Clock, InMemoryClient
from tests.agent.machines.agent_in_memory import AgentInMemory, in_memory
from tests.agent.objects import HYPERVISOR, hypervisor, tell
from virtplane_agent.hypervisors.pools import PoolProbe
from virtplane_agent.hypervisors.reconcile import HypervisorReconciler
from virtplane_api.host_networks import GivenNetwork
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import HYPERVISORS
from virtplane_api.reconcile import Wait
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import FindsHostNetworks
from virtplane_drivers.network.fake import FakeNetworks
from virtplane_drivers.network.linux.driver import LinuxNetworks

LAN = GivenNetwork("br-lan")
ABSENT = LAN._replace(missing="bridge br-lan does not exist on the host: make it")


class Switch(FakeNetworks):
    """Its host networks come and go."""

    found: tuple[GivenNetwork, ...] | None = (LAN,)

    async def host_networks(self) -> tuple[GivenNetwork, ...]:
        if self.found is None:
            raise Unavailable("the kernel does not say")
        return self.found


def test_a_linux_host_looks_and_a_fake_one_has_nothing_to_look_for() -> None:
    assert issubclass(LinuxNetworks, FindsHostNetworks)
    assert not issubclass(FakeNetworks, FindsHostNetworks)


class Reports:
    """The Hypervisor part of an agent."""

    def __init__(self, client: InMemoryClient, agent: AgentInMemory) -> None:
        self._client = client
        self._informer = Informer(client, HYPERVISORS, lambda _key: None)
        self.switch = Switch()
        endpoint = replace(agent.endpoint, host_networks=(LAN,))
        endpoints = replace(agent.endpoints, hypervisors={HYPERVISOR: endpoint}, networks={"fake": self.switch})
        pools = PoolProbe(agent.pools, endpoints.storage)
        self._reconciler = HypervisorReconciler(client, endpoints, self._informer, pools, agent.networks, agent.strays)
        client.put(HYPERVISORS, hypervisor())

    async def look(self) -> tuple[object, str]:
        """One pass, after the watch has told of all writes: what is said now, and the object's version."""
        tell(self._informer, await self._client.get(HYPERVISORS, HYPERVISOR))
        assert isinstance(await self._reconciler.reconcile(HYPERVISOR), Wait)
        read = await self._client.get(HYPERVISORS, HYPERVISOR)
        return read["status"].get("hostNetworks"), read["metadata"]["resourceVersion"]


@pytest.mark.parametrize("found", [(LAN,), (ABSENT,), ()], ids=["there", "absent", "none"])
async def test_it_is_written_once_and_again_when_it_is_another_one(
    client: InMemoryClient, clock: Clock, found: tuple[GivenNetwork, ...]
) -> None:
    async with in_memory(client, clock) as agent:
        reports = Reports(client, agent)
        reports.switch.found = (GivenNetwork("br-before"),)
        before, first = await reports.look()
        reports.switch.found = found
        said, second = await reports.look()
        assert (before, first != second) == ([{"name": "br-before"}], True)
        assert said == [{"name": "br-lan"} | ({"missing": one.missing} if one.missing else {}) for one in found]
        assert await reports.look() == (said, second)


async def test_where_nobody_knows_what_is_there_all_that_is_given_counts(client: InMemoryClient, clock: Clock) -> None:
    async with in_memory(client, clock) as agent:
        reports = Reports(client, agent)
        reports.switch.found = None
        said, _ = await reports.look()
        assert said == [{"name": "br-lan"}]
