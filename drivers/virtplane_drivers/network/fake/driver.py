"""Networks that exist in memory only, behind the same contract as real ones."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import FakeNicAttachment
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.hints import Hints
from virtplane_drivers.network.contract import (
    NO_NETWORK,
    CountersByPort,
    IpAddress,
    Network,
    NetworkDriver,
    NetworkFacts,
    NetworkState,
    ObservedNetwork,
    Port,
    PortCounters,
    Traffic,
)
from virtplane_drivers.network.fake.faults import Faults
from virtplane_drivers.network.overlay import Underlay

_PortKey = tuple[str, str]
_UNDERLAY = Underlay(IPv4Address("192.0.2.1"), 1500)
"""An address of documentation (RFC 5737): nothing is sent there."""


class FakeNetworks(NetworkDriver):
    """Networks of no packets. With a `state_file` they outlive the process, as a real host's do."""

    name = "fake"

    def __init__(self, *, faults: Faults | None = None, state_file: Path | None = None) -> None:
        self.faults = faults if faults is not None else Faults()
        self.joined: set[_PortKey] = set()
        """Ports that a hypervisor holds, as a test says: their network cannot be removed."""
        self.seen: dict[_PortKey, tuple[IpAddress, ...]] = {}
        """Addresses that guests use, as `see` said."""
        self._state_file = state_file
        self._ports: dict[str, frozenset[_PortKey]] = {}
        self._hints = Hints()

    async def __aenter__(self) -> Self:
        if self._state_file is not None and self._state_file.exists():
            rows: dict[str, list[list[str]]] = json.loads(self._state_file.read_text())
            self._ports = {uid: frozenset((uid_, name) for uid_, name in ports) for uid, ports in rows.items()}
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """They go on."""

    async def probe(self) -> NetworkFacts:
        """All modes."""
        return NetworkFacts(modes=frozenset(NetworkMode), underlay=_UNDERLAY)

    async def inventory(self) -> tuple[str, ...]:
        """UIDs of all that were applied."""
        return tuple(self._ports)

    async def observe(self, uid: str) -> ObservedNetwork:
        """The network as it is now."""
        ports = self._ports.get(uid)
        if ports is None:
            return NO_NETWORK
        seen = {key: addresses for key, addresses in self.seen.items() if key in ports and addresses}
        if self.faults.failed is not None:
            reason, message = self.faults.failed
            return ObservedNetwork(NetworkState.FAILED, reason, message, ports, seen)
        return ObservedNetwork(NetworkState.READY, ports=ports, seen=seen)

    async def apply(self, network: Network) -> None:
        """Remembers the ports."""
        if self.faults.apply_s:
            await asyncio.sleep(self.faults.apply_s)
        self.faults.meet("apply")
        if (withdrawn := self.faults.withdrawn.get(network.uid)) is not None:
            raise withdrawn
        held = self._ports.get(network.uid, frozenset()) & self.joined
        ports = held | {port.key for port in network.ports}
        if self._ports.get(network.uid) != ports:
            self._ports[network.uid] = ports
            self._save()

    async def attachment(self, network: Network, port: Port) -> FakeNicAttachment:
        """By the keys of both."""
        self.faults.meet("attachment")
        if port.key not in self._ports.get(network.uid, ()):
            raise Unavailable(f"network {network.uid} has no port {port.key}", reason=Reason.NETWORK_NOT_READY)
        return FakeNicAttachment(network.uid, port.key)

    async def remove(self, uid: str) -> None:
        """Forgets the network."""
        self.faults.meet("remove")
        held = self._ports.get(uid, frozenset()) & self.joined
        if held:
            raise Unavailable(f"{len(held)} ports of network {uid} are held", reason=Reason.NETWORK_IN_USE)
        if self._ports.pop(uid, None) is not None:
            self._save()

    async def counters(self) -> Mapping[str, CountersByPort]:
        """Of every port, joined or not: see `counters_of`."""
        self.faults.meet("counters")
        return {uid: {key: counters_of(key) for key in ports} for uid, ports in self._ports.items()}

    def events(self) -> AsyncIterator[str]:
        """UIDs that `change` or `see` was called with."""
        return aiter(self._hints)

    def change(self, uid: str) -> None:
        """Somebody changes the network behind our back."""
        self._hints.add(uid)

    def see(self, uid: str, port: _PortKey, *addresses: str) -> None:
        """The guest of a port of that network uses these addresses from now on, the newest first."""
        self.seen[port] = tuple(map(ip_address, addresses))
        self._hints.add(uid)

    def _save(self) -> None:
        if self._state_file is None:
            return
        fresh = self._state_file.with_name(self._state_file.name + ".new")
        fresh.write_text(json.dumps({uid: sorted(ports) for uid, ports in self._ports.items()}))
        fresh.replace(self._state_file)


def counters_of(key: _PortKey) -> PortCounters:
    """The same for a port at any time, and others for others: all eight are different numbers."""
    base = 10 * (1 + zlib.crc32("/".join(key).encode()) % 100_000)
    return PortCounters(Traffic(*range(base, base + 4)), Traffic(*range(base + 4, base + 8)))
