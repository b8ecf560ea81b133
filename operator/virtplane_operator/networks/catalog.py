"""The VirtualNetworks that there are, as placements see them: parsed once per version, and which of them are served."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from virtplane_api.host_networks import HostNetwork, IpNetwork
from virtplane_api.kube.resources import NETWORKS, Key, Object, Resource, is_being_deleted, key_of, uid_of
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkCapability, NetworkMode
from virtplane_operator.networks.addresses import VERSIONS, Subnet, Version, subnet_of
from virtplane_operator.networks.claims import Claims
from virtplane_operator.networks.contradictions import contradiction_in
from virtplane_operator.networks.overlays import Overlays
from virtplane_operator.world import Store
from virtplane_operator.world.store import version_of


@dataclass(frozen=True, slots=True)
class Network:
    """One VirtualNetwork."""

    key: Key
    uid: str
    mode: NetworkMode
    subnets: Mapping[Version, Subnet]
    contradiction: str
    """What its spec says against itself; empty when nothing."""
    is_ending: bool
    created: str
    """metadata.creationTimestamp."""
    asked_mtu: int | None = None
    """spec.mtu."""
    vni: int | None = None
    mtu: int | None = None
    """Of mode Overlay, both claimed in its status: None, not yet."""
    capabilities: frozenset[NetworkCapability] = frozenset()
    """What a host needs for it beyond its mode."""
    host_network: HostNetwork | None = None
    """Of mode Bridge: what it is joined to."""

    @property
    def is_numbered(self) -> bool:
        """Whether it has all that has to be claimed before the first machine comes."""
        return self.mode is not NetworkMode.OVERLAY or (self.vni is not None and self.mtu is not None)

    @property
    def tunnel_mtu(self) -> int:
        """What the tunnels of each host that has it must take; 0: it has none, or its MTU is not claimed yet."""
        return self.mtu or 0 if self.mode is NetworkMode.OVERLAY else 0

    def overlaps(self, other: "Network") -> bool:
        """Whether an address may belong to both."""
        return any(
            version in other.subnets and subnet.cidr.overlaps(other.subnets[version].cidr)
            for version, subnet in self.subnets.items()
        )

    @property
    def routed(self) -> tuple[IpNetwork, ...]:
        """Of mode Routed: what its hosts must route."""
        return tuple(one.cidr for one in self.subnets.values()) if self.mode is NetworkMode.ROUTED else ()

    @property
    def counted(self) -> Subnet | None:
        """Of which status.free speaks: the first family whose addresses are claimed."""
        return next((subnet for _version, subnet in sorted(self.subnets.items()) if subnet.is_claimed), None)

    @property
    def cidrs(self) -> str:
        """Its addresses, for people."""
        return " and ".join(str(subnet.cidr) for subnet in self.subnets.values())


@dataclass(frozen=True, slots=True)
class NotServed:
    """Why no machine gets a place on a network."""

    reason: str
    message: str


class Catalog:
    """Reads the store, and listens to it for what depends on all networks together."""

    def __init__(self, store: Store, claims: Claims) -> None:
        self._store = store
        self._claims = claims
        self.overlays = Overlays(store, claims)
        self._parsed: dict[Key, tuple[int, Network]] = {}
        self._keys: dict[str, Key] = {}
        self._revision = 0
        self._outranked: tuple[tuple[int, int], dict[str, Network]] = ((-1, -1), {})

    def observe(self, resource: Resource, key: Key, old: Object | None, new: Object | None) -> None:
        """A listener for the store."""
        self.overlays.observe(resource, key, old, new)
        if resource is not NETWORKS:
            return
        if old is not None:
            self._keys.pop(uid_of(old), None)
        if new is None:
            self._parsed.pop(key, None)
        else:
            self._keys[uid_of(new)] = key
        if old is None or new is None or old["spec"] != new["spec"] or uid_of(old) != uid_of(new):
            self._revision += 1

    def key_of(self, uid: str) -> Key | None:
        """The network's name, while there is one of the UID."""
        return self._keys.get(uid)

    def get(self, key: Key) -> Network | None:
        """The network of that name."""
        network = self._store.get(NETWORKS, key)
        return self.parse(network) if network is not None else None

    def parse(self, network: Object) -> Network:
        """The network as it was read."""
        key, version = key_of(network), version_of(network)
        known = self._parsed.get(key)
        if known is None or known[0] != version:
            known = self._parsed[key] = (version, _network_of(network, known[1] if known is not None else None))
        return known[1]

    def not_served(self, network: Network) -> NotServed | None:
        """Why no machine gets a place on the network; None: it may."""
        if network.contradiction:
            return NotServed(Reason.NETWORK_INVALID, network.contradiction)
        if network.mode is NetworkMode.OVERLAY:
            return self._not_tunnelled(network)
        if network.mode is NetworkMode.ROUTED:
            other = self._outranked_networks().get(network.uid)
            if other is not None:
                return NotServed(
                    Reason.NETWORKS_OVERLAP,
                    f"its addresses {network.cidrs} overlap {other.cidrs} of VirtualNetwork {other.key}, which was "
                    f"there before, and the routes of both are the hosts'; change the cidr of one of them",
                )
        return None

    def _not_tunnelled(self, network: Network) -> NotServed | None:
        fitting, elder = self.overlays.fitting(), self.overlays.elder(network.uid)
        if network.asked_mtu is not None and fitting is not None and network.asked_mtu > fitting[1]:
            return NotServed(
                Reason.NETWORK_INVALID,
                f"spec.mtu: {network.asked_mtu} does not fit into the tunnels of hypervisor {fitting[0]}, which take "
                f"{fitting[1]}; leave it out, or raise the MTU of the link under them",
            )
        if elder is not None and self._claims.used(network.uid):
            return NotServed(
                Reason.VNI_IN_USE,
                f"its number {network.vni} is held by VirtualNetwork {elder}, which was there before; it gets another "
                f"one once no machine is on it",
            )
        return None

    def _outranked_networks(self) -> dict[str, Network]:
        """Of each Routed network that is not served, by UID: the one for which it is not."""
        revision = (self._revision, self._claims.in_use_revision)
        if self._outranked[0] != revision:
            everyone = (self.parse(network) for network in self._store.all(NETWORKS).values())
            routed = [one for one in everyone if one.mode is NetworkMode.ROUTED and not one.contradiction]
            # One that machines are on is not taken from them by a change of one that nobody uses.
            routed.sort(key=lambda one: (not self._claims.used(one.uid), one.created, one.key))
            self._outranked = (revision, outranked(routed))
        return self._outranked[1]


