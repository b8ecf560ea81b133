"""An interface whose network the host gives no more, or cannot join now: it is kept while its guest runs, it holds no
other one up, and it is had at no start."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import conditions, network, placed_interface, vm
from virtplane_agent.networks.serving import NetworkKey
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Wait
from virtplane_drivers.errors import Refused, Unavailable

OFFICE = network("office", mode="Bridge", ipv4={"cidr": "10.40.0.0/24"})
LAN, DMZ = network(), network("dmz", ipv4={"cidr": "10.30.0.0/24"})
ETH0 = placed_interface("eth0", OFFICE, "10.40.0.9")
ETH1 = placed_interface("eth1", LAN, "10.20.0.9", mac="52:54:00:00:00:02")
ETH1_MOVED = placed_interface("eth1", DMZ, "10.30.0.9", mac="52:54:00:00:00:02")
WHY = "the host does not give its bridge br-office to networks: --allow-bridge br-office"
NAMED = f"interface eth0 on host-a-fake: {WHY}"


@pytest.fixture
async def uid(agent: AgentInMemory) -> str:
    """A machine that runs with two interfaces."""
    for one in (OFFICE, LAN, DMZ):
        agent.given_network(one)
    uid = agent.given(vm(interfaces=[ETH0, ETH1]))
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    return uid


async def is_looked_at(agent: AgentInMemory, one: Object = OFFICE) -> None:
    await agent.networks.reconcile(NetworkKey("fake", one["metadata"]["uid"]))


async def the_network_is_withdrawn(agent: AgentInMemory) -> None:
    agent.fake_networks.faults.withdrawn["office-uid"] = Refused(WHY, reason=Reason.NETWORK_NOT_ALLOWED)
    await is_looked_at(agent)


async def its_mode_is_withdrawn(agent: AgentInMemory) -> None:
    """As of an agent that was started again without the flag."""
    modes = {mode: driver for mode, driver in agent.endpoint.network_modes.items() if mode != "Bridge"}
    agent.drive(replace(agent.endpoint, network_modes=modes))
    await agent.networks.find_networks()
    await the_network_is_withdrawn(agent)


async def its_vlan_is_withdrawn(agent: AgentInMemory) -> None:
    """As of a kernel that has no VLAN devices any more."""
    agent.fake_networks.faults.withdrawn["office-uid"] = Refused(WHY, reason=Reason.VLAN_NOT_POSSIBLE)
    await is_looked_at(agent)


async def its_firewall_is_not_possible(agent: AgentInMemory) -> None:
    agent.fake_networks.faults.withdrawn["office-uid"] = Refused(WHY, reason=Reason.FIREWALL_NOT_POSSIBLE)
    await is_looked_at(agent)


Withdraw = Callable[[AgentInMemory], Awaitable[None]]
AT_A_START: dict[Withdraw, str] = {
    the_network_is_withdrawn: Reason.NETWORK_NOT_ALLOWED,
    its_mode_is_withdrawn: Reason.NIC_NOT_ATTACHABLE,
    its_vlan_is_withdrawn: Reason.VLAN_NOT_POSSIBLE,
    its_firewall_is_not_possible: Reason.FIREWALL_NOT_POSSIBLE,
}
WITHDRAWN = pytest.mark.parametrize(
    "withdraw",
    [the_network_is_withdrawn, its_mode_is_withdrawn, its_vlan_is_withdrawn],
    ids=["the network", "its mode", "its VLAN"],
)


async def asked(agent: AgentInMemory, *interfaces: Object, eth1: Object | None = None) -> None:
    """The operator's next placement; what the agent reported stays."""
    status = {field: value for field, value in (await agent.status()).items() if field != "placement"}
    machine = vm(interfaces=interfaces, token=2, status=status)
    machine["spec"]["interfaces"] = [
        row | (eth1 or {} if row["name"] == "eth1" else {}) for row in machine["spec"].get("interfaces", ())
    ]
    agent.given(machine)


def has(agent: AgentInMemory, uid: str) -> dict[str, tuple[object, bool]]:
    """What the guest has: the network, and whether the cable is in."""
    nics = agent.world.machines[uid].running_nics
    return {nic.name: (getattr(nic.attachment, "network_uid", ""), nic.link_up) for nic in nics}


