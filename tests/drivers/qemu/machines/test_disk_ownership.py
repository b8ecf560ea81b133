"""Never two writers: two drivers, as of two agents on two hosts, on a pool that both reach."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.guest_processes import end_guests, guest_processes
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until_suspended
from tests.drivers.qemu.machines.starting import defined
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import DriverError, Refused, StaleToken, Unavailable
from virtplane_drivers.hypervisor.contract import Desired, Owner
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver

CLUSTER = "cluster-1"


def driver_of(host: QemuHost, name: str) -> QemuDriver:
    folder = host.folder / name
    return QemuDriver(folder / "state", folder / "run", accelerator="tcg", hypervisor=f"{name}-qemu")


@pytest.fixture
async def two(host: QemuHost) -> AsyncIterator[tuple[QemuDriver, QemuDriver]]:
    first, second = driver_of(host, "a"), driver_of(host, "b")
    async with first, second:
        yield first, second


def under(desired: Desired, token: int) -> Desired:
    return replace(desired, owner=Owner(CLUSTER, token))


def another(desired: Desired, *, confirmed: bool) -> Desired:
    """Another machine with the same disk."""
    disks = tuple(replace(disk, claim_is_confirmed=confirmed) for disk in desired.disks)
    return replace(desired, uid=f"{desired.uid}-2", name="db", disks=disks)


def lock_of(desired: Desired) -> Path:
    [disk] = desired.disks
    return Path(f"{disk.attachment.path}.lock")  # type: ignore[union-attr]


async def run(driver: QemuDriver, desired: Desired) -> None:
    await driver.define(desired)
    await driver.start(desired.uid)


async def test_a_machine_that_runs_on_one_host_does_not_start_on_another(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    first, second = two
    desired = defined(host)
    await run(first, under(desired, 1))
    with pytest.raises(Unavailable, match=r"in use by machine shop/web .* on a-qemu under token 1") as refused:
        await run(second, under(desired, 2))
    assert refused.value.reason == "DiskInUse"
    assert len(guest_processes(host.folder)) == 1
    assert (await second.observe(desired.uid)).power is PowerState.STOPPED
    await first.power_off(desired.uid)
    await second.start(desired.uid)
    assert json.loads(lock_of(desired).read_text())["token"] == 2


async def test_the_lock_lasts_as_long_as_the_process_and_not_as_the_agent(host: QemuHost) -> None:
    desired = defined(host)
    async with driver_of(host, "a") as first:
        await run(first, under(desired, 1))
    async with driver_of(host, "b") as second:
        with pytest.raises(Unavailable, match="in use by"):
            await run(second, under(desired, 2))
        # Until the kernel says that it is dead: its command line goes before its open files, and so its locks, do.
        end_guests(host.folder)
        await second.start(desired.uid)


async def test_an_owner_of_the_past_is_told_the_token_of_the_present(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    first, second = two
    desired = defined(host)
    await run(second, under(desired, 7))
    await second.power_off(desired.uid)
    with pytest.raises(StaleToken, match="on b-qemu under token 7") as stale:
        await run(first, under(desired, 6))
    assert stale.value.seen == 7
    assert guest_processes(host.folder) == []
    await run(first, under(desired, 8))


async def test_a_disk_moves_to_another_machine_once_its_claim_is_confirmed(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    first, second = two
    desired = defined(host)
    await run(first, under(desired, 5))
    with pytest.raises(Unavailable, match="in use by"):
        await run(second, under(another(desired, confirmed=True), 1))
    await first.power_off(desired.uid)
    with pytest.raises(Unavailable, match="the API server cannot be asked") as unknown:
        await run(second, under(another(desired, confirmed=False), 1))
    assert unknown.value.reason == "ClaimNotConfirmed"
    await run(second, under(another(desired, confirmed=True), 1))
    with pytest.raises(DriverError):
        await first.start(desired.uid)
    assert len(guest_processes(host.folder)) == 1


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "clu', b"\0" * 100], ids=["empty", "torn", "zeros"])
async def test_a_lock_whose_record_is_damaged_still_locks(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver], content: bytes
) -> None:
    first, second = two
    desired = defined(host)
    lock_of(desired).write_bytes(content)
    await run(first, under(desired, 1))
    with pytest.raises(Unavailable, match="in use by machine shop/web"):
        await run(second, under(desired, 1))


async def test_of_many_starts_at_once_one_wins(host: QemuHost, two: tuple[QemuDriver, QemuDriver]) -> None:
    """As by an operator that errs: both placements, also of one token, at the same moment; again and again."""
    desired = defined(host)
    for token in range(1, 6):
        for driver in two:
            await driver.define(under(desired, token))
        results = await asyncio.gather(*(driver.start(desired.uid) for driver in two), return_exceptions=True)
        assert [type(result) for result in results].count(type(None)) == 1, results
        assert len(guest_processes(host.folder)) == 1
        for driver in two:
            await driver.power_off(desired.uid)
    end_guests(host.folder)


async def test_qemu_s_own_lock_stays_on(host: QemuHost, two: tuple[QemuDriver, QemuDriver]) -> None:
    """Somebody removes our lock's file, a second owner makes a new one: the image itself refuses the second writer."""
    first, second = two
    desired = defined(host)
    await run(first, under(desired, 1))
    lock_of(desired).unlink()
    with pytest.raises(DriverError, match='Failed to get "write" lock'):
        await run(second, under(desired, 2))
    assert len(guest_processes(host.folder)) == 1


