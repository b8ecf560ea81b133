"""What guests call their own where nobody gave them addresses: heard of them by the kernel, which keeps it for a while.

A frame that anti-spoofing let through, of a port whose family is free, and in which the guest speaks of its own
address: ARP of a sender (a probe has none, RFC 5227), the target of a neighbour's advertisement, the source of a
solicitation, and the target of duplicate address detection, after which a guest that uses its address need not say so
again. Not of use to anybody outside, and not kept: link-local addresses of IPv6. What a guest sends as or forwards
beside that says nothing about what is its own.

It is a hint for people. A guest may lie: no rule asks these sets.

::

    heard_ipv4     ifindex . address          added once, gone after KEPT_S, and then added anew
    heard_ipv6     ifindex . address          (of solicitations)
    heard_target   ifindex . address          (of advertisements and duplicate address detection)
    heard_budget_ipv4, heard_budget_ipv6      ifindex, with a limit of what may be added

The index of a tap is of one run of a machine: the next run's tap has another one, so nothing has to be taken out. A
guest that claims a million addresses adds _AT_ONCE of each family, and then _PER_MINUTE: of 1,000 such guests all sets
together still have room (`test_a_thousand_guests_that_lie_leave_room_in_the_sets`). The kernel changes these sets, and
that is no transaction: the generation by which KeptRules knows its own stays what it was.
"""

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from virtplane_drivers.network.contract import IpAddress, Network
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.rules.ruleset import Chain, NamedSet, Table, whole
from virtplane_drivers.network.linux.rules.set_elements import elements_of

KEPT_S = 600
SET_SIZE = 65535
_AT_ONCE, _PER_MINUTE = 16, 2
MAX_OF_A_PORT = _AT_ONCE + _PER_MINUTE * KEPT_S // 60
"""Of one family, in the kernel."""
_SETS_OF_ADDRESSES = {4: ("heard_ipv4",), 6: ("heard_ipv6", "heard_target")}
_INDEX = struct.Struct("=I")
_IPV6_BYTES = 16


@dataclass(frozen=True, slots=True)
class Heard:
    """An address that a guest said was its own."""

    tap: str
    address: IpAddress
    ago_s: float
    """Of the first time within the last KEPT_S."""


def free_versions(network: Network) -> frozenset[int]:
    """The IP versions of which nobody claims addresses in the network."""
    claimed = {subnet.cidr.version for subnet in network.subnets}
    return frozenset({4, 6} - claimed) | (frozenset({6}) if network.chosen_prefix is not None else frozenset())


def with_heard(table: Table, network: Network) -> Table:
    """The table of the family bridge, with what listens to the ports of which a version is free. Pure."""
    ports = {version: f"free_ipv{version}" for version in free_versions(network)}
    if network.chosen_prefix is not None:
        ports[6] = "slaac_ipv6"
    return _with_heard(table, ports)


def _with_heard(table: Table, ports: Mapping[int, str]) -> Table:
    """`ports`: by version, the set of the taps that are listened to."""
    if not ports:
        return table
    listens = Chain(
        "heard",
        tuple(rule.format(ports=ports[version]) for version in sorted(ports) for rule in _RULES[version]),
        # After anti-spoofing: what that drops never comes here.
        "type filter hook prerouting priority dstnat + 10; policy accept;",
    )
    sets = (one for version in sorted(ports) for one in _SETS[version])
    return replace(table, sets=(*table.sets, *sets), chains=(*table.chains, listens))


def probe_script() -> str:
    """What a kernel takes that can listen."""
    free = tuple(NamedSet(f"free_ipv{version}", "typeof iifname") for version in _SETS)
    return whole(
        (_with_heard(Table("bridge", "probe", free, ()), {version: f"free_ipv{version}" for version in _SETS}),)
    )


def heard_now(network: Network) -> tuple[dict[str, int], list[Heard]]:
    """The runs of the network's taps that are there, and all that the kernel keeps of those, in no order.

    Of the thread's namespace. Blocking; a millisecond.

    Raises:
        OSError: the kernel does not say. Where the sets are not there (yet), nothing was heard.
    """
    taps = {names.tap_name(port) for port in network.ports}
    runs = {name: index for index, name in socket.if_nameindex() if name in taps}
    return runs, list(_heard(runs, free_versions(network))) if runs else []


def _heard(runs: Mapping[str, int], versions: frozenset[int]) -> Iterator[Heard]:
    taps = {index: tap for tap, index in runs.items()}
    for version in versions:
        for name in _SETS_OF_ADDRESSES[version]:
            for element in elements_of("bridge", names.ROUTER_TABLE, name):
                (index,) = _INDEX.unpack_from(element.key)
                address = _address(element.key[_INDEX.size :], version)
                if index in taps and _can_be_a_guests(address):
                    yield Heard(taps[index], address, max(KEPT_S - element.expires_s, 0.0))


def _address(packed: bytes, version: int) -> IpAddress:
    return IPv4Address(packed[:4]) if version == 4 else IPv6Address(packed[:_IPV6_BYTES])


def _can_be_a_guests(address: IpAddress) -> bool:
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        return False
    # "This" network, and what was kept for later (RFC 1122, RFC 1112); broadcast is in it.
    return address.version == 6 or not (address.is_reserved or int(address) >> 24 == 0)


def _set(name: str, type_: str) -> NamedSet:
    return NamedSet(name, f"typeof {type_}; flags dynamic,timeout; size {SET_SIZE}; timeout {KEPT_S}s")


def _sets(version: int, *heard: tuple[str, str]) -> Iterator[NamedSet]:
    yield _set(f"heard_budget_ipv{version}", "iif")
    for name, address in heard:
        yield _set(name, f"iif . {address}")


def _rule(version: int, when: str, name: str, address: str) -> str:
    """What is in the set already costs a guest nothing of its budget."""
    budget = f"heard_budget_ipv{version} {{{{ iif limit rate {_PER_MINUTE}/minute burst {_AT_ONCE} packets }}}}"
    listened = f"iifname @{{ports}} {when} iif . {address} != @{name}"
    return f"{listened} update @{budget} add @{name} {{{{ iif . {address} }}}}"


_SETS = {
    4: tuple(_sets(4, ("heard_ipv4", "arp saddr ip"))),
    6: tuple(_sets(6, ("heard_ipv6", "ip6 saddr"), ("heard_target", "@th,64,128"))),
}
_TARGET_IS_GLOBAL = "@th,64,10 != 0x3fa"
_RULES = {
    4: (_rule(4, "arp saddr ip != 0.0.0.0", "heard_ipv4", "arp saddr ip"),),
    6: (
        _rule(6, f"icmpv6 type nd-neighbor-advert {_TARGET_IS_GLOBAL}", "heard_target", "@th,64,128"),
        _rule(6, f"icmpv6 type nd-neighbor-solicit ip6 saddr :: {_TARGET_IS_GLOBAL}", "heard_target", "@th,64,128"),
        _rule(6, "icmpv6 type nd-neighbor-solicit ip6 saddr != {{ ::, fe80::/10 }}", "heard_ipv6", "ip6 saddr"),
    ),
}
