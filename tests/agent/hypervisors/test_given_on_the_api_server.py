"""What a host gives to networks, as an agent writes it on the real API server."""

from ipaddress import ip_network

from tests.cluster.control_plane import ControlPlane
from virtplane_agent.hypervisors.status import OWNED, OWNED_CONDITIONS, hypervisor_status
from virtplane_api.host_networks import GivenNetwork, IpNetwork, VlanRange
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.conditions import differs
from virtplane_api.kube.resources import HYPERVISORS
from virtplane_api.names import AGENT_FIELD_MANAGER, AGENT_GROUP, AGENT_USER_PREFIX
from virtplane_drivers.hypervisor.contract import Facts

AGENT, NAME = "host-giver", "host-giver-qemu"
FACTS = Facts("7.2.22", 16, 65536, 61440, frozenset(), frozenset())
Given = tuple[GivenNetwork, ...] | None
Routed = tuple[IpNetwork, ...] | None
LAN, TAGGED = GivenNetwork("br-lan"), GivenNetwork("br-dmz", VlanRange(100, 199))
V4, V6 = ip_network("10.22.0.0/16"), ip_network("fd00:22::/48")


async def test_what_is_given_comes_and_goes_each_in_one_write_and_there_is_none_at_rest(
    installed: ControlPlane,
) -> None:
    kubeconfig = installed.client_kubeconfig(f"{AGENT_USER_PREFIX}{AGENT}", [AGENT_GROUP])
    made = {"apiVersion": HYPERVISORS.api_version, "kind": "Hypervisor", "metadata": {"name": NAME}}
    made["spec"] = {"driver": "qemu", "agentName": AGENT}
    # Restarts of the agent under other flags, and one of an agent that does not say what it gives.
    flags: list[tuple[Given, Routed]] = [
        ((LAN, TAGGED), (V4, V6)),
        ((LAN._replace(missing="bridge br-lan does not exist on the host"), TAGGED), (V4, V6)),
        ((TAGGED,), ()),
        ((), (V6,)),
        (None, None),
        ((), ()),
    ]
    async with KubeClient.connect(kubeconfig) as client:
        read = await client.create(HYPERVISORS, made, field_manager=AGENT_FIELD_MANAGER)
        try:
            for given, routed in flags:
                status = hypervisor_status(
                    read, FACTS, agent_version="0.1.0", pool_types=(), pools=(), network_modes=(), networks=(),
                    orphans=(), host_networks=given, routed=routed,
                )  # fmt: skip
                assert differs(read, status, owned=OWNED, owned_conditions=OWNED_CONDITIONS)
                await client.apply_status(HYPERVISORS, read, status, field_manager=AGENT_FIELD_MANAGER)
                read = await client.get(HYPERVISORS, NAME)
                assert not differs(read, status, owned=OWNED, owned_conditions=OWNED_CONDITIONS)
                assert [field in read["status"] for field in ("hostNetworks", "routedCIDRs")] == [given is not None] * 2
        finally:
            installed.kubectl("delete", "vphv", NAME)
