"""The driver of a Linux host's networks: puts links, rules and name servers together, each for one network at a time.

What a network is on the host: a router namespace with the bridge of its ports, rules there that hold also when
somebody flushes the host's, a dnsmasq, and by its mode a veth to the host with rules of the host's for all networks.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from virtplane_api.host_networks import GivenNetwork
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkCapability, NetworkMode
from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.hints import Hints
from virtplane_drivers.network.contract import (
    HOST_NETWORKS,
    NO_NETWORK,
    CountersByPort,
    IpAddress,
    Network,
    NetworkDriver,
    NetworkFacts,
    NetworkState,
    ObservedNetwork,
    Port,
    PortForward,
)
from virtplane_drivers.network.held import still_served, with_held
from virtplane_drivers.network.linux import links, rules
from virtplane_drivers.network.linux.allowances import MODES, NOTHING_ALLOWED, Allowances
from virtplane_drivers.network.linux.counters import read_counters
from virtplane_drivers.network.linux.dnsmasq.server import NameServers
from virtplane_drivers.network.linux.eui64 import by_mac
from virtplane_drivers.network.linux.firewall import CAPABILITY, Firewalls
from virtplane_drivers.network.linux.names import BRIDGE, host_link, namespace_path, tap_alias, tap_name
from virtplane_drivers.network.linux.namespace import (
    ensure_namespace,
    in_namespace,
    namespaces,
    remove_namespace,
    traces,
)
from virtplane_drivers.network.linux.prerequisites import what_is_missing
from virtplane_drivers.network.linux.records import Applied, Records
from virtplane_drivers.network.linux.seen import CAPABILITY as SEEN_ADDRESSES
from virtplane_drivers.network.linux.seen import SeenAddresses
from virtplane_drivers.network.linux.tunnels import Tunnels
from virtplane_drivers.network.linux.underlay import NoUnderlay, find_underlay
from virtplane_drivers.network.linux.uplinks import BridgePort, Uplinks
from virtplane_drivers.network.linux.values import Finding, Transit
from virtplane_drivers.network.linux.vlans import Vlans
from virtplane_drivers.network.overlay import Overlay

_log = logging.getLogger(__name__)

CHECK_EVERY_S = 10.0
"""Nothing tells of a flushed rule set of the host."""


class LinuxNetworks(NetworkDriver):
    """Networks of the host that this process runs on, or of the one whose namespace is given."""

    name = "linux"

    def __init__(
        self,
        state_folder: Path,
        runtime_folder: Path,
        *,
        transit_cidr: IPv4Network,
        host_namespace: Path | None = None,
        allowances: Allowances = NOTHING_ALLOWED,
        underlay_address: IpAddress | None = None,
        check_every_s: float = CHECK_EVERY_S,
    ) -> None:
        """`allowances` is what of the host networks may have: they are made by whoever may make one in a namespace."""
        self._allowances = allowances
        self._runtime_folder = runtime_folder
        self._host_namespace = host_namespace
        self._underlay_address = underlay_address
        self._check_every_s = check_every_s
        # Of the folder's path, which stays: by it what is ours on the host is told from another agent's.
        state_id = hashlib.sha256(str(state_folder.absolute()).encode()).hexdigest()[:12]
        self._records = Records(runtime_folder / "networks")
        self._uplinks = Uplinks(state_id, transit_cidr, host_namespace)
        self._tunnels = Tunnels(host_namespace)
        self._router_rules = rules.RouterRules()
        self._host_rules = rules.HostRules(state_id, host_namespace)
        self._firewalls = Firewalls()
        self._seen = SeenAddresses()
        self._vlans = Vlans(allowances)
        self._hints = Hints()
        self._name_servers = NameServers(runtime_folder / "dnsmasq", on_death=self._hints.add)
        self._applied: dict[str, Applied] = {}
        self._settled: dict[str, Applied] = {}
        """Those after which no flow of what was before is left."""
        self._unread: dict[str, Overlay] = {}
        """Tunnels that were found without a record: until their network is applied nothing is taken from anybody."""
        self._findings: dict[str, list[Finding]] = {}
        self._host_addresses: frozenset[IpAddress] = frozenset()
        self._host_seen_at_s = -math.inf
        self._host_lock = asyncio.Lock()
        self._caretaker: asyncio.Task[None] | None = None
        self._missing = ""
        self._told_missing: dict[str, str] | None = None
        """The given bridges that could not be joined when they were last asked for."""
        self._told_ports: dict[str, BridgePort] = {}
        """Of networks that were hinted, and that no apply has put in order since: as they were seen then."""

    async def __aenter__(self) -> Self:
        """Raises Unavailable: what was named as the host's namespace cannot be entered."""
        self._missing = await asyncio.to_thread(what_is_missing, self._runtime_folder)
        if not self._missing:
            try:
                await in_namespace(self._host_namespace, bool)
            except OSError as error:
                message = f"the host's network namespace (--host-netns): {error}"
                raise Unavailable(message, reason=Reason.NETWORK_ERROR) from error
            self._applied = self._records.read_all()
            self._settled = dict(self._applied)
            self._unread = await self._tunnels_without_record()
            await self._firewalls.find_way()
            await self._seen.find_way()
            await self._vlans.find_way()
            self._caretaker = asyncio.create_task(self._take_care(), name="host's rules of networks")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._caretaker is not None:
            self._caretaker.cancel()
            await asyncio.gather(self._caretaker, return_exceptions=True)
        self._name_servers.close()

    async def probe(self) -> NetworkFacts:
        """All that this driver has, less what the host does not allow; Overlay where there is something to go over."""
        missing, underlay = dict(self._allowances.missing), None
        if self._missing:
            missing = dict.fromkeys(MODES, self._missing)
        else:
            try:
                underlay = await find_underlay(self._host_namespace, self._underlay_address)
            except NoUnderlay as error:
                missing[NetworkMode.OVERLAY] = str(error)
        lacking = {f"Network{mode}": why for mode, why in missing.items()}
        if not self._missing and self._firewalls.missing:
            lacking[CAPABILITY] = self._firewalls.missing
        if not self._missing and self._seen.missing:
            lacking[SEEN_ADDRESSES] = self._seen.missing
        if not self._missing and self._vlans.missing:
            lacking[NetworkCapability.VLAN] = self._vlans.missing
        given = self._allowances
        return NetworkFacts(MODES - set(missing), lacking, underlay, given.host_networks, given.routed)

    async def host_networks(self) -> tuple[GivenNetwork, ...]:
        """All that is given; whether it is there is looked up."""
        try:
            missing = self._told_missing = await self._uplinks.missing_bridges(self._allowances.bridge_names)
        except OSError as error:
            raise Unavailable(f"bridges of the host: {error}", reason=Reason.NETWORK_ERROR) from error
        return tuple(one._replace(missing=missing.get(one.name, "")) for one in self._allowances.host_networks)

    async def inventory(self) -> tuple[str, ...]:
        """Whatever of a network is left on the host names it."""
        if self._missing:
            return ()
        found = {*self._applied, *traces(self._runtime_folder)}
        found |= {*await self._uplinks.inventory(), *await self._name_servers.inventory()}
        return tuple(sorted(found))

    async def observe(self, uid: str) -> ObservedNetwork:
        """What was found wrong when it was last applied; its ports as they were applied; addresses as just seen."""
        if uid not in namespaces(self._runtime_folder):
            return NO_NETWORK
        applied = self._applied.get(uid)
        if applied is None:
            ready = ObservedNetwork(NetworkState.READY)
        else:
            seen = await self._seen.tell(namespace_path(self._runtime_folder, uid), applied.network)
            ports = frozenset(port.key for port in applied.network.ports)
            ready = ObservedNetwork(NetworkState.READY, ports=ports, seen=seen)
        findings = self._findings.get(uid)
        if not findings:
            return ready
        message = "; ".join(finding.message for finding in findings)
        return replace(ready, state=NetworkState.FAILED, reason=findings[0].reason, message=message)

    async def apply(self, network: Network) -> None:
        """Of a network that the host gives no more: for the guests that run on it, and it is refused all the same."""
        try:
            self._allowances.check(network)
            self._vlans.check(network)
        except Refused:
            kept = await self._kept(network)
            if kept is not None:
                await self._apply(kept)
            raise
        await self._apply(network)

    async def _kept(self, network: Network) -> Network | None:
        """It without ports that no guest holds, on what of the host it is on, whatever else is asked for by now.

        Its guests are not cut off; so their rules, names and limits are to be what their users make them.
        """
        before = self._applied.get(network.uid)
        if before is None:
            return None
        held = await self._held(network)
        ports = tuple(port for port in network.ports if tap_name(port) in held)
        if not ports:
            return None
        was = before.network
        asked = replace(network, ports=ports, mode=was.mode, host_bridge=was.host_bridge, vlan=was.vlan)
        return replace(asked, ipv4=was.ipv4, ipv6=was.ipv6)

    async def _held(self, network: Network) -> frozenset[str]:
        try:
            return await links.ports_held(namespace_path(self._runtime_folder, network.uid))
        except OSError as error:
            raise Unavailable(f"network {network.uid}: {error}", reason=Reason.NETWORK_ERROR) from error

    async def _apply(self, network: Network) -> None:
        """From the inside out: nothing leads to a guest before its rules are there."""
        self._firewalls.check(network)
        path = namespace_path(self._runtime_folder, network.uid)
        try:
            await ensure_namespace(path)
            network = await self._with_held_ports(path, network)
            limits = await links.apply_router(path, network)
            transit, findings = await self._uplinks.apply(path, network)
            if not any(finding.reason == Reason.NETWORK_ERROR for finding in findings):
                self._told_ports.pop(network.uid, None)
            # Before the caretaker looks for what does not fit them; it grows below.
            findings = self._findings[network.uid] = [*findings, *limits]
            host_addresses = await self._addresses_of_host()
            # What an earlier process's rules heard goes with them.
            await self._seen.look(path, network)
            await self._router_rules.apply(
                path, network, transit, host_addresses, self._firewalls.way, listens=not self._seen.missing
            )
            await self._firewalls.take_effect(path, network)
            now = self._applied[network.uid] = Applied(network, transit)
            await self._apply_host_rules()
            # Written once they have ended: who is killed before that ends them in the next apply.
            await self._end_flows(path, self._settled.get(network.uid), now)
            self._settled[network.uid] = now
            self._records.write(now)
            findings += await self._tunnels.apply(path, network)
            await self._announce(network)
            findings += await self._name_servers.apply(path, network)
            if transit is not None:
                findings += await rules.forwarding_findings(self._host_namespace, [host_link(network.uid)])
        except OSError as error:
            raise Unavailable(
                f"network {network.namespace}/{network.name}: {error}", reason=Reason.NETWORK_ERROR
            ) from error

    async def attachment(self, network: Network, port: Port) -> TapAttachment:
        """The tap is opened by the hypervisor driver."""
        no_bridge = self._no_bridge(network.uid)
        if no_bridge is not None and tap_name(port) not in await self._held(network):
            message = f"network {network.namespace}/{network.name}: {no_bridge.message}"
            raise Unavailable(message, reason=Reason.NO_SUCH_BRIDGE)
        return TapAttachment(
            namespace_path(self._runtime_folder, network.uid), tap_name(port), BRIDGE, network.mtu, tap_alias(port)
        )

    async def remove(self, uid: str) -> None:
        """The record last: killed before that, the next driver knows the network and goes on here."""
        path = namespace_path(self._runtime_folder, uid)
        try:
            if uid in namespaces(self._runtime_folder) and (held := await links.ports_held(path)):
                message = f"{len(held)} ports of network {uid} are held by running machines: {', '.join(sorted(held))}"
                raise Unavailable(message, reason=Reason.NETWORK_IN_USE, retry_after_s=30.0)
            await self._name_servers.remove(uid)
            self._applied.pop(uid, None)
            self._settled.pop(uid, None)
            self._unread.pop(uid, None)
            self._findings.pop(uid, None)
            self._told_ports.pop(uid, None)
            await self._apply_host_rules()
            await self._uplinks.remove(uid)
            await self._tunnels.remove(path, uid)
            await remove_namespace(path)
            self._router_rules.forget(path)
            self._firewalls.forget(uid)
            self._seen.forget(uid)
        except OSError as error:
            raise Unavailable(f"network {uid} cannot be removed: {error}", reason=Reason.NETWORK_ERROR) from error
        self._records.remove(uid)

    async def counters(self) -> Mapping[str, CountersByPort]:
        """Of the taps."""
        try:
            return await read_counters(self._runtime_folder, [applied.network for applied in self._applied.values()])
        except OSError as error:
            raise Unavailable(f"counters of networks: {error}", reason=Reason.NETWORK_ERROR) from error

    def events(self) -> AsyncIterator[str]:
        """UIDs of networks whose dnsmasq ended, whose bridge came, went or lost our port, whose host got other
        addresses, or whose guests use other addresses."""
        return aiter(self._hints)

    # --- what all networks of the host share --------------------------------------------------------------------------

    async def _apply_host_rules(self) -> None:
        async with self._host_lock:
            routed: dict[str, tuple[Network, Transit]] = {
                uid: (applied.network, applied.transit)
                for uid, applied in self._applied.items()
                if applied.transit is not None
            }
            # Of an agent without such networks there is no table.
            if routed or self._overlays():
                await self._host_rules.apply(routed, self._overlays())
            else:
                await self._host_rules.remove()

    def _overlays(self) -> list[Overlay]:
        overlays = [applied.network.overlay for applied in self._applied.values()]
        overlays += [overlay for uid, overlay in self._unread.items() if uid not in self._applied]
        return [overlay for overlay in overlays if overlay is not None]

    async def _tunnels_without_record(self) -> dict[str, Overlay]:
        unread = (uid for uid in namespaces(self._runtime_folder) if uid not in self._applied)
        found = {uid: await self._tunnels.found(namespace_path(self._runtime_folder, uid)) for uid in unread}
        return {uid: overlay for uid, overlay in found.items() if overlay is not None}

    async def _announce(self, network: Network) -> None:
        if network.overlay is None:
            return
        path = namespace_path(self._runtime_folder, network.uid)
        await self._tunnels.announce(path, network, await links.ports_held(path))

    async def _addresses_of_host(self) -> list[IpAddress]:
        """As of a look that is not older than the caretaker's: of a host with 100 networks each takes 100 ms."""
        if time.monotonic() - self._host_seen_at_s >= self._check_every_s:
            await self._look_at_host()
        return sorted(self._host_addresses, key=lambda address: (address.version, int(address)))

    async def _look_at_host(self) -> None:
        """Other addresses than at the last look are a reason to apply all networks anew, whoever saw them first."""
        began_at_s = time.monotonic()
        now = await self._uplinks.host_addresses()
        if now != self._host_addresses and self._host_seen_at_s > -math.inf:
            for uid in self._applied:
                self._hints.add(uid)
        self._host_addresses, self._host_seen_at_s = now, began_at_s

    async def _with_held_ports(self, path: Path, network: Network) -> Network:
        """See `held`; a record of before this driver's start counts."""
        before = self._applied.get(network.uid)
        left = still_served(before.network, network) if before is not None else ()
        if before is None or not left:
            return network
        held = await links.ports_held(path)
        return with_held(before.network, network, (port for port in left if tap_name(port) in held))

    async def _end_flows(self, path: Path, before: Applied | None, now: Applied) -> None:
        """An address or a host's port that goes to another guest starts without the flows of the one that had it."""
        if before is None:
            return
        had, has = addresses_of(before.network), addresses_of(now.network)
        if gone := [address for address, key in had.items() if has.get(address) != key]:
            await rules.end_flows(path, gone)
        led, leads = forwards_of(before.network), forwards_of(now.network)
        ended = [forward for forward, target in led.items() if leads.get(forward) != target]
        if ended and before.transit is not None:
            await rules.end_forwards(path, self._host_namespace, before.transit, ended)

    async def _take_care(self) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            # Each by itself: what one network has lost is no reason to leave the others alone.
            await _told("the host's rules", self._repair_host_rules())
            for applied in [one for one in self._applied.values() if one.network.overlay is not None]:
                await _told(f"guests of network {applied.network.uid}", self._announce(applied.network))
            if self._applied:
                await _told("addresses of the host", self._look_at_host())
            await _told("bridges of the host", self._look_at_bridges())
            for uid, applied in list(self._applied.items()):
                await _told(f"seen addresses of network {uid}", self._look_at_addresses(applied.network))

    async def _look_at_addresses(self, network: Network) -> None:
        if await self._seen.has_news(namespace_path(self._runtime_folder, network.uid), network):
            self._hints.add(network.uid)

    async def _look_at_bridges(self) -> None:
        """Against what is there, not against the look before: who applied a network in between saw another host."""
        told = self._told_missing
        if told is not None and told != await self._uplinks.missing_bridges(self._allowances.bridge_names):
            self._hints.add(HOST_NETWORKS)
        bridged = [one.network for one in self._applied.values() if one.network.mode is NetworkMode.BRIDGE]
        for uid, port in (await self._uplinks.bridge_ports(bridged) if bridged else {}).items():
            is_right = port.has_bridge is port.is_joined is (self._no_bridge(uid) is None)
            if is_right:
                self._told_ports.pop(uid, None)
            # Told once: what is refused, or another agent's, is as wrong after each apply.
            elif uid in self._applied and self._told_ports.get(uid) != port:
                self._told_ports[uid] = port
                self._hints.add(uid)

    def _no_bridge(self, uid: str) -> Finding | None:
        findings = self._findings.get(uid, ())
        return next((finding for finding in findings if finding.reason == Reason.NO_SUCH_BRIDGE), None)

    async def _repair_host_rules(self) -> None:
        is_routed = any(applied.transit is not None for applied in self._applied.values())
        if (is_routed or self._overlays()) and not await self._host_rules.check():
            await self._apply_host_rules()


async def _told(what: str, step: Coroutine[Any, Any, None]) -> None:
    """Its failure is in the log, and whoever comes after it goes on."""
    try:
        await step
    except (OSError, Unavailable) as error:
        _log.warning("%s: %s", what, error)
    except Exception:  # noqa: BLE001  # the next step, and the next round, are for other networks too
        _log.exception("%s: taking care of them failed", what)


def addresses_of(network: Network) -> dict[IpAddress, tuple[str, str]]:
    """Each address that is known to be a port's, with that one."""
    prefix = network.chosen_prefix
    held: dict[IpAddress, tuple[str, str]] = {}
    for port in network.ports:
        held |= dict.fromkeys(port.addresses, port.key)
        if prefix is not None:
            held[by_mac(prefix, port.mac)] = port.key
    return held


def forwards_of(network: Network) -> dict[PortForward, tuple[str, str]]:
    """Each forward with the port that it leads to."""
    return {forward: port.key for port in network.ports for forward in port.forwards}
