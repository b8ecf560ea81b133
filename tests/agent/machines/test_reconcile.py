"""Passes over one machine of a fake host: what is done to it, what is said of it, when it is looked at again."""

import contextlib
from dataclasses import replace

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import CLUSTER_ID, HYPERVISOR, conditions, placed_disk, pool, vm, volume
from virtplane_api.kube.errors import ApiUnavailable, Conflict
from virtplane_api.kube.resources import VIRTUAL_MACHINES
from virtplane_api.reconcile import Done, Failed, Wait
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.attachment import FileAttachment
from virtplane_drivers.errors import LaunchFailed, StaleToken, Unavailable
from virtplane_drivers.hypervisor.contract import Owner

LOOKS_AGAIN = Wait(10.0, "look again")


async def test_a_machine_that_is_to_run_is_defined_started_and_reported_in_one_write(agent: AgentInMemory) -> None:
    uid = agent.given(vm())
    assert await agent.look(uid) == LOOKS_AGAIN
    assert agent.hypervisor.verbs_since() == ["define", "start"]
    assert (await agent.status())["powerState"] == "Running"
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}
    assert len(agent.client.applied) == 1


async def test_at_rest_nothing_is_done_and_nothing_is_written(agent: AgentInMemory) -> None:
    uid = agent.given(vm())
    await agent.look(uid)
    agent.hypervisor.verbs_since()
    for _ in range(3):
        agent.clock.advance(10)
        assert await agent.look(uid) == LOOKS_AGAIN
    assert agent.hypervisor.verbs_since() == []
    assert len(agent.client.applied) == 1


async def test_a_machine_that_is_to_be_stopped_and_is_not_there_is_not_even_defined(agent: AgentInMemory) -> None:
    uid = agent.given(vm(power_state="Stopped"))
    assert await agent.look(uid) == Done()
    assert agent.hypervisor.verbs_since() == []
    assert conditions(await agent.status()) == {"Ready": ("True", "Stopped")}


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power_state", ["Running", "Stopped"])
@pytest.mark.parametrize("being_deleted", [False, True])
async def test_a_placement_older_than_what_the_host_has_seen_does_nothing(
    agent: AgentInMemory,
    power_state: str,
    being_deleted: bool,  # noqa: FBT001
) -> None:
    machine = vm(token=3, power_state=power_state, being_deleted=being_deleted)
    uid = agent.given(machine)
    await agent.running(machine, token=5)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    assert agent.world.machines[uid].owner.token == 5


@pytest.mark.parametrize(
    ("power_state", "ready"),
    [("Running", "False"), ("Stopped", "False"), ("Running, and hangs", "Unknown")],
    ids=["looks as asked", "not as asked", "hangs"],
)
async def test_a_stale_token_is_said_with_both_numbers_whatever_is_seen(
    agent: AgentInMemory, power_state: str, ready: str
) -> None:
    machine = vm(token=3, power_state=power_state.partition(",")[0])
    uid = agent.given(machine)
    await agent.running(machine, token=5)
    if "hangs" in power_state:
        agent.world.hang(uid)
    await agent.look(uid)
    status = await agent.status()
    assert conditions(status) == {"Ready": (ready, "StaleToken"), "Stalled": ("True", "StaleToken")}
    assert "seen token 5, the placement has 3" in status["conditions"][0]["message"]
    assert status["host"] == {"hypervisor": HYPERVISOR, "token": 3, "state": "Present", "seenToken": 5}


async def test_a_disk_that_was_used_under_a_greater_token_says_so_as_the_host_would(agent: AgentInMemory) -> None:
    """It is of a pool that hosts share: this host has never seen that token itself."""
    uid = agent.given(vm(token=3))
    agent.hypervisor.faults.refuse("start", StaleToken("the disk root.qcow2 was last used by host-b", seen=9))
    assert await agent.look(uid) == Failed("StaleToken", "the disk root.qcow2 was last used by host-b")
    status = await agent.status()
    assert conditions(status) == {"Ready": ("False", "StaleToken"), "Stalled": ("True", "StaleToken")}
    assert status["host"] == {"hypervisor": HYPERVISOR, "token": 3, "state": "Present", "seenToken": 9}
    agent.given(vm(token=10, status=status))
    await agent.look(uid)
    assert "seenToken" not in (await agent.status())["host"]


async def test_a_greater_token_is_written_on_the_host_and_the_guest_does_not_notice(agent: AgentInMemory) -> None:
    machine = vm(token=4)
    uid = agent.given(machine)
    await agent.running(machine, token=2)
    started_at = agent.world.machines[uid].started_at
    agent.clock.advance(5)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define"]
    assert agent.world.machines[uid].owner == Owner(CLUSTER_ID, 4)
    assert agent.world.machines[uid].started_at == started_at


# --- machines that do not answer --------------------------------------------------------------------------------------


async def test_a_hung_machine_is_unknown_at_once_and_left_alone(agent: AgentInMemory) -> None:
    """Its driver has waited for an answer already."""
    uid = agent.given(vm())
    await agent.look(uid)
    agent.world.hang(uid)
    agent.hypervisor.verbs_since()
    assert await agent.look(uid) == LOOKS_AGAIN
    status = await agent.status()
    assert (status["powerState"], conditions(status)["Ready"]) == ("Unknown", ("Unknown", "Unresponsive"))
    assert agent.hypervisor.verbs_since() == []

    agent.world.recover(uid)
    await agent.look(uid)
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}


