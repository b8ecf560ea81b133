"""A machine whose QEMU is a double: a process that sleeps, and a monitor that says what a test wants.

For what no real QEMU can be brought to do: events in any order, late ones, states that change between two questions.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from tests.cluster.guest_processes import groups_named, remove_groups
from tests.drivers.hypervisor.hosts import QemuHost
from tests.drivers.qemu.monitor.scripted_qmp import ScriptedServer, scripted_server
from tests.drivers.qemu.pure.machines import OWNER, definition
from virtplane_api.vocabulary import DisplayType
from virtplane_drivers.host.process import ProcessIdentity, boot_id, start_ticks
from virtplane_drivers.hypervisor.qemu.driver import QemuDriver
from virtplane_drivers.hypervisor.qemu.launch import MONITOR, run_folder
from virtplane_drivers.hypervisor.qemu.record import Intent, Record, Records

UID = f"scripted-{os.getpid()}"
"""Its cgroups have this name too: not those of another test run."""


class ScriptedMachine:
    """What the double says and heard."""

    def __init__(self, driver: QemuDriver, server: ScriptedServer, process: "subprocess.Popen[bytes]") -> None:
        self.driver = driver
        self.server = server
        self.process = process
        self.state = "running"
        """What `query-status` is answered with."""
        self.migration = "active"
        """Of what `query-migrate` is answered with."""
        self.answers: Mapping[str, object] = {}
        """Of other commands; else they are answered with {}."""
        self.commands: list[str] = []
        """All that was asked, but for questions."""
        self.quits_after_s = 0.0
        self.refuses = ""
        """A command that is answered with an error."""
        self.draws = b""
        """What `screendump` writes to the descriptor that came last, `drawn_at` so many bytes behind its beginning."""
        self.drawn_at = 0

    async def serve(self) -> None:
        """Answer one client after the other."""
        while True:
            await self.server.accept()
            with contextlib.suppress(AssertionError, OSError):
                await self.server.negotiate()
                while True:
                    await self._answer()

    async def _answer(self) -> None:
        request = await self.server.request()
        name = request["execute"]
        if name == "query-status":
            await self.server.answer(request, {"status": self.state, "running": self.state == "running"})
            return
        if name == "query-migrate":
            await self.server.answer(request, {"status": self.migration})
            return
        if not name.startswith("query-"):
            self.commands.append(name)
        if name == self.refuses:
            await self.server.send({"error": {"class": "GenericError", "desc": "no"}, "id": request["id"]})
            return
        if name == "screendump":
            os.pwrite(self.server.descriptors[-1], self.draws, self.drawn_at)
        await self.server.answer(request, self.answers.get(name))
        if name == "quit":
            # A QEMU that has something left to write takes its time.
            await asyncio.sleep(self.quits_after_s)
            self.process.terminate()
            self.server.hang_up()


@asynccontextmanager
async def scripted_machine(
    host: QemuHost,
    intent: Intent = Intent.RUNNING,
    *,
    display: DisplayType | None = None,
    answers: Mapping[str, object] | None = None,
) -> AsyncIterator[ScriptedMachine]:
    """It runs already; the driver adopts it."""
    process = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220  # Popen itself is what a test looks at
    identity = ProcessIdentity(boot_id(), process.pid, start_ticks(process.pid) or 0)
    machine = definition(display=display)
    Records(host.folder / "state").write(
        Record(
            UID, "shop", "web", OWNER, intent=intent, definition=machine, running=machine, incarnation="run1",
            process=identity, started_at=datetime.now(UTC),
        )
    )  # fmt: skip
    folder = run_folder(host.folder / "run", UID, "run1")
    folder.mkdir(parents=True)
    try:
        async with scripted_server(folder / MONITOR) as server, host.open() as driver:
            scripted = ScriptedMachine(driver, server, process)
            scripted.answers = answers or {}
            serving = asyncio.create_task(scripted.serve())
            try:
                yield scripted
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
    finally:
        process.kill()
        process.wait()
        remove_groups(groups_named(UID))
