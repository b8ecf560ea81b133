"""Networks are there where machines need them, and as long as they do; machines start once they are served."""

from dataclasses import replace

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import HYPERVISOR, conditions, network, placed_interface, tell, vm
from virtplane_agent.networks.serving import NetworkKey
from virtplane_api.kube.resources import uid_of
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Done, Failed, Wait
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import FakeNicAttachment
from virtplane_drivers.errors import Refused, Unavailable

LAN = network()
KEY = NetworkKey("fake", "lan-uid")


async def test_a_machine_starts_on_a_network_that_was_made_for_it(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    uid = agent.given(vm(interfaces=[placed_interface("eth0", LAN, "10.20.0.9")]))
    await agent.look(uid)
    assert conditions({"status": await agent.status()})["Ready"] == ("True", "Running")
    assert (await agent.fake_networks.observe("lan-uid")).ports == {("vm-1", "eth0")}
    (nic,) = agent.hypervisor.defined[-1].nics
    assert (nic.name, nic.mac, nic.mtu) == ("eth0", "52:54:00:00:00:01", 1500)
    assert nic.attachment == FakeNicAttachment("lan-uid", ("vm-1", "eth0"))
    assert (await agent.status())["interfaces"] == [placed_interface("eth0", LAN, "10.20.0.9")]


async def test_a_machine_whose_network_is_not_served_waits_and_says_why(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    uid = agent.given(vm(interfaces=[placed_interface()]))
    agent.fake_networks.faults.refuse("apply", Unavailable("no bridge today", reason=Reason.NETWORK_ERROR))
    outcome = await agent.look(uid)
    assert isinstance(outcome, Wait)
    assert agent.hypervisor.verbs_since() == []
    assert conditions({"status": await agent.status()})["Ready"] == ("False", "NetworkError")
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]


async def test_a_network_that_can_never_be_stalls_the_machine(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    uid = agent.given(vm(interfaces=[placed_interface()]))
    agent.fake_networks.faults.refuse("apply", Refused("there is no bridge br-lan", reason=Reason.NO_SUCH_BRIDGE))
    await agent.look(uid)
    assert conditions({"status": await agent.status()})["Stalled"] == ("True", "NoSuchBridge")


async def test_a_network_that_was_made_again_is_not_the_one_that_addresses_were_given_in(agent: AgentInMemory) -> None:
    agent.given_network(network(uid="lan-uid-2"))
    uid = agent.given(vm(interfaces=[placed_interface("eth0", LAN)]))
    await agent.look(uid)
    assert conditions({"status": await agent.status()})["Ready"] == ("False", "NetworkNotFound")
    assert await agent.fake_networks.inventory() == ()


async def test_a_network_goes_with_the_last_machine_on_it(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    machines = [
        vm(f"web-{n}", uid=f"vm-{n}", interfaces=[placed_interface(mac=f"52:54:00:00:00:0{n}")]) for n in (1, 2)
    ]
    for machine in machines:
        await agent.look(agent.given(machine))
    tell(agent.machines.informer, machines[0], "DELETED")
    assert agent.enqueued_networks[-1] == KEY
    assert isinstance(await agent.networks.reconcile(KEY), Wait)
    assert (await agent.fake_networks.observe("lan-uid")).ports == {("vm-2", "eth0")}
    tell(agent.machines.informer, machines[1], "DELETED")
    assert await agent.networks.reconcile(KEY) == Done()
    assert await agent.fake_networks.inventory() == ()


async def test_a_network_of_a_mode_that_an_agent_lost_goes_with_the_last_machine_on_it(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    machine = vm(interfaces=[placed_interface()])
    await agent.look(agent.given(machine))
    modes = dict.fromkeys(set(NetworkMode) - {NetworkMode(LAN["spec"]["mode"])}, "fake")
    agent.endpoints = replace(agent.endpoints, hypervisors={HYPERVISOR: replace(agent.endpoint, network_modes=modes)})
    agent.restart()
    agent.given_network(LAN)
    agent.given(machine)
    assert await agent.networks.find_networks() == [KEY]
    assert KEY in agent.enqueued_networks
    # It is served as before: whether it may be is the driver's to say.
    agent.fake_networks.faults.refuse("apply", Refused("no more", reason=Reason.NETWORK_NOT_ALLOWED))
    assert isinstance(await agent.networks.reconcile(KEY), Failed)
    [row] = agent.networks.reports({}, agent.endpoints.hypervisors[HYPERVISOR])
    assert (row["state"], row["reason"]) == ("Failed", "NetworkNotAllowed")
    agent.enqueued_networks.clear()
    tell(agent.machines.informer, machine, "DELETED")
    assert agent.enqueued_networks == [KEY]
    assert await agent.networks.reconcile(KEY) == Done()
    assert await agent.fake_networks.inventory() == ()


async def test_a_machine_that_is_to_start_on_a_mode_that_is_gone_is_told_what_would_bring_it(
    agent: AgentInMemory,
) -> None:
    agent.given_network(LAN)
    uid = agent.given(vm(interfaces=[placed_interface()]))
    mode = LAN["spec"]["mode"]
    facts = replace(agent.endpoint.facts, missing={f"Network{mode}": "start the agent with --allow-it"})
    lost = replace(agent.endpoint, network_modes={}, facts=facts)
    agent.endpoints = replace(agent.endpoints, hypervisors={HYPERVISOR: lost})
    agent.restart()
    await agent.look(uid)
    assert conditions({"status": await agent.status()})["Stalled"] == ("True", "NicNotAttachable")
    said = next(one for one in (await agent.status())["conditions"] if one["type"] == "Stalled")["message"]
    assert said == f"interface eth0: host-a-fake has no networks of mode {mode}: start the agent with --allow-it"


async def test_a_stopped_machine_keeps_its_network(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface()]))
    assert isinstance(await agent.networks.reconcile(KEY), Wait)
    assert await agent.fake_networks.inventory() == ("lan-uid",)


async def test_what_a_hypervisor_still_holds_is_not_taken_from_it(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    machine = vm(interfaces=[placed_interface()])
    await agent.look(agent.given(machine))
    agent.fake_networks.joined.add(("vm-1", "eth0"))
    tell(agent.machines.informer, machine, "DELETED")
    outcome = await agent.networks.reconcile(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.reason == Reason.NETWORK_IN_USE
    assert await agent.fake_networks.inventory() == ("lan-uid",)


async def test_a_network_without_an_object_is_left_as_it_is_while_a_machine_is_on_it(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    await agent.look(agent.given(vm(interfaces=[placed_interface()])))
    tell(agent.virtual_networks, LAN, "DELETED")
    agent.restart()
    await agent.networks.reconcile(KEY)
    assert await agent.fake_networks.inventory() == ("lan-uid",)


async def test_a_network_of_before_this_agent_s_start_is_found_and_removed_when_nobody_needs_it(
    agent: AgentInMemory,
) -> None:
    agent.given_network(LAN)
    machine = vm(interfaces=[placed_interface()])
    await agent.look(agent.given(machine))
    tell(agent.machines.informer, machine, "DELETED")
    agent.restart()
    assert await agent.networks.find_networks() == [KEY]
    await agent.networks.reconcile(KEY)
    assert await agent.fake_networks.inventory() == ()


async def test_a_hypervisor_reports_its_networks_and_is_told_to_when_they_change(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    agent.given(vm(power_state="Stopped", interfaces=[placed_interface()]))
    await agent.networks.find_networks()
    agent.changed_hypervisors.clear()
    await agent.networks.reconcile(KEY)
    assert agent.networks.reports({}, agent.endpoint) == [{"uid": "lan-uid", "state": "Ready"}]
    assert agent.changed_hypervisors == ["host-a-fake"]
    await agent.networks.reconcile(KEY)
    assert agent.changed_hypervisors == ["host-a-fake"]  # nothing new, nothing written
    agent.fake_networks.faults.failed = ("ForwardingBlocked", "table ip filter drops it")
    await agent.networks.reconcile(KEY)
    assert agent.networks.reports({}, agent.endpoint) == [
        {"uid": "lan-uid", "state": "Failed", "reason": "ForwardingBlocked", "message": "table ip filter drops it"}
    ]
    assert agent.changed_hypervisors == ["host-a-fake", "host-a-fake"]


async def test_what_was_told_of_a_network_stands_until_the_next_agent_has_looked_at_it(agent: AgentInMemory) -> None:
    told = [{"uid": uid, "state": "Failed", "reason": "Odd", "message": "x"} for uid in ("gone-uid", "lan-uid")]
    hypervisor = {"status": {"networks": told}}
    agent.given_network(LAN)
    machine = vm(interfaces=[placed_interface()])
    await agent.look(agent.given(machine))
    tell(agent.machines.informer, machine, "DELETED")
    agent.restart()
    assert agent.networks.reports(hypervisor, agent.endpoint) == told
    agent.changed_hypervisors.clear()
    await agent.networks.find_networks()
    assert agent.networks.reports(hypervisor, agent.endpoint) == told[1:]
    assert agent.changed_hypervisors == ["host-a-fake"]
    assert await agent.networks.reconcile(KEY) == Done()
    assert agent.networks.reports(hypervisor, agent.endpoint) == []
    assert agent.changed_hypervisors == ["host-a-fake", "host-a-fake"]


async def test_a_report_of_a_machine_s_status_is_no_reason_to_look_at_its_networks(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    machine = vm(interfaces=[placed_interface()])
    uid = agent.given(machine)
    before = list(agent.enqueued_networks)
    await agent.look(uid)  # writes the status, which the watch tells of
    tell(agent.machines.informer, await agent.client.get(agent.machines.informer.resource, "web", "shop"))
    assert agent.enqueued_networks == before
    assert uid_of(machine) == uid
