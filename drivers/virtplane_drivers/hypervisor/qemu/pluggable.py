"""The half of a machine whose adapters come and go while it runs.

`running` of the record says what the run has, and of each adapter whether it is on its way: that is written before the
act. Killed in between, the next driver asks QEMU what there is::

    (none) ─ COMING ─ getfd, netdev_add, device_add ─► PLUGGED ─ GOING ─ device_del, the guest, netdev_del ─► (none)
               └── QEMU has no such adapter: (none)                └── it has it still: asked again
"""

import contextlib
from collections.abc import Iterable
from dataclasses import replace

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import DriverError, Refused, Unavailable
from virtplane_drivers.hypervisor.contract import Nic
from virtplane_drivers.hypervisor.nics import nic_changes
from virtplane_drivers.hypervisor.qemu import plugging
from virtplane_drivers.hypervisor.qemu.definition import Definition, NicDefinition, NicStage
from virtplane_drivers.hypervisor.qemu.following import BETWEEN
from virtplane_drivers.hypervisor.qemu.monitor import CommandFailed, MonitorError
from virtplane_drivers.hypervisor.qemu.reachable import ReachableMachine
from virtplane_drivers.hypervisor.qemu.record import Intent
from virtplane_drivers.hypervisor.qemu.run import Run


def nics_of(definition: Definition | None) -> tuple[Nic, ...]:
    """As the contract tells them."""
    return tuple(nic.nic for nic in definition.nics) if definition is not None else ()


class PluggableMachine(ReachableMachine):
    """One machine, with what it is joined to."""

    async def change_nics(self) -> None:
        """Give the run the adapters of the definition. See the contract."""
        if self._run is not None and self._run.is_alive:
            self._check_is_there()
            await self._act(self._change_nics())

    async def _change_nics(self) -> None:
        definition, run = self.record.definition, self._run
        if run is None or not run.is_alive or definition is None or self.record.intent is not Intent.RUNNING:
            return
        if self.record.running is None:
            return  # its record was lost: nobody knows what it has
        await self._settle(run)
        await self._change_links(definition.nics)  # first: no guest and no other port holds a cable up
        wanted = {nic.name: nic for nic in definition.nics}
        changes = nic_changes(await self._nics(run), nics_of(definition))
        going = {*changes.unplug, *(nic.name for nic in self._running.nics if nic.stage is NicStage.GOING)}
        if going:
            await self._unplug(run, going)
        failures: list[DriverError] = []
        for nic in nic_changes(nics_of(self._running), nics_of(definition)).plug:
            try:
                await self._plug(run, wanted[nic.name])
            except DriverError as error:
                failures.append(error)
        await self._change_links(definition.nics)
        if failures:
            raise failures[0]

    async def _nics(self, run: Run) -> tuple[Nic, ...]:
        """Those of the run, as the contract tells them. An end of a program is not on record: QEMU knows of it.

        Raises:
            MonitorError: no answer.
        """
        running = self.record.running
        if running is None or not any(nic.socket for nic in running.nics):
            return nics_of(running)
        is_there = await plugging.sockets(await run.monitor())

        def is_cut_off(nic: NicDefinition) -> bool:
            # Of one that goes the socket may be gone already: it does not come back for that.
            return bool(nic.socket) and not is_there.get(nic.name, nic.stage is not NicStage.GOING)

        return tuple(replace(nic.nic, is_cut_off=is_cut_off(nic)) for nic in running.nics)

    async def _until_joined(self, run: Run) -> None:
        """At the start of a run: its sockets are joined, or cut off, and not on their way."""
        sockets = [nic.name for nic in self._running.nics if nic.socket]
        if sockets:
            with contextlib.suppress(MonitorError):  # what it does is seen in `observe`
                await plugging.until_joined(await run.monitor(), sockets)

    async def _unplug(self, run: Run, names: set[str]) -> None:
        definition = self._running
        for nic in definition.nics:
            if nic.name in names:
                definition = definition.with_nic(replace(nic, stage=NicStage.GOING))
        await self._write(running=definition)
        await plugging.ask_back(await run.monitor(), sorted(names))
        await self._settle(run)

    async def _plug(self, run: Run, nic: NicDefinition) -> None:
        running = self._running
        taken = any(other.name == nic.name or other.port == nic.port for other in running.nics)
        if taken or not (running.nic_ports or running.nics):
            return  # until the guest has let go of what is there, or until its next start
        # The order in which it boots from its devices is written at its start.
        coming = replace(nic, boot_order=None, stage=NicStage.COMING)
        await self._write(running=running.with_nic(coming))
        try:
            await plugging.plug(await run.monitor(), coming)
        except Unavailable:
            await self._write(running=self._running.without_nic(nic.name))
            raise
        except CommandFailed as error:
            await self._write(running=self._running.without_nic(nic.name))
            raise Refused(f"interface {nic.name}: {error}", reason=Reason.NIC_NOT_ATTACHABLE) from error
        await self._write(running=self._running.with_nic(replace(coming, stage=NicStage.PLUGGED)))

    async def _change_links(self, wanted: Iterable[NicDefinition]) -> None:
        """Told first and written then: said again, it changes nothing."""
        run = self._run
        assert run is not None  # noqa: S101  # who calls looked
        for nic in wanted:
            has = next((one for one in self._running.nics if one.name == nic.name), None)
            if has is not None and has.stage is NicStage.PLUGGED and has.link_up != nic.link_up:
                changed = replace(has, link_up=nic.link_up)
                await plugging.set_link(await run.monitor(), changed)
                await self._write(running=self._running.with_nic(changed))

    async def _settle_nics(self, run: Run) -> None:
        running = self.record.running
        if running is None or self.record.intent in BETWEEN or not run.is_alive:
            return
        if any(nic.stage is not NicStage.PLUGGED for nic in running.nics):
            try:
                await self._settle(run)
            except MonitorError:
                return  # it is looked at again when QEMU says something

    async def _settle(self, run: Run) -> None:
        """What is on its way has come or gone as far as QEMU says."""
        on_their_way = [nic for nic in self._running.nics if nic.stage is not NicStage.PLUGGED]
        if not on_their_way:
            return
        monitor = await run.monitor()
        present = await plugging.present(monitor)
        for nic in on_their_way:
            if nic.name not in present:
                await plugging.clear(monitor, nic)
                await self._write(running=self._running.without_nic(nic.name))
            elif nic.stage is NicStage.COMING:
                await plugging.set_link(monitor, nic)
                await self._write(running=self._running.with_nic(replace(nic, stage=NicStage.PLUGGED)))

    def _look_what_became_of_nics(self) -> None:
        """Beside a look: an event may have been lost, as while nobody was connected."""
        running = self.record.running
        if running is not None and any(nic.stage is not NicStage.PLUGGED for nic in running.nics):
            self._wake.set()

    @property
    def _running(self) -> Definition:
        assert self.record.running is not None  # noqa: S101  # something runs
        return self.record.running