async def version(agent: AgentInMemory) -> str:
    """Another one after each write."""
    machine = await agent.client.get(VIRTUAL_MACHINES, "web", "shop")
    return str(machine["metadata"]["resourceVersion"])


async def ready(agent: AgentInMemory) -> tuple[str, str, str]:
    [one] = [one for one in (await agent.status())["conditions"] if one["type"] == "Ready"]
    return one["status"], one["reason"], one.get("message", "")


CHANGES: list[tuple[list[Object], Object, dict[str, tuple[object, bool]]]] = [
    ([ETH0], {}, {}),
    ([ETH0, ETH1_MOVED], {}, {"eth1": ("dmz-uid", True)}),
    ([ETH0, ETH1], {"linkState": "Down"}, {"eth1": ("lan-uid", False)}),
    (
        [ETH0, ETH1, placed_interface("eth2", DMZ, "10.30.0.8", mac="52:54:00:00:00:03")],
        {},
        {"eth1": ("lan-uid", True), "eth2": ("dmz-uid", True)},
    ),
]


@WITHDRAWN
@pytest.mark.parametrize(("now", "eth1", "beside"), CHANGES, ids=["unplugged", "moved", "cable out", "plugged"])
async def test_a_change_of_another_interface_takes_effect(
    agent: AgentInMemory,
    uid: str,
    now: list[Object],
    eth1: Object,
    beside: dict[str, tuple[object, bool]],
    withdraw: Withdraw,
) -> None:
    await withdraw(agent)
    [kept] = [nic for nic in agent.world.machines[uid].running_nics if nic.name == "eth0"]
    await asked(agent, *now, eth1=eth1)
    await agent.look(uid)
    assert has(agent, uid) == {"eth0": ("office-uid", True)} | beside
    assert kept in agent.world.machines[uid].running_nics
    status = await agent.status()
    assert "pendingChanges" not in status
    assert [row["name"] for row in status["interfaces"]] == [row["name"] for row in now]
    assert await ready(agent) == ("True", "Running", NAMED)
    agent.hypervisor.verbs_since()
    before = await version(agent)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    assert await version(agent) == before


@WITHDRAWN
async def test_its_own_cable_is_pulled_and_its_other_model_waits_for_a_start(
    agent: AgentInMemory, uid: str, withdraw: Withdraw
) -> None:
    await withdraw(agent)
    await asked(agent, ETH0)
    machine = await agent.client.get(VIRTUAL_MACHINES, "web", "shop")
    machine["spec"]["interfaces"][0] |= {"linkState": "Down", "model": "e1000e"}
    agent.given(machine)
    await agent.look(uid)
    assert has(agent, uid) == {"eth0": ("office-uid", False)}
    assert [row["field"] for row in (await agent.status())["pendingChanges"]] == ["spec.interfaces[eth0]"]
    assert await ready(agent) == ("True", "Running", NAMED)


@pytest.mark.parametrize("mac", [ETH1["macAddress"], "52:54:00:00:00:09"], ids=["its MAC", "another MAC"])
async def test_nothing_is_taken_from_a_guest_for_a_place_on_a_network_that_is_not_to_be_had(
    agent: AgentInMemory, uid: str, mac: str
) -> None:
    """Also not where the hypervisor knows an adapter of that name and MAC: it is another network's."""
    await the_network_is_withdrawn(agent)
    had = has(agent, uid)
    await asked(agent, ETH0, placed_interface("eth1", OFFICE, "10.40.0.8", mac=mac))
    await agent.look(uid)
    assert has(agent, uid) == had
    assert agent.hypervisor.verbs_since() == []
    assert await ready(agent) == ("False", "NetworkNotAllowed", f"interface eth1 on host-a-fake: {WHY}")


@WITHDRAWN
async def test_a_guest_that_ends_does_not_get_it_again(agent: AgentInMemory, uid: str, withdraw: Withdraw) -> None:
    await withdraw(agent)
    await asked(agent, ETH0)
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    agent.world.crash(uid)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    status, reason, message = await ready(agent)
    assert (status, reason) == ("False", AT_A_START[withdraw])
    assert message.startswith("interface eth0")


