"""What every driver keeps of network adapters, tried on each of them. QEMU's guests are real."""

from dataclasses import replace

import pytest

from tests.drivers.hypervisor.hosts import Host, machine
from tests.drivers.hypervisor.test_contract import until_suspended
from virtplane_api.vocabulary import InterfaceModel, PowerState
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import ABSENT, HypervisorDriver, Nic

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
