"""What every driver keeps of network adapters, tried on each of them. QEMU's guests are real."""

import asyncio
from dataclasses import replace

import pytest

from tests.drivers.hypervisor.hosts import Host, machine
from tests.drivers.hypervisor.test_contract import until_suspended
from virtplane_api.vocabulary import InterfaceModel, PowerState
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import ABSENT, CanPause, CanPlugNics, HypervisorDriver, Nic, Observed
from virtplane_drivers.hypervisor.nics import nic_changes

MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")


async def test_a_machine_with_two_adapters_starts_and_starts_again_also_by_the_next_driver(host: Host) -> None:
    with host.port() as lan, host.port() as storage:
        async with host.open() as driver:
            nics = (Nic("lan", MACS[0], lan), Nic("storage", MACS[1], storage, model=InterfaceModel.E1000E))
            desired = replace(machine(host), nics=nics)
            for _ in range(2):
                await driver.define(desired)
                await driver.start(desired.uid)
                assert (await driver.observe(desired.uid)).power is PowerState.RUNNING
                await driver.power_off(desired.uid)
        async with host.open() as driver:
            await driver.start(desired.uid)
            assert (await driver.observe(desired.uid)).power is PowerState.RUNNING
            await driver.destroy(desired.uid)
            assert await driver.observe(desired.uid) == ABSENT


async def test_a_suspended_machine_wakes_with_its_adapters_whatever_is_defined_meanwhile(
    host: Host, driver: HypervisorDriver
) -> None:
    with host.port() as lan, host.port() as storage:
        nics = (Nic("lan", MACS[0], lan), Nic("storage", MACS[1], storage, model=InterfaceModel.E1000E))
        desired = replace(machine(host), nics=nics)
        await driver.define(desired)
        await driver.start(desired.uid)
        await until_suspended(driver, desired.uid)
        await driver.define(replace(desired, nics=desired.nics[:1]))
        await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING


async def test_a_port_that_cannot_be_joined_is_refused_and_the_definition_of_before_stays(
    host: Host, driver: HypervisorDriver
) -> None:
    with host.port() as lan:
        desired = replace(machine(host), nics=(Nic("lan", MACS[0], lan),))
        await driver.define(desired)
        foreign = replace(desired, nics=(*desired.nics, Nic("storage", MACS[1], host.foreign_port())))
        with pytest.raises(Refused, match="interface storage: ") as refused:
            await driver.define(foreign)
        assert refused.value.reason == "NicNotAttachable"
        await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).power is PowerState.RUNNING


async def test_a_machine_that_cannot_be_joined_is_not_known_for_having_been_defined(
    host: Host, driver: HypervisorDriver
) -> None:
    desired = replace(machine(host), nics=(Nic("lan", MACS[0], host.foreign_port()),))
    with pytest.raises(Refused, match="interface lan: "):
        await driver.define(desired)
    assert await driver.observe(desired.uid) == ABSENT


async def test_what_it_can_join_is_told_and_the_host_s_ports_are_of_it(host: Host, driver: HypervisorDriver) -> None:
    facts = await driver.probe()
    with host.port() as port:
        assert type(port) in facts.nic_attachments
    assert type(host.foreign_port()) not in facts.nic_attachments


# --- while it runs ----------------------------------------------------------------------------------------------------


def left_to_do(seen: Observed) -> bool:
    return not nic_changes(seen.nics, seen.defined_nics).is_empty


async def test_a_running_machine_gets_an_adapter_and_the_next_driver_and_the_next_start_know_it(host: Host) -> None:
    with host.port() as lan, host.port() as dmz, host.port() as third:
        async with host.open() as driver:
            assert isinstance(driver, CanPlugNics)
            assert "HotplugInterfaces" in (await driver.probe()).capabilities
            desired = replace(machine(host), nics=(Nic("lan", MACS[0], lan),))
            await driver.define(desired)
            await driver.change_nics(desired.uid)  # of one that does not run
            await driver.start(desired.uid)
            started = (await driver.observe(desired.uid)).started_at
            more = (*desired.nics, Nic("dmz", MACS[1], dmz, model=InterfaceModel.E1000E))
            await driver.define(replace(desired, nics=more))
            seen = await driver.observe(desired.uid)
            assert (seen.nics, seen.defined_nics, left_to_do(seen)) == (desired.nics, more, True)
            for _ in range(2):
                await driver.change_nics(desired.uid)
                assert (await driver.observe(desired.uid)).nics == more
        async with host.open() as driver:
            assert isinstance(driver, CanPlugNics)
            seen = await driver.observe(desired.uid)
            assert (seen.power, seen.nics, seen.started_at) == (PowerState.RUNNING, more, started)
            assert isinstance(driver, CanPause)
            await driver.pause(desired.uid)
            more = (*more, Nic("third", "52:54:00:00:00:03", third))
            await driver.define(replace(desired, nics=more))
            await driver.change_nics(desired.uid)
            assert (await driver.observe(desired.uid)).nics == more
            await driver.power_off(desired.uid)
            assert (await driver.observe(desired.uid)).nics == ()
            await driver.start(desired.uid)
            assert (await driver.observe(desired.uid)).nics == more


