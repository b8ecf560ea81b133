"""Passes over one Volume on fake storage: made once, tried again when its time has come, taken away when nobody may
use it any more."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.agent.doubles import Clock, EventsDouble, InMemoryClient
from tests.agent.objects import AGENT, conditions, pool, tell, volume
from virtplane_agent.placed import Placed
from virtplane_agent.reporting import Reporter
from virtplane_agent.volumes.desired import desired_volume, pool_value
from virtplane_agent.volumes.reconcile import VolumeReconciler
from virtplane_agent.volumes.status import OWNED, OWNED_CONDITIONS
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import STORAGE_POOLS, VOLUMES, Object, uid_of
from virtplane_api.reconcile import Done, Failed, Outcome, Wait
from virtplane_drivers.errors import Refused
from virtplane_drivers.storage.contract import DesiredVolume, Failure, Pool, VolumeState
from virtplane_drivers.storage.fake import FakeStorage

UID = "vol-1"
UNREACHABLE = Failure("SourceUnreachable", "no route to images.example", retry_after_s=30.0)
MISMATCH = Failure("ChecksumMismatch", "the image differs", retry_after_s=None)


class WatchedStorage(FakeStorage):
    """The fake one, which counts what it was asked to make and to delete."""

    def __init__(self) -> None:
        super().__init__()
        self.created = 0
        self.deleted = 0
        self.refuses: Refused | None = None

    async def create(self, pool: Pool, desired: DesiredVolume) -> None:
        self.created += 1
        if self.refuses is not None:
            raise self.refuses
        await super().create(pool, desired)

    async def delete(self, pool: Pool, uid: str) -> None:
        self.deleted += 1
        await super().delete(pool, uid)


class VolumesInMemory:
    """The volume part of an agent, without its loop: a test decides when it looks."""

    def __init__(self, client: InMemoryClient, events: EventsDouble, clock: Clock, storage: WatchedStorage) -> None:
        self.client, self.events, self.clock, self.storage = client, events, clock, storage
        self.woken: list[str] = []
        self._volumes = Placed(client, VOLUMES, AGENT, lambda _uid: None)
        self._pools = Informer(client, STORAGE_POOLS, lambda _key: None)
        self._reconciler = VolumeReconciler(
            {"fake": storage},
            self._volumes,
            self._pools,
            Reporter(
                client,
                VOLUMES,
                events,
                self._volumes.put_written,
                owned=OWNED,
                owned_conditions=OWNED_CONDITIONS,
                clock=clock.monotonic,
            ),
            self.woken.append,
            clock=clock.monotonic,
        )

    def given(self, obj: Object) -> None:
        """The API server holds the Volume, and the watch has told of it."""
        tell(self._volumes.informer, self.client.put(VOLUMES, obj))

    def given_pool(self, obj: Object) -> None:
        tell(self._pools, self.client.put(STORAGE_POOLS, obj))

    async def given_made(self, obj: Object) -> None:
        """As `given`; the storage holds it already."""
        self.given(obj)
        await FakeStorage.create(self.storage, pool_value(pool()), desired_volume(obj))
        await self.settled(uid_of(obj))

    async def look(self) -> Outcome:
        """One pass."""
        return await self._reconciler.reconcile(UID)

    async def settled(self, uid: str = UID) -> None:
        """The storage has ended what it was at."""
        async with asyncio.timeout(5):
            while await self.state(uid) is VolumeState.CREATING:
                await asyncio.sleep(0)

    async def state(self, uid: str = UID) -> VolumeState | None:
        return (await self.storage.observe(pool_value(pool()), uid)).state

    async def status(self) -> Object:
        status: Object = (await self.client.get(VOLUMES, "data", "shop"))["status"]
        return status


@pytest.fixture
async def volumes(client: InMemoryClient, events: EventsDouble, clock: Clock) -> AsyncIterator[VolumesInMemory]:
    async with WatchedStorage() as storage:
        made = VolumesInMemory(client, events, clock, storage)
        made.given_pool(pool())
        yield made


# --- making -----------------------------------------------------------------------------------------------------------


async def test_a_volume_is_made_once_and_reported_when_it_is_ready(volumes: VolumesInMemory) -> None:
    volumes.given(volume())
    await volumes.look()
    assert volumes.client.applied == []  # 'Creating' that lasts no second is no news
    await volumes.settled()
    await volumes.look()
    assert conditions(await volumes.status()) == {"Ready": ("True", "Made")}
    await volumes.look()
    assert (volumes.storage.created, len(volumes.client.applied)) == (1, 1)


async def test_what_takes_longer_than_a_second_is_reported_while_it_is_made(volumes: VolumesInMemory) -> None:
    volumes.storage.create_s = 3600
    volumes.given(volume())
    assert await volumes.look() == Wait(1.0, "a state that may pass")
    volumes.clock.advance(1)
    await volumes.look()
    assert conditions(await volumes.status())["Reconciling"] == ("True", "Creating")
    assert volumes.storage.created == 1


async def test_the_machine_that_waits_is_woken_when_the_volume_is_there(volumes: VolumesInMemory) -> None:
    volumes.given(volume(claimed_by="vm-1"))
    await volumes.look()
    assert volumes.woken == []
    await volumes.settled()
    await volumes.look()
    assert volumes.woken == ["vm-1"]


async def test_a_volume_whose_reply_was_lost_is_found_made(volumes: VolumesInMemory) -> None:
    volumes.storage.faults.lost_replies = 1
    volumes.given(volume())
    assert await volumes.look() == Failed(
        "ReplyLost", "the reply was lost; what was asked for may be done", retry_after_s=0.1
    )
    await volumes.settled()
    await volumes.look()
    assert conditions(await volumes.status()) == {"Ready": ("True", "Made")}
    assert volumes.storage.created == 1


# --- failures ---------------------------------------------------------------------------------------------------------


async def failed_once(volumes: VolumesInMemory, failure: Failure) -> Outcome:
    """The first attempt has ended so; the outcome of the pass that sees it."""
    volumes.storage.faults.fail_create(UID, failure)
    volumes.given(volume(claimed_by="vm-1"))
    await volumes.look()
    await volumes.settled()
    return await volumes.look()


async def test_a_failure_is_tried_again_when_its_time_has_come_and_not_before(volumes: VolumesInMemory) -> None:
    assert await failed_once(volumes, UNREACHABLE) == Wait(30.0, "SourceUnreachable")
    assert conditions(await volumes.status())["Reconciling"] == ("True", "SourceUnreachable")
    volumes.clock.advance(20)
    assert await volumes.look() == Wait(10.0, "SourceUnreachable")
    assert volumes.storage.created == 1
    volumes.clock.advance(10)
    await volumes.look()
    assert volumes.storage.created == 2
    await volumes.settled()
    await volumes.look()
    assert conditions(await volumes.status()) == {"Ready": ("True", "Made")}


async def test_every_failure_has_its_own_time(volumes: VolumesInMemory) -> None:
    await failed_once(volumes, UNREACHABLE)
    volumes.storage.faults.fail_create(UID, Failure("Busy", "the server is busy", retry_after_s=5.0))
    volumes.clock.advance(30)
    await volumes.look()
    await volumes.settled()
    assert await volumes.look() == Wait(5.0, "Busy")
    volumes.clock.advance(5)
    await volumes.look()
    assert volumes.storage.created == 3


async def test_a_failure_for_good_is_never_tried_again(volumes: VolumesInMemory) -> None:
    assert await failed_once(volumes, MISMATCH) == Done()
    assert conditions(await volumes.status())["Stalled"] == ("True", "ChecksumMismatch")
    volumes.clock.advance(86400)
    await volumes.look()
    assert volumes.storage.created == 1


async def test_a_machine_that_waits_for_a_volume_learns_that_it_failed(volumes: VolumesInMemory) -> None:
    await failed_once(volumes, UNREACHABLE)
    assert volumes.woken == ["vm-1"]


async def test_a_request_that_the_driver_refuses_is_stalled(volumes: VolumesInMemory) -> None:
    volumes.storage.refuses = Refused("raw images only", reason="FormatRefused")
    volumes.given(volume())
    assert await volumes.look() == Failed("FormatRefused", "raw images only")
    assert conditions(await volumes.status())["Stalled"] == ("True", "FormatRefused")


async def test_a_volume_that_its_pool_lost_is_not_replaced_by_an_empty_one(volumes: VolumesInMemory) -> None:
    volumes.given(volume(status={"size": "1Gi", "format": "qcow2"}))
    outcome = await volumes.look()
    assert isinstance(outcome, Failed)
    assert outcome.reason == "VolumeLost"
    assert volumes.storage.created == 0
    assert (await volumes.status())["size"] == "1Gi"


# --- pools ------------------------------------------------------------------------------------------------------------


async def test_a_pool_that_is_not_there_is_said_and_the_volume_made_when_it_comes(volumes: VolumesInMemory) -> None:
    volumes.given(volume(pool_name="slow"))
    outcome = await volumes.look()
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.retry_after_s) == ("PoolNotFound", 10.0)
    assert conditions(await volumes.status())["Ready"] == ("False", "PoolNotFound")
    assert volumes.storage.created == 0
    volumes.given_pool(pool("slow"))
    await volumes.look()
    assert volumes.storage.created == 1


async def test_a_pool_that_cannot_be_reached_is_asked_again_later(volumes: VolumesInMemory) -> None:
    volumes.storage.faults.unreachable = "no route to the portal"
    volumes.given(volume())
    assert await volumes.look() == Failed("PoolUnreachable", "no route to the portal", retry_after_s=5.0)
    assert conditions(await volumes.status())["Reconciling"] == ("True", "PoolUnreachable")


@pytest.mark.parametrize("being_deleted", [False, True], ids=["to be made", "to be deleted"])
async def test_a_pool_of_a_type_that_this_agent_has_no_driver_for_is_stalled(
    volumes: VolumesInMemory,
    being_deleted: bool,  # noqa: FBT001
) -> None:
    volumes.given_pool(pool(directory={"path": "/srv/images"}))
    volumes.given(volume(being_deleted=being_deleted, deletionPolicy="Delete"))
    outcome = await volumes.look()
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.retry_after_s) == ("NoSuchDriver", None)
    status = await volumes.status()
    assert conditions(status)["Stalled"] == ("True", "NoSuchDriver")
    assert "no storage driver for pools of type directory; start it with one (--drivers)" in outcome.message
    assert status["host"]["state"] == "Present"


async def test_the_data_of_a_retained_volume_stays_without_any_driver(volumes: VolumesInMemory) -> None:
    volumes.given_pool(pool(directory={"path": "/srv/images"}))
    volumes.given(volume(being_deleted=True))
    assert await volumes.look() == Done()
    assert (await volumes.status())["host"]["state"] == "Removed"


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_deleted_volume_is_taken_away_and_then_said_to_be_removed(volumes: VolumesInMemory) -> None:
    await volumes.given_made(volume(being_deleted=True, deletionPolicy="Delete"))
    assert await volumes.look() == Done()
    assert await volumes.state() is None
    status = await volumes.status()
    assert (status["host"]["state"], conditions(status)["Ready"]) == ("Removed", ("False", "Deleted"))


@pytest.mark.parametrize("spec", [{}, {"deletionPolicy": "Retain"}], ids=["no policy", "Retain"])
async def test_data_stays_unless_the_policy_says_delete(volumes: VolumesInMemory, spec: dict[str, Any]) -> None:
    await volumes.given_made(volume(being_deleted=True, **spec))
    assert await volumes.look() == Done()
    assert (await volumes.state(), volumes.storage.deleted) == (VolumeState.READY, 0)
    status = await volumes.status()
    assert (status["host"]["state"], conditions(status)["Ready"]) == ("Removed", ("False", "Retained"))


async def test_a_volume_that_a_machine_may_use_is_not_taken_away_before_its_claim_ends(
    volumes: VolumesInMemory,
) -> None:
    await volumes.given_made(volume(being_deleted=True, deletionPolicy="Delete", claimed_by="vm-1"))
    assert await volumes.look() == Done()
    assert await volumes.state() is VolumeState.READY
    assert conditions(await volumes.status()) == {"Ready": ("False", "InUse")}
    assert [(type_, reason) for type_, reason, _note in volumes.events.said] == [("Warning", "InUse")]
    assert await volumes.look() == Done()
    assert len(volumes.client.applied) == 1
    volumes.given(volume(being_deleted=True, deletionPolicy="Delete"))
    await volumes.look()
    assert await volumes.state() is None
    assert conditions(await volumes.status()) == {"Ready": ("False", "Deleted")}


async def test_a_volume_that_is_half_made_can_be_deleted(volumes: VolumesInMemory) -> None:
    volumes.storage.create_s = 3600
    volumes.given(volume())
    await volumes.look()
    volumes.given(volume(being_deleted=True, deletionPolicy="Delete"))
    await volumes.look()
    assert await volumes.state() is None
    assert (await volumes.status())["host"]["state"] == "Removed"


@pytest.mark.parametrize("lost", ["pool", "route", "reply"])
async def test_removed_is_not_said_before_the_pool_has_confirmed_it(volumes: VolumesInMemory, lost: str) -> None:
    doomed = volume(being_deleted=True, deletionPolicy="Delete", pool_name="slow" if lost == "pool" else "fast")
    await volumes.given_made(doomed)
    match lost:
        case "route":
            volumes.storage.faults.unreachable = "no route to the portal"
        case "reply":
            volumes.storage.faults.lost_replies = 1
    assert isinstance(await volumes.look(), Failed)
    assert (await volumes.status())["host"]["state"] == "Present"
    volumes.storage.faults.unreachable = None
    volumes.given_pool(pool("slow"))
    await volumes.look()
    assert (await volumes.status())["host"]["state"] == "Removed"


async def test_a_volume_that_is_not_placed_here_any_more_is_left_as_it_is(volumes: VolumesInMemory) -> None:
    await volumes.given_made(volume())
    tell(volumes._volumes.informer, volume(), "DELETED")
    assert await volumes.look() == Done()
    assert (await volumes.state(), volumes.storage.deleted) == (VolumeState.READY, 0)
    assert volumes.client.applied == []
