"""virtplane-agent that is killed before its Nth callback: `python -m tests.e2e.killed_agent N AGENT-ARGUMENTS...`."""

import asyncio
import sys

from tests.drivers.counting_loop import CountingLoop
from virtplane_agent import main


class KillingPolicy(asyncio.DefaultEventLoopPolicy):
    """Every loop counts from its first callback on."""

    def __init__(self, fatal: int) -> None:
        super().__init__()
        self._fatal = fatal

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = CountingLoop(self._fatal)
        loop.arm()
        return loop


if __name__ == "__main__":
    asyncio.set_event_loop_policy(KillingPolicy(int(sys.argv[1])))
    sys.exit(main.main(sys.argv[2:]))