async def test_a_machine_without_adapters_gets_its_first_one_while_it_runs(
    host: Host, driver: HypervisorDriver
) -> None:
    assert isinstance(driver, CanPlugNics)
    with host.port() as lan:
        desired = machine(host)
        await driver.define(desired)
        await driver.start(desired.uid)
        await driver.define(replace(desired, nics=(Nic("lan", MACS[0], lan),)))
        await driver.change_nics(desired.uid)
        assert [nic.name for nic in (await driver.observe(desired.uid)).nics] == ["lan"]


async def test_an_adapter_that_its_guest_keeps_is_seen_until_the_machine_ends(
    host: Host, driver: HypervisorDriver
) -> None:
    assert isinstance(driver, CanPlugNics)
    with host.port() as lan, host.port() as dmz:
        nics = (Nic("lan", MACS[0], lan), Nic("dmz", MACS[1], dmz))
        desired = replace(machine(host), nics=nics)
        await driver.define(desired)
        await driver.start(desired.uid)
        await driver.define(replace(desired, nics=nics[:1]))
        await driver.change_nics(desired.uid)
        seen = await driver.observe(desired.uid)
        assert (seen.nics, left_to_do(seen)) == (nics, True)
        # What is asked for in its place waits as well.
        await driver.define(replace(desired, nics=(nics[0], Nic("dmz", "52:54:00:00:00:03", dmz))))
        await driver.change_nics(desired.uid)
        assert (await driver.observe(desired.uid)).nics == nics
        await driver.power_off(desired.uid)
        await driver.start(desired.uid)
        seen = await driver.observe(desired.uid)
        assert ([nic.mac for nic in seen.nics], left_to_do(seen)) == ([MACS[0], "52:54:00:00:00:03"], False)


async def test_a_cable_is_pulled_and_put_in_again_and_stays_as_it_is(host: Host, driver: HypervisorDriver) -> None:
    assert isinstance(driver, CanPlugNics)
    with host.port() as lan:
        down = Nic("lan", MACS[0], lan, link_up=False)
        desired = replace(machine(host), nics=(down,))
        await driver.define(desired)
        await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).nics == (down,)
        for link_up in (True, False):
            nic = replace(down, link_up=link_up)
            await driver.define(replace(desired, nics=(nic,)))
            await driver.change_nics(desired.uid)
            assert (await driver.observe(desired.uid)).nics == (nic,)
        await until_suspended(driver, desired.uid)
        assert (await driver.observe(desired.uid)).nics == (down,)
        await driver.start(desired.uid)
        assert (await driver.observe(desired.uid)).nics == (down,)


async def test_a_suspended_machine_wakes_with_the_adapter_that_it_got_while_it_ran(
    host: Host, driver: HypervisorDriver
) -> None:
    assert isinstance(driver, CanPlugNics)
    with host.port() as lan, host.port() as dmz:
        desired = replace(machine(host), nics=(Nic("lan", MACS[0], lan),))
        await driver.define(desired)
        await driver.start(desired.uid)
        more = (*desired.nics, Nic("dmz", MACS[1], dmz))
        await driver.define(replace(desired, nics=more))
        await driver.change_nics(desired.uid)
        await until_suspended(driver, desired.uid)
        await driver.define(desired)
        await driver.change_nics(desired.uid)
        await driver.start(desired.uid)
        seen = await driver.observe(desired.uid)
        assert (seen.power, seen.nics, left_to_do(seen)) == (PowerState.RUNNING, more, True)


async def test_an_adapter_that_is_cut_off_is_told_of_and_seen_also_by_the_next_driver_and_joined_by_a_start(
    host: Host,
) -> None:
    with host.port() as lan, host.port() as dmz:
        nics = (Nic("lan", MACS[0], lan), Nic("dmz", MACS[1], dmz))
        async with host.open() as driver:
            desired = replace(machine(host), nics=nics)
            await driver.define(desired)
            await driver.start(desired.uid)
            assert (await driver.observe(desired.uid)).nics == nics
            host.cut_off(desired.uid, nics[1])
            cut = (nics[0], replace(nics[1], is_cut_off=True))
            async with asyncio.timeout(20):
                async for uid in driver.events():
                    if (await driver.observe(uid)).nics == cut:
                        break
        async with host.open() as driver:
            seen = await driver.observe(desired.uid)
            assert (seen.nics, left_to_do(seen)) == (cut, True)
            await driver.power_off(desired.uid)
            await driver.start(desired.uid)
            assert (await driver.observe(desired.uid)).nics == nics
