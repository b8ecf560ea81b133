"""Which agents are silent: their Lease did not change for its duration, by our own monotonic clock.

Only what we could read counts. While the API server is away nobody is silent: it is we who hear nothing, and an agent
that could not renew meanwhile gets a full duration from the first good answer on.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiError
from virtplane_api.kube.resources import LEASES, Object
from virtplane_api.names import LEASE_DURATION_S, agent_lease_name

_log = logging.getLogger(__name__)
_LEASE_PREFIX = agent_lease_name("")


@dataclass(slots=True)
class _Sign:
    version: str
    since: float
    released: bool


class AgentHealth:
    """The agents' signs of life, read every few seconds."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        on_flip: Callable[[str], None],
        *,
        poll_every_s: float = 5.0,
        silent_after_s: float = LEASE_DURATION_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_flip(agent)` is called whenever an agent falls silent, speaks again, or gives its Lease back."""
        self._client = client
        self._namespace = namespace
        self._on_flip = on_flip
        self._poll_every_s = poll_every_s
        self._silent_after_s = silent_after_s
        self._clock = clock
        self._signs: dict[str, _Sign] = {}
        self._silent: set[str] = set()
        self._must_restart_clocks = False

    def is_silent(self, agent: str) -> bool:
        """Whether nothing was heard of the agent for so long that nothing is known of its machines."""
        return agent in self._silent

    def takes_work(self, agent: str) -> bool:
        """Whether new machines may be given to it: neither silent nor stopped in an orderly way."""
        sign = self._signs.get(agent)
        return agent not in self._silent and (sign is None or not sign.released)

    def expect(self, agent: str) -> None:
        """Know of an agent that has a Hypervisor, but maybe no Lease (any more): it falls silent as well."""
        if agent not in self._signs:
            self._signs[agent] = _Sign("", self._clock(), released=False)

    async def run(self) -> None:
        """Read the Leases, for ever."""
        while True:
            try:
                leases, _version = await self._client.list_all(LEASES, self._namespace)
            except ApiError as error:
                _log.warning("the agents' leases cannot be read: %s", error)
                self._must_restart_clocks = True
            else:
                self.take(leases)
            await asyncio.sleep(self._poll_every_s)

    def take(self, leases: list[Object]) -> None:
        """Judge by what was just read."""
        now = self._clock()
        if self._must_restart_clocks:
            for agent, sign in self._signs.items():
                if agent not in self._silent:
                    sign.since = now
            self._must_restart_clocks = False
        flipped: set[str] = set()
        for lease in leases:
            name = lease["metadata"]["name"]
            if name.startswith(_LEASE_PREFIX):
                agent = name.removeprefix(_LEASE_PREFIX)
                if self._hear(agent, lease, now):
                    flipped.add(agent)
        silent = {agent for agent, sign in self._signs.items() if now - sign.since > self._silent_after_s}
        flipped |= silent ^ self._silent
        self._silent = silent
        for agent in sorted(flipped):
            _log.info("agent %s %s", agent, "is silent" if agent in silent else "is heard")
            self._on_flip(agent)

    def _hear(self, agent: str, lease: Object, now: float) -> bool:
        """Note what an agent's Lease says; True when it was given back or taken up."""
        version = lease["metadata"]["resourceVersion"]
        released = not lease["spec"].get("holderIdentity")
        before = self._signs.get(agent)
        if before is None or before.version != version:
            self._signs[agent] = _Sign(version, now, released)
        return before is not None and before.released != released
