"""Interfaces that come, go, move and change while their machine runs, and whose their addresses are meanwhile."""

from dataclasses import replace
from typing import Any

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import conditions, network, placed_disk, placed_interface, vm
from tests.agent.objects import volume as volume_of
from virtplane_agent.networks.serving import NetworkKey
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object
from virtplane_api.reasons import Reason
from virtplane_api.reconcile import Wait
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.hypervisor.contract import CAPABILITIES, CanPlugNics

LAN, DMZ = network(), network("dmz", ipv4={"cidr": "10.30.0.0/24"})
ETH0 = placed_interface("eth0", LAN, "10.20.0.9")
ETH1 = placed_interface("eth1", DMZ, "10.30.0.9", mac="52:54:00:00:00:02")
MOVED = placed_interface("eth0", DMZ, "10.30.0.9")


@pytest.fixture
async def uid(agent: AgentInMemory) -> str:
    """A machine that runs with one interface."""
    agent.given_network(LAN)
    agent.given_network(DMZ)
    uid = agent.given(vm(interfaces=[ETH0]))
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    agent.enqueued_networks.clear()
    return uid


async def placed_anew(agent: AgentInMemory, *interfaces: Object, token: int = 2, **spec: Any) -> None:
    """The operator's next placement; what the agent reported stays."""
    status = await agent.status()
    del status["placement"]
    agent.given(vm(interfaces=interfaces, token=token, status=status, **spec))


def has(agent: AgentInMemory, uid: str) -> list[tuple[str, object]]:
    """What the guest has, and in which network."""
    return [(nic.name, getattr(nic.attachment, "network_uid", "")) for nic in agent.world.machines[uid].running_nics]


async def ports(agent: AgentInMemory, network_uid: str) -> set[str]:
    """Names of the interfaces that the network serves, once it was looked at."""
    await agent.networks.reconcile(NetworkKey("fake", network_uid))
    return {name for _uid, name in (await agent.fake_networks.observe(network_uid)).ports}


async def reported(agent: AgentInMemory) -> list[Object]:
    rows: list[Object] = (await agent.status()).get("interfaces", [])
    return rows


def pending(status: Object) -> list[str]:
    return [row["field"] for row in status.get("pendingChanges", ())]


def test_it_is_a_capability() -> None:
    assert CAPABILITIES["HotplugInterfaces"] is CanPlugNics


async def test_an_interface_is_plugged_on_a_network_that_serves_it_already(agent: AgentInMemory, uid: str) -> None:
    await placed_anew(agent, ETH0, ETH1)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "change_nics"]
    assert has(agent, uid) == [("eth0", "lan-uid"), ("eth1", "dmz-uid")]
    assert await ports(agent, "dmz-uid") == {"eth1"}
    status = await agent.status()
    assert (status["interfaces"], pending(status)) == ([ETH0, ETH1], [])
    assert conditions({"status": status})["Ready"] == ("True", "Running")
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []


async def test_an_interface_that_cannot_be_served_yet_is_not_plugged_and_says_why(
    agent: AgentInMemory, uid: str
) -> None:
    agent.fake_networks.faults.refuse("apply", Unavailable("no bridge today", reason=Reason.NETWORK_ERROR), times=2)
    await placed_anew(agent, ETH0, ETH1)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    status = await agent.status()
    assert conditions({"status": status})["Ready"] == ("False", "NetworkError")
    assert status["interfaces"] == [ETH0, ETH1]  # before it is plugged: killed after that, it would not be told
    await agent.look(uid)
    await agent.look(uid)
    assert has(agent, uid) == [("eth0", "lan-uid"), ("eth1", "dmz-uid")]


@pytest.mark.parametrize(("now", "left"), [([], []), ([MOVED], [("eth0", "dmz-uid")])], ids=["removed", "moved"])
async def test_what_is_given_up_is_unplugged_then_reported_and_its_network_goes_last(
    agent: AgentInMemory, uid: str, now: list[Object], left: list[tuple[str, object]]
) -> None:
    await placed_anew(agent, *now)
    assert await ports(agent, "lan-uid") == {"eth0"}
    assert await reported(agent) == [ETH0]
    await agent.look(uid)
    assert has(agent, uid) == left
    assert await reported(agent) == now
    assert NetworkKey("fake", "lan-uid") in agent.enqueued_networks
    assert await ports(agent, "lan-uid") == set()