async def test_a_memory_is_not_read_over_a_disk_that_another_host_used_since(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    first, second = two
    desired = under(defined(host), 1)
    await run(first, desired)
    await until_suspended(first, desired.uid)
    [memory] = lock_of(desired).parent.glob("*.memory")
    aside = memory.rename(memory.with_name("aside"))
    await run(second, under(desired, 2))
    await second.power_off(desired.uid)
    aside.rename(memory)
    await first.define(under(desired, 3))
    with pytest.raises(Refused, match="its memory does not fit any more") as refused:
        await first.start(desired.uid)
    assert refused.value.reason == Reason.MEMORY_STALE
    assert memory.exists()
    assert (await first.observe(desired.uid)).power is PowerState.SUSPENDED


async def test_a_memory_that_no_record_knows_keeps_its_machine_from_booting(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    first, second = two
    desired = under(defined(host), 1)
    await run(first, desired)
    await until_suspended(first, desired.uid)
    [memory] = lock_of(desired).parent.glob("*.memory")
    await second.define(under(desired, 2))
    with pytest.raises(Refused, match=memory.name) as refused:
        await second.start(desired.uid)
    assert refused.value.reason == Reason.MEMORY_LEFT
    memory.unlink()
    await second.start(desired.uid)
    assert (await second.observe(desired.uid)).power is PowerState.RUNNING


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "null",
        "[" * 4000,
        '{"format": 1}',
        '{"format": 1, "cluster_id": "c", "machine_uid": 7, "machine": "m", "token": "9", "hypervisor": "h"}',
        '{"format": 1, "cluster_id": "c", "machine_uid": "u", "machine": "m", "token": 1e99, "incarnation": "../../x"}',
    ],
)
async def test_whatever_stands_in_a_lock_s_record_the_machine_starts_and_is_not_suspended_for_good(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver], line: str
) -> None:
    """A guest that broke into its QEMU can write there; a memory that no lock vouches for could never be read again."""
    first, _ = two
    desired = defined(host)
    lock_of(desired).write_text(line)
    await run(first, desired)
    lock_of(desired).write_text(line)
    with pytest.raises(Unavailable, match="restart it") as refused:
        await first.suspend(desired.uid)
    assert refused.value.reason == Reason.SUSPEND_FAILED
    assert (await first.observe(desired.uid)).power is PowerState.RUNNING
    assert list(host.folder.rglob("*.memory*")) == []


async def test_a_lock_s_record_cannot_choose_where_a_memory_goes(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    first, _ = two
    desired = defined(host)
    await run(first, desired)
    record = json.loads(lock_of(desired).read_text())
    lock_of(desired).write_text(json.dumps(record | {"incarnation": "x/../../../escaped"}) + "\n")
    with pytest.raises(Unavailable, match="restart it"):
        await first.suspend(desired.uid)


async def test_disks_of_different_runs_keep_their_machine_from_being_suspended(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    first, _ = two
    desired, second_disk = defined(host), defined(host)
    desired = replace(desired, disks=(*desired.disks, *(replace(disk, name="data") for disk in second_disk.disks)))
    await run(first, desired)
    lock = lock_of(second_disk)
    record = json.loads(lock.read_text())
    lock.write_text(json.dumps(record | {"incarnation": "00000000"}) + "\n")
    with pytest.raises(Unavailable, match="restart it"):
        await first.suspend(desired.uid)
    lock.write_text(json.dumps(record) + "\n")
    await until_suspended(first, desired.uid)
    await first.start(desired.uid)
    assert (await first.observe(desired.uid)).power is PowerState.RUNNING


async def test_a_start_that_fails_at_its_second_disk_leaves_the_first_as_it_was(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    """A suspended memory over the first disk still fits then."""
    first, second = two
    asleep, busy = under(defined(host), 1), under(defined(host), 1)
    await run(first, asleep)
    await until_suspended(first, asleep.uid)
    await run(first, busy)
    thief = another(asleep, confirmed=True)
    thief = replace(thief, disks=(*thief.disks, *(replace(disk, name="data") for disk in busy.disks)))
    with pytest.raises(Unavailable, match="in use"):
        await run(second, thief)
    await first.start(asleep.uid)
    assert (await first.observe(asleep.uid)).power is PowerState.RUNNING


async def test_destroy_removes_a_memory_that_a_lost_record_knew_of(
    host: QemuHost, two: tuple[QemuDriver, QemuDriver]
) -> None:
    first, second = two
    desired = under(defined(host), 1)
    await run(first, desired)
    await until_suspended(first, desired.uid)
    [memory] = host.folder.rglob("*.memory")
    memory.with_name(f"{desired.uid}.0badc0de.memory.partial").touch()
    await second.define(under(desired, 2))
    await second.destroy(desired.uid)
    assert list(host.folder.rglob("*.memory*")) == []