def outranked(in_order: Iterable[Network]) -> dict[str, Network]:
    """Of each network that overlaps an earlier one that is served, by UID: that one."""
    served: dict[Version, list[tuple[int, int, str]]] = {version: [] for version in VERSIONS}
    """First and last address, in order and apart from each other, and the network's UID."""
    by_uid: dict[str, Network] = {}
    found: dict[str, Network] = {}
    for network in in_order:
        other = next(
            (uid for version, subnet in network.subnets.items() if (uid := _overlapped(served[version], subnet))), None
        )
        if other is not None:
            found[network.uid] = by_uid[other]
            continue
        by_uid[network.uid] = network
        for version, subnet in network.subnets.items():
            cidr = subnet.cidr
            insort(served[version], (int(cidr.network_address), int(cidr.broadcast_address), network.uid))
    return found


def _overlapped(spans: list[tuple[int, int, str]], subnet: Subnet) -> str:
    """The UID of a span that has an address of the subnet; empty when none has."""
    first, last = int(subnet.cidr.network_address), int(subnet.cidr.broadcast_address)
    index = bisect_left(spans, (last + 1, 0, "")) - 1
    return spans[index][2] if index >= 0 and spans[index][1] >= first else ""


def _network_of(network: Object, before: Network | None) -> Network:
    spec, bridge = network["spec"], network["spec"].get("bridge")
    subnets: dict[Version, Subnet] = {
        version: subnet_of(spec[f"ipv{version}"]) for version in VERSIONS if f"ipv{version}" in spec
    }
    if before is not None and before.subnets == subnets:
        # The same object: what was counted for it still holds.
        subnets = dict(before.subnets)
    return Network(
        key=key_of(network),
        uid=uid_of(network),
        mode=NetworkMode(spec["mode"]),
        subnets=subnets,
        contradiction=contradiction_in(spec, subnets),
        is_ending=is_being_deleted(network),
        created=network["metadata"]["creationTimestamp"],
        asked_mtu=spec.get("mtu"),
        vni=network.get("status", {}).get("vni"),
        mtu=network.get("status", {}).get("mtu"),
        capabilities=frozenset(_capabilities(spec)),
        host_network=HostNetwork(bridge["name"], bridge.get("vlan")) if bridge else None,
    )


def _capabilities(spec: Mapping[str, Any]) -> Iterator[NetworkCapability]:
    if "firewall" in spec:
        yield NetworkCapability.FIREWALL
    if "vlan" in (spec.get("bridge") or {}):
        yield NetworkCapability.VLAN
