"""What QEMU says last, and what of it counts."""

import asyncio
from pathlib import Path

import pytest

from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.hypervisor.test_contract import until_stopped
from tests.drivers.qemu.machines.scripted_machine import UID, scripted_machine
from tests.drivers.qemu.monitor.scripted_qmp import event, scripted_server
from virtplane_api.vocabulary import ExitReason
from virtplane_drivers.hypervisor.qemu.link import Link
from virtplane_drivers.hypervisor.qemu.monitor import MonitorError


async def test_h33_a_guest_that_shut_down_did_so_whoever_ended_what_was_left_of_its_qemu(host: QemuHost) -> None:
    async with scripted_machine(host) as machine:
        await machine.driver.observe(UID)
        machine.state = "shutdown"
        causes = [(True, "guest-shutdown"), (False, "host-signal")]
        await machine.server.send(*(event("SHUTDOWN", guest=guest, reason=reason) for guest, reason in causes))
        seen = await until_stopped(machine.driver, UID)
        assert seen.last_exit is not None
        assert seen.last_exit.reason is ExitReason.GUEST_SHUTDOWN


async def test_h19_a_monitor_that_is_gone_for_good_has_nothing_more_to_say(tmp_path: Path) -> None:
    """Also when somebody asked for it meanwhile: a death would be told a second late for each such question."""
    async with scripted_server(tmp_path / "monitor") as server:
        link = Link(tmp_path / "monitor", lambda _: None, lambda: None)
        opening = asyncio.create_task(link.open(5.0))
        await server.accept()
        await server.negotiate()
        monitor = await opening
        server.listener.close()
        server.hang_up()
        async with asyncio.timeout(15):
            while monitor.is_open:
                await asyncio.sleep(0)
            with pytest.raises(MonitorError):
                await link.open(5.0)
            await link.drain(600.0)
