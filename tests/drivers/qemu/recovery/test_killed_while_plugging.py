"""A driver that is killed at each point of a change of adapters: the next one finds what there is, and finishes.

One real Linux runs through all of it. After each kill a tap is there for at most each adapter that is spoken of; after
the next driver's turn the guest has what was asked for, each adapter holds its one tap, and nothing else is held.
"""

import asyncio
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.qemu.machines.lan import Lan, has_lans, new_lan
from tests.drivers.qemu.machines.starting import record_file
from tests.drivers.qemu.machines.test_hotplug import linux, sees
from tests.drivers.qemu.machines.test_nics import tap_of
from tests.drivers.qemu.recovery.test_killed_at_every_await import EVERY, killed
from virtplane_drivers.hypervisor.contract import Nic
from virtplane_drivers.hypervisor.nics import nic_changes
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver

pytestmark = pytest.mark.skipif(not has_lans(), reason="networks take root")


@dataclass(frozen=True)
class Lans:
    one: Lan
    other: Lan

    def held(self) -> set[str]:
        return {f"one {name}" for name in self.one.taps()} | {f"other {name}" for name in self.other.taps()}


@pytest.fixture
def lans(tmp_path: Path) -> Iterator[Lans]:
    with new_lan(tmp_path / "one") as one, new_lan(tmp_path / "other") as other:
        yield Lans(one, other)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("change", ["plug", "unplug", "move", "pull"])
async def test_the_next_driver_finds_what_there_is_and_finishes(host: QemuHost, lans: Lans, change: str) -> None:
    lan, dmz = lans.one.nic("lan"), lans.one.nic("dmz", number=2, queues=2)
    moved = replace(dmz, attachment=lans.other.nic("dmz").attachment)
    ends: dict[str, tuple[tuple[Nic, ...], tuple[Nic, ...]]] = {
        "plug": ((lan,), (lan, dmz)),
        "unplug": ((lan, dmz), (lan,)),
        "move": ((lan, dmz), (lan, moved)),
        "pull": ((lan, dmz), (replace(lan, link_up=False), dmz)),
    }
    before, after = ends[change]
    allowed = {where(lans, nic) for nic in (*before, *after)}
    async with host.open() as driver:
        desired = await linux(host, driver, *before)
    fatal, points = 1, 0
    while True:
        async with host.open() as driver:
            await driver.define(replace(desired, nics=before))
            await driver.change_nics(desired.uid)
            seen = await driver.observe(desired.uid)
            assert sorted(seen.nics, key=str) == sorted(before, key=str)
            await driver.define(replace(desired, nics=after))
        status = await killed(host, "change_nics", desired.uid, fatal)
        assert lans.held() <= allowed
        async with host.open() as driver:
            seen = await driver.observe(desired.uid)
            assert {nic.name for nic in seen.nics} <= {nic.name for nic in (*before, *after)}
            await finished(host, driver, desired.uid)
            assert lans.held() == {where(lans, nic) for nic in after}
            await sees(driver, desired.uid, {nic.mac: nic.link_up for nic in after})
        if status == 0:
            break
        assert status == -signal.SIGKILL
        fatal, points = fatal + EVERY, points + 1
    assert points > 0


async def finished(host: QemuHost, driver: QemuDriver, uid: str) -> None:
    """As an agent's passes do: the verb is called where what is seen asks for it, and only then."""
    async with asyncio.timeout(20):
        while True:
            is_settled = all(stage == "Plugged" for stage in stages(host, uid))
            seen = await driver.observe(uid)
            if not nic_changes(seen.nics, seen.defined_nics).is_empty:
                await driver.change_nics(uid)
            elif is_settled:
                break
            await asyncio.sleep(0.02)


def stages(host: QemuHost, uid: str) -> list[str]:
    """Of the run's adapters, as the record has them."""
    running = json.loads(record_file(host, uid).read_text())["running"]
    return [nic["stage"] for nic in running["nics"]]


def where(lans: Lans, nic: Nic) -> str:
    namespace = getattr(nic.attachment, "namespace", None)
    return f"{'one' if namespace == lans.one.namespace.path else 'other'} {tap_of(nic)}"