# --- what keeps a machine from its start ------------------------------------------------------------------------------


async def test_a_machine_waits_for_its_disks_and_is_not_defined_before(agent: AgentInMemory) -> None:
    data = volume(claimed_by="vm-1")
    agent.given_pool(pool())
    agent.given_volume(data)
    uid = agent.given(vm(disks=[placed_disk("root", data)]))
    assert await agent.look(uid) == Wait(1.0, "look again")  # it may pass within the second
    agent.clock.advance(1)
    assert await agent.look(uid) == Wait(2.0, "look again")
    assert agent.hypervisor.verbs_since() == []
    assert conditions(await agent.status())["Ready"] == ("False", "VolumeNotReady")


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (
            LaunchFailed("QEMU refused the machine", argv=("qemu",), exit_status=1, last_output=""),
            Failed("LaunchFailed", "QEMU refused the machine"),
            "Stalled",
        ),
        (
            Unavailable("no room now", reason="QemuNotStarted", retry_after_s=30.0),
            Failed("QemuNotStarted", "no room now", 30.0),
            "Reconciling",
        ),
    ],
    ids=["never like this", "not now"],
)
async def test_a_start_that_fails_says_whether_somebody_must_act(
    agent: AgentInMemory, error: LaunchFailed | Unavailable, outcome: Failed, kind: str
) -> None:
    uid = agent.given(vm())
    agent.hypervisor.faults.refuse("start", error)
    assert await agent.look(uid) == outcome
    assert conditions(await agent.status()) == {"Ready": ("False", error.reason), kind: ("True", error.reason)}
    await agent.look(uid)
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}


async def test_a_hypervisor_that_cannot_attach_a_disk_is_not_asked_to(agent: AgentInMemory) -> None:
    data = await agent.given_made_volume(volume(claimed_by="vm-1"))
    agent.drive(replace(agent.endpoint, facts=replace(agent.endpoint.facts, attachments=frozenset({FileAttachment}))))
    uid = agent.given(vm(disks=[placed_disk("root", data)]))
    assert isinstance(await agent.look(uid), Failed)
    assert agent.hypervisor.verbs_since() == []
    assert conditions(await agent.status())["Stalled"] == ("True", "DiskNotAttachable")


async def test_a_placement_on_a_hypervisor_that_this_agent_does_not_drive_claims_nothing_and_says_what_to_do(
    agent: AgentInMemory,
) -> None:
    uid = agent.given(vm(placed_on="host-a-xen"))
    assert await agent.look(uid) == LOOKS_AGAIN
    status = await agent.status()
    assert status["powerState"] == "Unknown"
    assert conditions(status) == {"Ready": ("Unknown", "NoSuchHypervisor"), "Stalled": ("True", "NoSuchHypervisor")}
    assert "does not drive host-a-xen; start it with that driver" in status["conditions"][0]["message"]
    assert agent.hypervisor.verbs_since() == []


async def test_a_machine_that_crashes_while_the_api_server_is_away_is_started_by_what_was_last_known(
    agent: AgentInMemory,
) -> None:
    """But its driver is told that nobody has confirmed the claim."""
    data = await agent.given_made_volume(volume(claimed_by="vm-1"))
    uid = agent.given(vm(disks=[placed_disk("root", data)]))
    await agent.look(uid)
    agent.world.crash(uid)
    agent.client.errors.extend([ApiUnavailable("no answer")] * 2)
    with contextlib.suppress(ApiUnavailable):
        await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"] * 2
    assert [disk.claim_is_confirmed for made in agent.hypervisor.defined for disk in made.disks] == [True, False]
    assert agent.world.machines[uid].power is PowerState.RUNNING


async def test_a_report_that_meets_another_writer_is_made_again_soon_and_the_step_is_not(agent: AgentInMemory) -> None:
    machine = vm()
    uid = agent.given(machine)
    agent.client.errors.append(Conflict("modified", status=409))
    assert await agent.look(uid) == Wait(0.2, "look again")
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == ["define", "start"]
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}


# --- machines from before ---------------------------------------------------------------------------------------------


async def test_what_runs_from_before_is_found_and_known_again(agent: AgentInMemory) -> None:
    machine = vm()
    uid = await agent.running(machine)
    agent.restart()
    assert await agent.find_machines() == [uid]
    agent.given(machine)
    await agent.look(uid)
    assert agent.hypervisor.verbs_since() == []
    assert conditions(await agent.status()) == {"Ready": ("True", "Running")}


async def test_a_copy_that_was_placed_elsewhere_meanwhile_is_ended_and_its_disks_stay(
    agent: AgentInMemory,
) -> None:
    data = await agent.given_made_volume(volume(claimed_by="vm-1"))
    uid = await agent.running(vm(), token=1)
    await agent.find_machines()
    moved = vm(token=2, placed_on="host-b-fake", agent="host-b", disks=[placed_disk("root", data)])
    agent.client.put(VIRTUAL_MACHINES, moved)
    assert await agent.look(uid) == Done()
    assert agent.hypervisor.verbs_since() == ["power_off", "destroy"]
    assert agent.client.applied == []
    assert await agent.has_volume("vol-1")


async def test_a_uid_that_nobody_knows_is_nobodys_work(agent: AgentInMemory) -> None:
    assert await agent.look("nobody") == Done()
    assert agent.client.applied == []
