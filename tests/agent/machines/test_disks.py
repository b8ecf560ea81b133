"""Whether a machine's disks can be attached: each one's own storage is asked, and the first hindrance is named."""

import pytest

from tests.agent.machines.agent_in_memory import AgentInMemory
from tests.agent.objects import placed_disk, pool, vm, volume
from virtplane_agent.machines.disks import AttachedDisk
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_api.kube.errors import ApiError, ApiUnavailable
from virtplane_api.kube.resources import VOLUMES, Object
from virtplane_drivers.attachment import FakeAttachment
from virtplane_drivers.storage.contract import Failure

DATA = volume(claimed_by="vm-1")
MACHINE = vm(disks=[placed_disk("root", DATA)])
ATTACHED = [AttachedDisk("root", FakeAttachment("vol-1"), claim_is_confirmed=True)]
AS_LAST_KNOWN = [AttachedDisk("root", FakeAttachment("vol-1"), claim_is_confirmed=False)]


async def hindrance(agent: AgentInMemory, machine: Object = MACHINE) -> tuple[str, str, bool]:
    found = await agent.disks.attachments(machine)
    assert isinstance(found, Hindrance)
    return found.reason, found.message, found.progress is Progress.STALLED


async def test_disks_that_are_made_and_given_to_the_machine_are_attached_in_their_order(agent: AgentInMemory) -> None:
    more = await agent.given_made_volume(volume("more", uid="vol-2", claimed_by="vm-1"))
    await agent.given_made_volume(DATA)
    machine = vm(disks=[placed_disk("root", DATA), placed_disk("more", more)])
    assert await agent.disks.attachments(machine) == [
        *ATTACHED,
        AttachedDisk("more", FakeAttachment("vol-2"), claim_is_confirmed=True),
    ]


async def test_a_volume_that_another_agent_holds_is_read_from_the_api_server(agent: AgentInMemory) -> None:
    """Of a pool that hosts share: the watch of this agent never tells of it."""
    agent.given_pool(pool(access="Shared"))
    agent.client.put(VOLUMES, DATA)
    await agent.make(DATA)
    assert await agent.disks.attachments(MACHINE) == ATTACHED


async def test_a_claim_that_the_watch_has_not_told_of_yet_counts(agent: AgentInMemory) -> None:
    await agent.given_made_volume(volume())
    agent.client.put(VOLUMES, DATA)
    assert await agent.disks.attachments(MACHINE) == ATTACHED


async def test_a_claim_that_was_taken_back_since_the_watch_last_spoke_counts_no_more(agent: AgentInMemory) -> None:
    await agent.given_made_volume(DATA)
    agent.client.put(VOLUMES, volume(claimed_by="vm-2"))
    assert (await hindrance(agent))[0] == "VolumeNotClaimed"


async def test_while_the_api_server_is_away_what_was_last_known_counts_and_confirms_nothing(
    agent: AgentInMemory,
) -> None:
    await agent.given_made_volume(DATA)
    agent.client.errors.append(ApiUnavailable("no answer"))
    assert await agent.disks.attachments(MACHINE) == AS_LAST_KNOWN
    assert await agent.disks.attachments(MACHINE) == ATTACHED


async def test_while_the_api_server_is_away_a_volume_of_another_agent_is_not_known(agent: AgentInMemory) -> None:
    agent.given_pool(pool(access="Shared"))
    agent.client.put(VOLUMES, DATA)
    await agent.make(DATA)
    agent.client.errors.append(ApiUnavailable("no answer"))
    with pytest.raises(ApiUnavailable):
        await agent.disks.attachments(MACHINE)


async def test_an_api_server_that_refuses_to_say_whose_a_volume_is_is_not_one_that_is_away(
    agent: AgentInMemory,
) -> None:
    await agent.given_made_volume(DATA)
    agent.client.errors.append(ApiError("forbidden", status=403))
    with pytest.raises(ApiError, match="forbidden"):
        await agent.disks.attachments(MACHINE)


async def test_a_volume_that_is_gone_is_named(agent: AgentInMemory) -> None:
    assert await hindrance(agent) == ("VolumeNotFound", "disk root: Volume data is gone", False)


async def test_a_volume_that_was_made_again_under_its_name_is_not_the_machines(agent: AgentInMemory) -> None:
    await agent.given_made_volume(volume(uid="vol-2", claimed_by="vm-1"))
    message = "disk root: Volume data was deleted and made again"
    assert await hindrance(agent) == ("VolumeReplaced", message, True)


@pytest.mark.parametrize("claimed_by", ["", "vm-2"])
async def test_a_volume_that_is_not_given_to_the_machine_is_not_touched(agent: AgentInMemory, claimed_by: str) -> None:
    await agent.given_made_volume(volume(claimed_by=claimed_by))
    message = "disk root: Volume data is not given to this machine"
    assert await hindrance(agent) == ("VolumeNotClaimed", message, False)


async def test_a_pool_that_is_gone_is_named(agent: AgentInMemory) -> None:
    agent.given_volume(DATA)
    reason, message, _ = await hindrance(agent)
    assert (reason, "disk root: StoragePool fast is gone" in message) == ("PoolNotFound", True)


async def test_a_pool_of_a_type_that_this_agent_has_no_driver_for_is_named(agent: AgentInMemory) -> None:
    agent.given_pool(pool(directory={"path": "/srv/images"}))
    agent.given_volume(DATA)
    message = "disk root: this agent has no storage driver for pools of type directory"
    assert await hindrance(agent) == ("NoSuchDriver", message, True)


async def test_storage_that_cannot_be_reached_says_why(agent: AgentInMemory) -> None:
    await agent.given_made_volume(DATA)
    agent.storage.faults.unreachable = "no route to the portal"
    assert await hindrance(agent) == ("PoolUnreachable", "disk root: no route to the portal", False)


async def test_a_volume_that_could_not_be_made_says_why(agent: AgentInMemory) -> None:
    agent.storage.faults.fail_create("vol-1", Failure("ChecksumMismatch", "the image differs", None))
    await agent.given_made_volume(DATA)
    assert await hindrance(agent) == ("VolumeFailed", "disk root: Volume data: the image differs", False)


async def test_a_volume_that_is_not_made_yet_is_waited_for(agent: AgentInMemory) -> None:
    agent.given_pool(pool())
    agent.given_volume(DATA)
    assert await hindrance(agent) == ("VolumeNotReady", "disk root: Volume data is being made", False)


async def test_a_volume_that_its_pool_lost_is_not_waited_for_as_if_it_came(agent: AgentInMemory) -> None:
    agent.given_pool(pool())
    agent.given_volume(volume(claimed_by="vm-1", status={"size": "1Gi"}))
    reason, message, _ = await hindrance(agent)
    assert reason == "VolumeLost"
    assert "disk root: Volume data: StoragePool fast does not hold its data any more" in message


async def test_the_first_disk_that_cannot_be_attached_is_the_one_that_is_named(agent: AgentInMemory) -> None:
    await agent.given_made_volume(DATA)
    gone = [placed_disk(name, volume(name, uid=name)) for name in ("b", "c")]
    machine = vm(disks=[placed_disk("root", DATA), *gone])
    assert (await hindrance(agent, machine))[1] == "disk b: Volume b is gone"
