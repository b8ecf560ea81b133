"""Networks of mode Overlay: their numbers and their MTU, which are claims, and the hosts that have them.

The networks' statuses are the only record. A number (VNI) is chosen by a network's UID, else the next free one, and is
its own for life; one that is being written counts from the moment on in which it was chosen. Two networks have one when
two operators decided around a change of their Lease: the younger one takes another, or, while machines are on it, takes
no more of them.

The MTU is what fits into the tunnels between all hosts that have the mode, on the day on which the first machine comes:
guests are told once, and no router tells them later that a packet is too big within their own network.
"""

import hashlib
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from virtplane_api.kube.conditions import is_true
from virtplane_api.kube.resources import HYPERVISORS, NETWORKS, Key, Object, Resource, key_of, uid_of
from virtplane_api.overlay import MAX_VNI, MIN_VNI, inner_mtu
from virtplane_api.vocabulary import NetworkMode
from virtplane_operator.networks.claims import Claims
from virtplane_operator.world import Store

OWNED = ("vni", "mtu", "peers")
_MAX_PEERS = 1024
_Age = tuple[str, Key]


class Overlays:
    """Reads the store, and listens to it for numbers that are held."""

    def __init__(self, store: Store, claims: Claims) -> None:
        self._store = store
        self._claims = claims
        self._numbers: dict[str, int] = {}
        """By UID."""
        self._holders: dict[int, dict[str, _Age]] = {}
        self._fitting: tuple[str, int] | None = None
        self._fitting_is_known = False

    def observe(self, resource: Resource, _key: Key, old: Object | None, new: Object | None) -> None:
        """A listener for the store."""
        if resource is HYPERVISORS:
            self._fitting_is_known = False
        if resource is not NETWORKS:
            return
        if old is not None and (new is None or uid_of(new) != uid_of(old)):
            self._forget(uid_of(old))
        if new is not None:
            number = new.get("status", {}).get("vni")
            if not is_overlay(new):
                self._forget(uid_of(new))
            elif number is not None and number != self._numbers.get(uid_of(new)):
                self._hold(new, number)

    def fitting(self) -> tuple[str, int] | None:
        """The Hypervisor whose tunnels take least, of those that are Ready, and that MTU; None: none has the mode."""
        if not self._fitting_is_known:
            found = [
                (mtu, key.name)
                for key, hypervisor in self._store.all(HYPERVISORS).items()
                if is_true(hypervisor, "Ready") and (mtu := mtu_by(hypervisor))
            ]
            self._fitting = (min(found)[1], min(found)[0]) if found else None
            self._fitting_is_known = True
        return self._fitting

    def elder(self, uid: str) -> Key | None:
        """Another network that has the number of this one, and had it first."""
        holders = self._holders.get(self._numbers.get(uid, 0), {})
        if uid not in holders:
            return None
        first = min(holders, key=lambda one: holders[one])
        return holders[first][1] if first != uid else None

    def status(self, network: Object, asked_mtu: int | None) -> dict[str, Any]:
        """Number, MTU and hosts as they are to be. What machines have already stays what it is."""
        uid, current = uid_of(network), network.get("status", {})
        in_use = self._claims.used(uid) > 0
        status: dict[str, Any] = {"vni": self._number(network, in_use=in_use)}
        mtu = current.get("mtu")
        fitting = self.fitting()
        if fitting is not None and not (in_use and mtu is not None):
            mtu = min(asked_mtu or fitting[1], fitting[1])
        if mtu is not None:
            status["mtu"] = mtu
        if peers := self._peers(uid):
            status["peers"] = peers
        return status

    def _peers(self, uid: str) -> list[dict[str, str]]:
        addresses: dict[str, str] = {}
        for name in self._claims.hypervisors(uid):
            hypervisor = self._store.get(HYPERVISORS, Key("", name))
            underlay = (hypervisor or {}).get("status", {}).get("underlay")
            if hypervisor is not None and underlay:
                addresses.setdefault(hypervisor["spec"]["agentName"], underlay["address"])
        return [{"agentName": agent, "address": address} for agent, address in sorted(addresses.items())][:_MAX_PEERS]

    def _number(self, network: Object, *, in_use: bool) -> int:
        uid = uid_of(network)
        number = self._numbers.get(uid)
        if number is None or (not in_use and self.elder(uid) is not None):
            number = choose(uid, self._holders)
            self._hold(network, number)
        return number

    def _hold(self, network: Object, number: int) -> None:
        self._forget(uid_of(network))
        self._numbers[uid_of(network)] = number
        age = network["metadata"]["creationTimestamp"], key_of(network)
        self._holders.setdefault(number, {})[uid_of(network)] = age

    def _forget(self, uid: str) -> None:
        number = self._numbers.pop(uid, None)
        if number is not None:
            del self._holders[number][uid]
            if not self._holders[number]:
                del self._holders[number]


def choose(uid: str, held: Mapping[int, object]) -> int:
    """The number for a network: by its UID, so that it is the same for whoever decides."""
    size = MAX_VNI - MIN_VNI + 1
    first = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8]) % size
    return next(
        number for step in range(size) if (number := MIN_VNI + (first + step) % size) not in held
    )  # a cluster has fewer networks than there are numbers


def is_overlay(network: Object) -> bool:
    """Whether it has tunnels."""
    return bool(network["spec"]["mode"] == NetworkMode.OVERLAY)


def mtu_by(hypervisor: Object) -> int:
    """The largest packet in bytes that tunnels of this host take; 0: it has none."""
    status = hypervisor.get("status", {})
    underlay = status.get("underlay")
    if not underlay or NetworkMode.OVERLAY not in (status.get("networkModes") or ()):
        return 0
    return inner_mtu(ip_address(underlay["address"]), underlay["mtu"])


def facts_of(hypervisor: Object | None) -> tuple[object, ...]:
    """What of a Hypervisor the networks' statuses follow from."""
    if hypervisor is None:
        return ()
    return is_true(hypervisor, "Ready"), mtu_by(hypervisor), hypervisor.get("status", {}).get("underlay")
