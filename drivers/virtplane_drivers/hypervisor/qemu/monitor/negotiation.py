"""From the greeting to the agreement, and once more if QEMU greets once more.

One that is connected to while it starts may greet twice (QEMU 7.2: 3 starts in 10,000). It is in negotiation mode again
then; or, if that greeting was only late, it is not, and refuses what it has been asked before.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from virtplane_drivers.hypervisor.qemu.monitor.errors import MonitorClosed, ProtocolViolation
from virtplane_drivers.hypervisor.qemu.monitor.wire import Message

Ask = Callable[[Mapping[str, Any] | None], "asyncio.Future[Any]"]


class Negotiation:
    """Of one connection. `ask` sends `qmp_capabilities` with these arguments."""

    def __init__(self, ask: Ask) -> None:
        self.greeting: Message = {}
        self.agreed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once commands may be sent; fails when they never may."""
        self._ask = ask
        self._asked: asyncio.Future[Any] | None = None
        self._greeted_meanwhile = False
        self._was_agreed = False

    @property
    def runs_out_of_band(self) -> bool:
        """Whether this QEMU offers it; if it does, it is asked for."""
        return "oob" in self.greeting.get("capabilities", ())

    def greet(self, greeting: object) -> None:
        """QEMU's greeting. One that comes while the last is being answered is answered after it.

        Raises:
            ProtocolViolation: it is none.
        """
        if not isinstance(greeting, dict) or not isinstance(greeting.get("capabilities", []), list):
            raise ProtocolViolation(f"a malformed greeting: {str(greeting)[:200]}")
        self.greeting = greeting
        self._greeted_meanwhile = self._asked is not None
        if self._asked is None:
            self._answer()

    def end(self, end: MonitorClosed) -> None:
        """There will be no agreement any more."""
        if not self.agreed.done():
            self._fail(end)

    def _answer(self) -> None:
        self._asked = self._ask({"enable": ["oob"]} if self.runs_out_of_band else None)
        self._asked.add_done_callback(self._replied)

    def _replied(self, reply: "asyncio.Future[Any]") -> None:
        error = reply.exception()
        self._asked = None
        self._was_agreed = self._was_agreed or error is None
        if isinstance(error, MonitorClosed):
            return
        if self._greeted_meanwhile:
            self._greeted_meanwhile = False
            self._answer()
        elif not self.agreed.done():
            if error is None or self._was_agreed:
                self.agreed.set_result(None)
            else:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.agreed.set_exception(error)
        self.agreed.exception()  # read by nobody when the connection ends before anyone waits