@pytest.mark.parametrize("now", [[], [MOVED]], ids=["removed", "moved"])
async def test_a_guest_that_keeps_an_interface_keeps_its_address_and_is_asked_again(
    agent: AgentInMemory, uid: str, now: list[Object]
) -> None:
    agent.hypervisor.faults.keeps_nics = True
    await placed_anew(agent, *now)
    called = await agent.verbs_by_second(uid, seconds=40)
    assert called == {0: ["define", "change_nics"], 30: ["change_nics"]}
    status = await agent.status()
    assert (status["interfaces"], pending(status)) == ([*now, ETH0], ["spec.interfaces[eth0]"])
    assert await ports(agent, "lan-uid") == {"eth0"}
    agent.restart()
    assert await ports(agent, "lan-uid") == {"eth0"}
    agent.hypervisor.faults.keeps_nics = False
    await agent.look(uid)
    status = await agent.status()
    assert (status.get("interfaces", []), pending(status)) == (now, [])
    assert await ports(agent, "lan-uid") == set()


async def test_what_was_plugged_by_an_agent_that_was_killed_before_it_could_say_so_keeps_its_address(
    agent: AgentInMemory, uid: str
) -> None:
    """The operator takes it out of the placement only once the agent has said that it has taken that placement up."""
    agent.fake_networks.faults.refuse("apply", Unavailable("no bridge today"), times=1)
    await placed_anew(agent, ETH0, ETH1)
    await agent.look(uid)
    told = await agent.status()
    assert told["host"]["token"] == 2
    await agent.look(uid)
    assert has(agent, uid) == [("eth0", "lan-uid"), ("eth1", "dmz-uid")]
    agent.restart()
    agent.hypervisor.faults.keeps_nics = True
    agent.given(vm(interfaces=[ETH0], token=3, status={k: v for k, v in told.items() if k != "placement"}))
    await agent.look(uid)
    status = await agent.status()
    assert (status["interfaces"], pending(status)) == ([ETH0, ETH1], ["spec.interfaces[eth1]"])
    assert await ports(agent, "dmz-uid") == {"eth1"}


async def test_of_a_machine_that_nobody_can_look_at_no_address_is_given_up(agent: AgentInMemory, uid: str) -> None:
    await placed_anew(agent)
    agent.drive(replace(agent.endpoint, name="another"))
    await agent.look(uid)
    status = await agent.status()
    assert conditions({"status": status})["Ready"] == ("Unknown", "NoSuchHypervisor")
    assert status["interfaces"] == [ETH0]


async def test_rows_of_an_older_agent_which_told_no_network_hold_nothing_and_are_told_anew(
    agent: AgentInMemory,
) -> None:
    agent.given_network(LAN)
    old = {"name": "eth0", "macAddress": ETH0["macAddress"]}
    host = {"hypervisor": "host-a-fake", "token": 1, "state": "Present"}
    status: Object = {"host": host}
    for _ in "before it runs", "while it runs":
        uid = agent.given(vm(interfaces=[ETH0], status={**status, "interfaces": [old]}))
        assert await ports(agent, "lan-uid") == {"eth0"}
        await agent.look(uid)
        assert await reported(agent) == [ETH0]
        status = {field: value for field, value in (await agent.status()).items() if field != "placement"}


async def test_another_machine_waits_for_an_address_that_a_guest_still_has(agent: AgentInMemory, uid: str) -> None:
    """An operator that was started meanwhile may have given it away."""
    agent.hypervisor.faults.keeps_nics = True
    await placed_anew(agent)
    await agent.look(uid)
    heir = agent.given(vm("db", uid="vm-2", interfaces=[ETH0]))
    await agent.look(heir)
    assert conditions({"status": await agent.status("db")})["Ready"] == ("False", "AddressInUse")
    agent.hypervisor.faults.keeps_nics = False
    agent.clock.advance(60)
    await agent.look(uid)
    await agent.look(heir)
    assert conditions({"status": await agent.status("db")})["Ready"] == ("True", "Running")


RENAMED = [ETH0 | {"name": "net0"}, ETH0 | {"name": "net0", "macAddress": "52:54:00:00:00:77"}]