@pytest.mark.parametrize("withdraw", AT_A_START, ids=lambda withdraw: AT_A_START[withdraw])
async def test_one_that_is_to_have_another_address_is_not_kept_and_the_one_that_it_has_counts_as_its_own(
    agent: AgentInMemory, uid: str, withdraw: Withdraw
) -> None:
    """Nobody knows whether its host lets the guest use the new one, and it may go on to use the old one."""
    await withdraw(agent)
    await asked(agent, placed_interface("eth0", OFFICE, "10.40.0.10"), ETH1_MOVED)
    for _ in range(2):
        await agent.look(uid)
        assert agent.hypervisor.verbs_since() == []
        assert [row["ipAddresses"] for row in (await agent.status())["interfaces"] if row["name"] == "eth0"] == [
            ["10.40.0.9"]
        ]
        status, reason, message = await ready(agent)
        assert (status, reason) == ("False", AT_A_START[withdraw])
        assert message.startswith("interface eth0")


async def test_a_firewall_that_is_asked_for_and_not_in_force_is_said(agent: AgentInMemory, uid: str) -> None:
    await its_firewall_is_not_possible(agent)
    await agent.look(uid)
    assert await ready(agent) == ("True", "Running", NAMED)
    await asked(agent, ETH0)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    assert await ready(agent) == ("False", "FirewallNotPossible", NAMED)


async def test_that_a_whole_driver_is_gone_is_said_of_a_machine_while_it_runs(agent: AgentInMemory, uid: str) -> None:
    agent.drive(replace(agent.endpoint, network_modes={}))
    await agent.look(uid)
    assert await ready(agent) == ("True", "Running", "")  # what the drivers know is not known yet
    await agent.networks.find_networks()
    await agent.look(uid)
    said = "interface eth0: host-a-fake has no networks of mode Bridge; interface eth1: host-a-fake has no networks of "
    assert await ready(agent) == ("True", "Running", f"{said}mode NAT")


async def test_what_passes_by_itself_is_waited_for(agent: AgentInMemory, uid: str) -> None:
    agent.fake_networks.faults.withdrawn["office-uid"] = Unavailable("ill", reason=Reason.NETWORK_ERROR)
    await asked(agent, ETH0)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    assert await ready(agent) == ("False", "NetworkError", "interface eth0 on host-a-fake: ill")


async def test_that_it_would_not_be_had_again_is_said_of_a_machine_while_it_runs_and_by_a_new_agent_as_before(
    agent: AgentInMemory, uid: str
) -> None:
    await the_network_is_withdrawn(agent)
    await agent.look(uid)
    assert await ready(agent) == ("True", "Running", NAMED)
    before = await version(agent)
    agent.restart()
    await agent.look(uid)
    assert await version(agent) == before
    agent.fake_networks.faults.withdrawn.clear()
    for one in (OFFICE, LAN):
        await is_looked_at(agent, one)
    await agent.look(uid)
    assert await ready(agent) == ("True", "Running", "")


# --- a bridge that is not there ---------------------------------------------------------------------------------------

ABSENT = "network shop/office: bridge br-office does not exist on the host: make it"
NO_BRIDGE = Unavailable(ABSENT, reason=Reason.NO_SUCH_BRIDGE)


async def test_a_machine_waits_for_a_bridge_and_goes_on_by_itself(agent: AgentInMemory) -> None:
    agent.given_network(OFFICE)
    agent.fake_networks.faults.refuse("attachment", NO_BRIDGE, times=2)
    uid = agent.given(vm(interfaces=[ETH0]))
    for _ in range(2):
        outcome = await agent.look(uid)
        assert isinstance(outcome, Wait)
        assert outcome.after_s <= 10
        assert await ready(agent) == ("False", "NoSuchBridge", f"interface eth0 on host-a-fake: {ABSENT}")
        assert "Stalled" not in conditions({"status": await agent.status()})
    assert agent.hypervisor.verbs_since() == []
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]
    assert await ready(agent) == ("True", "Running", "")


async def test_a_machine_that_runs_is_left_alone_and_says_that_it_would_not_start_again(
    agent: AgentInMemory, uid: str
) -> None:
    agent.fake_networks.faults.failed = (Reason.NO_SUCH_BRIDGE, ABSENT)
    await is_looked_at(agent)
    agent.fake_networks.faults.failed = None
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    assert await ready(agent) == ("True", "Running", f"interface eth0 on host-a-fake: {ABSENT}")
