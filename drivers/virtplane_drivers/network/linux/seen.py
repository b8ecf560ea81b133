"""Which addresses guests use where the network gives none: what the kernel heard lately, and what was heard before.

The kernel forgets within minutes, and with each replacement of its rules; a guest that says nothing for hours still has
its address. So it is remembered here, of each run of a machine, and forgotten with it. Another driver that is opened
later knows what the kernel still keeps.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import IpAddress, Network
from virtplane_drivers.network.linux.names import tap_name
from virtplane_drivers.network.linux.namespace import in_namespace
from virtplane_drivers.network.linux.rules.heard import Heard, free_versions, heard_now, probe_script
from virtplane_drivers.network.linux.rules.nft import command

SILENT_S = 1800.0
"""An address that was not heard for this long goes, where another one of its family was. Else it stays."""
MAX_SHOWN = 4
"""Of an interface and a family: those that were there first, so that who claims many changes nothing."""

CAPABILITY = "NetworkSeenAddresses"
_NO_WAY = (
    "addresses that guests use where networks give none are not seen: this kernel takes no sets that frames add to by a"
    " limit (a kernel with nf_tables for bridges and nft_limit brings them; then start the agent again): {}"
)

PortKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Span:
    """When an address was heard."""

    first: float
    last: float


Spans = Mapping[IpAddress, Span]


def remembered(known: Spans, heard: Mapping[IpAddress, float], now: float) -> dict[IpAddress, Span]:
    """What is known of one interface and family after something was heard: when, by address. Pure. Times in seconds."""
    spans = {
        address: replace(span, last=max(span.last, heard.get(address, span.last))) for address, span in known.items()
    }
    if heard:
        spans = {address: span for address, span in spans.items() if now - span.last < SILENT_S}
    for at, address in sorted((at, address) for address, at in heard.items() if address not in spans):
        if len(spans) < MAX_SHOWN:
            spans[address] = Span(at, at)
    return spans


def in_order(spans: Spans) -> tuple[IpAddress, ...]:
    """The newest first: a guest that was given another address is known by that one at once."""
    return tuple(sorted(spans, key=lambda address: (-spans[address].first, int(address))))


@dataclass(frozen=True, slots=True)
class _Tap:
    """One run of a machine, by its interface."""

    run: int
    """Index of the tap."""
    ipv4: Spans
    ipv6: Spans

    @property
    def addresses(self) -> tuple[IpAddress, ...]:
        return (*in_order(self.ipv4), *in_order(self.ipv6))


class SeenAddresses:
    """Those of all networks of a host."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.missing = ""
        """Why this host sees none, and what would bring it; empty when it does."""
        self._known: dict[str, dict[str, _Tap]] = {}
        """By network and tap."""
        self._told: dict[str, Mapping[PortKey, tuple[IpAddress, ...]]] = {}

    async def find_way(self, script: str | None = None) -> None:
        """Whether this host's kernel can listen, tried in a namespace of its own. Changes nothing."""
        argv = ("unshare", "--net", "--", "nft", "--check", "-f", "-")
        try:
            await command(None, *argv, stdin=script or probe_script())
        except Unavailable as error:
            self.missing = _NO_WAY.format(error)

    async def look(self, path: Path, network: Network) -> Mapping[PortKey, tuple[IpAddress, ...]]:
        """The addresses of each port, IPv4 first, as they are known now; of a port of which none is: no entry."""
        if network.ports and free_versions(network):
            # The namespace is gone, or the kernel is short of memory: nothing new was heard.
            with contextlib.suppress(OSError):
                self._learn(network.uid, *await in_namespace(path, heard_now, network))
        else:
            self._known.pop(network.uid, None)
        known = self._known.get(network.uid, {})
        found = ((port.key, known[tap].addresses) for port in network.ports if (tap := tap_name(port)) in known)
        return {key: addresses for key, addresses in found if addresses}

    async def tell(self, path: Path, network: Network) -> Mapping[PortKey, tuple[IpAddress, ...]]:
        """The same; what is other from then on is news."""
        told = self._told[network.uid] = await self.look(path, network)
        return told

    async def has_news(self, path: Path, network: Network) -> bool:
        """Whether they are not what was told last."""
        return await self.look(path, network) != self._told.get(network.uid, {})

    def forget(self, network_uid: str) -> None:
        """The network is gone."""
        self._known.pop(network_uid, None)
        self._told.pop(network_uid, None)

    def _learn(self, uid: str, runs: Mapping[str, int], heard: Iterable[Heard]) -> None:
        now = self._clock()
        at: dict[tuple[str, int], dict[IpAddress, float]] = {}
        for one in heard:
            times = at.setdefault((one.tap, one.address.version), {})
            times[one.address] = max(times.get(one.address, 0.0), now - one.ago_s)
        before, after = self._known.get(uid, {}), {}
        for tap, run in runs.items():
            known = before.get(tap)
            if known is None or known.run != run:
                known = _Tap(run, {}, {})
            after[tap] = _Tap(
                run,
                remembered(known.ipv4, at.get((tap, 4), {}), now),
                remembered(known.ipv6, at.get((tap, 6), {}), now),
            )
        self._known[uid] = after
