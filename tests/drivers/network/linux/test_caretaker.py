"""What a driver repairs by itself, with nobody who applies anything, and that none of its own faults ends that."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.drivers.network.linux.firewalled import Walled, network, walled_host
from tests.drivers.network.numbered import port
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.seen import SeenAddresses

LAN = network(port(2))


@pytest.fixture
async def walled(root: None) -> AsyncIterator[Walled]:
    async with walled_host() as one:
        yield one


async def flushed_rules_are_put_back(walled: Walled) -> None:
    rules = walled.host.machine.run("nft", "list", "ruleset")
    assert "virtplane" in rules
    walled.host.machine.run("nft", "flush", "ruleset")
    async with asyncio.timeout(10):
        while walled.host.machine.run("nft", "list", "ruleset") != rules:
            await asyncio.sleep(0.02)


async def test_rules_of_the_host_that_somebody_flushes_are_put_back(walled: Walled) -> None:
    async with walled.another_driver(check_every_s=0.05) as driver:
        await driver.apply(LAN)
        for _ in range(2):
            await flushed_rules_are_put_back(walled)


@pytest.mark.parametrize("fault", [OSError("no memory"), RuntimeError("a fault of ours")], ids=["OSError", "fault"])
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (LinuxNetworks, "_repair_host_rules"),
        (LinuxNetworks, "_look_at_host"),
        (LinuxNetworks, "_look_at_bridges"),
        (SeenAddresses, "has_news"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
async def test_a_step_that_fails_is_told_of_and_the_host_is_taken_care_of_as_before(
    walled: Walled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: type[Any],
    step: str,
    fault: Exception,
) -> None:
    failed = asyncio.Event()

    async def fails(*_: object) -> None:
        failed.set()
        raise fault

    async with walled.another_driver(check_every_s=0.05) as driver:
        await driver.apply(LAN)
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, fails)
            async with asyncio.timeout(10):
                await failed.wait()
        assert str(fault) in caplog.text
        await flushed_rules_are_put_back(walled)