@pytest.mark.parametrize("net0", RENAMED, ids=["renamed", "with another MAC"])
async def test_an_interface_that_takes_over_an_address_of_the_machine_is_plugged_once_the_other_one_has_gone(
    agent: AgentInMemory, uid: str, net0: Object
) -> None:
    await placed_anew(agent, net0)
    outcome = await agent.look(uid)
    assert isinstance(outcome, Wait)
    assert outcome.after_s < 1
    assert (has(agent, uid), await reported(agent)) == ([], [net0])
    assert conditions({"status": await agent.status()})["Ready"] == ("True", "Running")
    await agent.look(uid)
    assert has(agent, uid) == [("net0", "lan-uid")]
    assert await ports(agent, "lan-uid") == {"net0"}
    agent.hypervisor.verbs_since()
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []


@pytest.mark.parametrize("net0", RENAMED, ids=["renamed", "with another MAC"])
async def test_an_interface_waits_while_the_guest_keeps_the_one_whose_address_it_takes_over(
    agent: AgentInMemory, uid: str, net0: Object
) -> None:
    agent.hypervisor.faults.keeps_nics = True
    await placed_anew(agent, net0)
    called = await agent.verbs_by_second(uid, seconds=40)
    assert called == {0: ["define", "change_nics"], 30: ["change_nics"]}
    status = await agent.status()
    assert status["interfaces"] == [net0, ETH0]
    [ready] = [one for one in status["conditions"] if one["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "AddressInUse")
    assert "the machine's own eth0" in ready["message"]
    assert await ports(agent, "lan-uid") == {"eth0"}
    agent.world.crash(uid)
    for _ in range(2):
        await agent.look(uid)
    assert has(agent, uid) == [("net0", "lan-uid")]
    assert await reported(agent) == [net0]


async def test_a_suspended_machine_holds_what_it_wakes_with(agent: AgentInMemory, uid: str) -> None:
    await placed_anew(agent, ETH0, power_state="Suspended", token=1)
    await agent.look(uid)
    await agent.look(uid)
    await placed_anew(agent, power_state="Suspended")
    await agent.look(uid)
    assert await reported(agent) == [ETH0]
    assert await ports(agent, "lan-uid") == {"eth0"}
    await placed_anew(agent)
    await agent.look(uid)
    assert has(agent, uid) == [("eth0", "lan-uid")]
    assert await reported(agent) == [ETH0]
    await agent.look(uid)
    assert (has(agent, uid), await reported(agent)) == ([], [])


async def test_a_suspended_machine_wakes_with_what_it_had_also_when_another_interface_has_its_address_now(
    agent: AgentInMemory, uid: str
) -> None:
    await placed_anew(agent, ETH0, power_state="Suspended", token=1)
    await agent.look(uid)
    await agent.look(uid)
    await placed_anew(agent, RENAMED[1])
    await agent.look(uid)
    assert has(agent, uid) == [("eth0", "lan-uid")]
    for _ in range(2):
        await agent.look(uid)
    assert (has(agent, uid), await reported(agent)) == ([("net0", "lan-uid")], [RENAMED[1]])


async def test_a_machine_that_stops_gives_up_all_that_it_was_to_give_up(agent: AgentInMemory, uid: str) -> None:
    agent.hypervisor.faults.keeps_nics = True
    await placed_anew(agent)
    await agent.look(uid)
    assert await reported(agent) == [ETH0]
    await placed_anew(agent, power_state="Stopped", terminationGracePeriodSeconds=0)
    await agent.look(uid)
    assert await reported(agent) == []


async def test_a_cable_is_pulled_at_once_under_the_same_placement(agent: AgentInMemory, uid: str) -> None:
    for link_state, link_up in (("Down", False), ("Up", True)):
        await as_spec(agent, ETH0, linkState=link_state)
        await agent.look(uid)
        assert agent.hypervisor.verbs_since() == ["define", "change_nics"]
        assert [nic.link_up for nic in agent.world.machines[uid].running_nics] == [link_up]


@pytest.mark.parametrize("token", [2, 3], ids=["the same placement", "with an interface that comes"])
async def test_a_cable_is_pulled_whatever_hinders_another_interface(agent: AgentInMemory, uid: str, token: int) -> None:
    if token == 2:
        await placed_anew(agent, ETH0, ETH1)
        await agent.look(uid)
    had = has(agent, uid)
    agent.fake_networks.faults.refuse("apply", Unavailable("dmz is ill"), times=2)
    await placed_anew(agent, ETH0, ETH1, token=token)
    machine = await agent.client.get(VIRTUAL_MACHINES, "web", "shop")
    machine["spec"]["interfaces"][0] |= {"linkState": "Down"}
    agent.given(machine)
    for _ in range(2):
        await agent.look(uid)
        assert [nic.link_up for nic in agent.world.machines[uid].running_nics] == [False, True][: len(had)]
        assert has(agent, uid) == had
    assert conditions({"status": await agent.status()})["Ready"][0] == ("False" if token == 3 else "True")
    await agent.look(uid)
    assert has(agent, uid) == [("eth0", "lan-uid"), ("eth1", "dmz-uid")]
    assert [nic.link_up for nic in agent.world.machines[uid].running_nics] == [False, True]


async def test_the_cable_of_an_interface_that_is_to_move_stays_as_it_is_until_it_moves(
    agent: AgentInMemory, uid: str
) -> None:
    await as_spec(agent, ETH0, linkState="Down")
    await agent.look(uid)
    agent.fake_networks.faults.refuse("apply", Unavailable("dmz is ill"), times=2)
    await placed_anew(agent, MOVED)
    for where, link_up in (("lan-uid", False), ("dmz-uid", True)):
        await agent.look(uid)
        assert has(agent, uid) == [("eth0", where)]
        assert [nic.link_up for nic in agent.world.machines[uid].running_nics] == [link_up]


async def test_a_disk_that_cannot_be_had_holds_a_change_of_interfaces_up_and_is_named(agent: AgentInMemory) -> None:
    agent.given_network(LAN)
    volume = await agent.given_made_volume(volume_of(claimed_by="vm-1"))
    disks = [placed_disk("root", volume)]
    uid = agent.given(vm(interfaces=[ETH0], disks=disks))
    await agent.look(uid)
    agent.given_volume(volume_of(claimed_by="another"))
    await placed_anew(agent, disks=disks)
    await agent.look(uid)
    assert has(agent, uid) == [("eth0", "lan-uid")]
    assert conditions({"status": await agent.status()})["Ready"] == ("False", "VolumeNotClaimed")
    agent.given_volume(volume)
    await agent.look(uid)
    assert has(agent, uid) == []
    assert conditions({"status": await agent.status()})["Ready"] == ("True", "Running")


async def test_another_model_waits_for_a_restart(agent: AgentInMemory, uid: str) -> None:
    await as_spec(agent, ETH0, model="e1000e")
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define"]
    status = await agent.status()
    assert pending(status) == ["spec.interfaces[eth0]"]
    assert conditions({"status": status})["Ready"] == ("True", "Running")


async def as_spec(agent: AgentInMemory, placed: Object, **changes: Any) -> None:
    """The user changed the one interface; nothing is to be claimed for it."""
    machine = vm(
        interfaces=[placed], status={key: one for key, one in (await agent.status()).items() if key != "placement"}
    )
    machine["spec"]["interfaces"][0] |= changes
    agent.given(machine)


async def test_a_limit_is_told_to_the_network_when_it_changes_and_when_a_port_is_joined(
    agent: AgentInMemory, uid: str
) -> None:
    await as_spec(agent, ETH0, bandwidth={"ingress": "10M"})
    assert agent.enqueued_networks == [NetworkKey("fake", "lan-uid")]
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    agent.enqueued_networks.clear()
    agent.world.crash(uid)
    await agent.look(uid)
    assert agent.enqueued_networks == [NetworkKey("fake", "lan-uid")]


@pytest.mark.parametrize(
    ("placed", "ready"),
    [
        (None, ("False", "InterfacesChanging")),
        (("True", "Placed"), ("False", "InterfacesChanging")),
        (("True", "AddressInUse"), ("False", "AddressInUse")),
    ],
    ids=["nobody has looked", "not taken up", "cannot be had"],
)
async def test_a_machine_whose_interfaces_are_not_those_of_its_placement_is_not_ready(
    agent: AgentInMemory, uid: str, placed: tuple[str, str] | None, ready: tuple[str, str]
) -> None:
    status = await agent.status()
    del status["placement"]
    if placed is not None:
        condition = {"type": "Placed", "status": placed[0], "reason": placed[1], "message": "as the operator says"}
        status["conditions"] = [*status["conditions"], condition]
    machine = vm(interfaces=[ETH0], status=status)
    machine["spec"]["interfaces"].append({"name": "eth1", "networkName": "dmz"})
    agent.given(machine)
    await agent.look(uid)
    agent.clock.advance(2)
    await agent.look(uid)
    assert conditions({"status": await agent.status()})["Ready"] == ready
    assert agent.hypervisor.verbs_since() == []


async def test_what_the_hypervisor_refuses_is_said_and_the_guest_runs_on(agent: AgentInMemory, uid: str) -> None:
    agent.hypervisor.faults.refuse("define", Refused("at most one", reason=Reason.TOO_MANY_NICS))
    await placed_anew(agent, ETH0, ETH1)
    await agent.look(uid)
    assert conditions({"status": await agent.status()})["Ready"] == ("False", "TooManyNics")
    agent.hypervisor.faults.refuse("change_nics", Unavailable("not now", reason=Reason.NETWORK_NOT_READY))
    await agent.look(uid)
    assert conditions({"status": await agent.status()})["Ready"] == ("False", "NetworkNotReady")
    await agent.look(uid)
    assert conditions({"status": await agent.status()})["Ready"] == ("True", "Running")


NOWHERE = {"name": "x", "networkName": "nowhere"}
SLOW = {"egress": "1M"}


def limits(agent: AgentInMemory, network_uid: str) -> list[int | None]:
    """What each port lets out, in bits per second."""
    value = agent.networks.value(NetworkKey("fake", network_uid))
    assert value is not None
    return [port.bandwidth.egress_bps for port in value.ports]


@pytest.mark.parametrize(
    "asked", [[NOWHERE], [{**ETH0, "networkName": "nowhere"}]], ids=["removed", "moved to no network"]
)
async def test_an_interface_of_a_change_that_cannot_be_had_keeps_its_cable_and_its_limits(
    agent: AgentInMemory, uid: str, asked: list[Object]
) -> None:
    await as_spec(agent, ETH0, linkState="Down", bandwidth=SLOW, model="e1000e")
    await agent.look(uid)
    machine = vm(interfaces=[ETH0], status={k: v for k, v in (await agent.status()).items() if k != "placement"})
    machine["spec"]["interfaces"] = asked
    agent.hypervisor.verbs_since()
    agent.given(machine)
    for _ in range(2):
        await agent.look(uid)
        assert [nic.link_up for nic in agent.world.machines[uid].running_nics] == [False]
        assert agent.hypervisor.verbs_since() == []
        assert limits(agent, "lan-uid") == [1_000_000]
        agent.restart()
    agent.world.crash(uid)
    await agent.look(uid)
    assert [(nic.link_up, nic.model) for nic in agent.world.machines[uid].running_nics] == [(False, "e1000e")]


async def test_a_cable_is_pulled_beside_an_interface_that_cannot_be_had(agent: AgentInMemory, uid: str) -> None:
    machine = vm(interfaces=[ETH0], status={k: v for k, v in (await agent.status()).items() if k != "placement"})
    machine["spec"]["interfaces"] = [machine["spec"]["interfaces"][0] | {"linkState": "Down"}, NOWHERE]
    agent.given(machine)
    await agent.look(uid)
    assert [nic.link_up for nic in agent.world.machines[uid].running_nics] == [False]


@pytest.mark.parametrize("now", [[], [MOVED]], ids=["removed", "moved"])
async def test_an_adapter_that_a_guest_keeps_keeps_its_limit(agent: AgentInMemory, uid: str, now: list[Object]) -> None:
    await as_spec(agent, ETH0, bandwidth=SLOW)
    await agent.look(uid)
    assert (await reported(agent)) == [ETH0 | {"bandwidth": SLOW}]
    agent.hypervisor.faults.keeps_nics = True
    await placed_anew(agent, *now)
    await agent.look(uid)
    assert limits(agent, "lan-uid") == [1_000_000]
    agent.restart()
    await agent.look(uid)
    assert limits(agent, "lan-uid") == [1_000_000]
