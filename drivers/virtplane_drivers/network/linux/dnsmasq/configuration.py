"""What a network's dnsmasq is told, as pure texts.

There are no leases to keep: every address is a reservation, and dnsmasq knows nobody else (`dhcp-ignore`). It listens
on all addresses and takes what came in by the bridge: an address of IPv6 that is still being checked cannot be bound
to.

Where the network has no router, dnsmasq still needs an address on the bridge (`own_addresses`); guests are told of it
as of a neighbour, and of no default route. A network of mode Isolated has a router that leads nowhere: a guest that has
a second interface must not send there what is meant for others, so it is told of no default route either.

Options: dnsmasq(8), 2.90.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network, ip_address

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import Addressing, NetworkMode
from virtplane_drivers.errors import Refused
from virtplane_drivers.network.contract import IpAddress, Network, Port, Subnet
from virtplane_drivers.network.linux.eui64 import by_mac
from virtplane_drivers.network.linux.names import BRIDGE, router_mac

SERVER_WITHOUT_ROUTER = IPv4Address("169.254.0.53")
"""Of the link-local addresses that nobody takes by himself (RFC 3927, section 2.1)."""

_TOLD = frozenset({Addressing.DHCP, Addressing.SLAAC})
"""Of these guests are told by dnsmasq."""
_LEASE = "1h"
_ROUTER_LIFETIME_S = 1800
_ADVERTISED_EVERY_S = 60
_MAX_LEASES = 4096
"""dnsmasq's own limit is 1,000 for both families together; a bridge takes 1,023 ports."""
_MAX_NAME_CHARS = 253

_ENTERPRISE = 53535
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The contents of dnsmasq's files."""

    settings: str
    """Read once, when it starts."""
    reservations: tuple[str, ...]
    """Lines. New ones are taken up by a running dnsmasq; a lease of one that is gone stays until it ends."""
    names: str
    """With `mark`. Read again when told to, as a whole."""
    servers: str
    """That are asked for names which are not ours. Read again when told to, as a whole."""
    mark: str
    """A name that only a dnsmasq that has read exactly these reservations, names and servers knows."""


def configuration_of(network: Network, servers: Sequence[IpAddress]) -> Configuration | None:
    """For the network, with `servers` for all names that are not its own; None: it has neither DHCP nor DNS.

    Raises:
        Refused: a value is none that a network can have: it might say something else to dnsmasq.
    """
    if not is_served(network):
        return None
    _check(network)
    reservations = tuple(_reservations(network))
    names = list(_names(network))
    asked = [f"server={server}" for server in servers]
    digest = hashlib.sha256("\n".join([*reservations, "", *names, "", *asked]).encode()).hexdigest()[:32]
    # No machine has a name with an underscore. The address is one that is never sent to.
    mark = f"{digest}._virtplane.{network.domain}"
    return Configuration(
        settings=_text(_settings(network)),
        reservations=reservations,
        names=_text([*names, f"0.0.0.0 {mark}"]),
        servers=_text(asked),
        mark=mark,
    )


def is_served(network: Network) -> bool:
    """Whether it has a dnsmasq: somebody asks it for addresses, or can reach its router for names."""
    return network.mode is not NetworkMode.BRIDGE and any(
        subnet.addressing in _TOLD or subnet.gateway is not None for subnet in network.subnets
    )


def own_addresses(network: Network) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """What the bridge needs for dnsmasq besides the gateways: an address in each family that it tells guests of.

    For IPv6 one of the network itself: only then its prefix is advertised, and guests find each other. It is the one
    that the bridge would give itself by its MAC (RFC 4291, appendix A), which no claim happens to meet.
    """
    if not is_served(network):
        return ()
    found: list[IPv4Interface | IPv6Interface] = []
    for subnet in network.subnets:
        if subnet.gateway is None and subnet.addressing in _TOLD:
            if isinstance(subnet.cidr, IPv6Network):
                found.append(IPv6Interface((by_mac(subnet.cidr, router_mac(network.uid)), subnet.cidr.prefixlen)))
            else:
                found.append(IPv4Interface((SERVER_WITHOUT_ROUTER, 32)))
    return tuple(found)


def _text(lines: Sequence[str] | Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _settings(network: Network) -> Iterator[str]:
    yield from (
        "keep-in-foreground",
        "pid-file",  # none
        f"interface={BRIDGE}",
        "no-hosts",
        "no-resolv",
        "no-poll",
        "no-ping",
        # To its output (see `words`). syslog(3) where nobody listens costs 140 ms at each start, and a guest's DHCP
        # where it is slow.
        "log-facility=-",
        "cache-size=1000",
        "domain-needed",
        f"domain={network.domain}",
        f"local=/{network.domain}/",
    )
    for subnet in network.subnets:
        yield f"rev-server={subnet.cidr}"
    if not any(subnet.addressing in _TOLD for subnet in network.subnets):
        return
    yield from (
        "dhcp-authoritative",
        "leasefile-ro",
        f"dhcp-lease-max={_MAX_LEASES}",
        "dhcp-ignore=tag:!known",
        "dhcp-ignore-names",  # a guest would take another one's name by asking under it
        "quiet-dhcp",
        "quiet-dhcp6",
        "quiet-ra",
    )
    server = {address.version: address.ip for address in own_addresses(network)}
    if network.ipv4 is not None and network.ipv4.addressing is Addressing.DHCP:
        yield from _dhcp4(network, network.ipv4, network.ipv4.gateway or server[4])
    if network.ipv6 is not None and network.ipv6.addressing in _TOLD:
        yield from _ipv6(network, network.ipv6, network.ipv6.gateway or server[6])


def _dhcp4(network: Network, subnet: Subnet, server: IpAddress) -> Iterator[str]:
    first = subnet.cidr.network_address
    yield f"dhcp-range={first},static,{subnet.cidr.netmask},{_LEASE}"
    yield f"dhcp-option=option:mtu,{network.mtu}"
    yield f"dhcp-option=option:dns-server,{server}"
    yield f"dhcp-option=option:domain-search,{network.domain}"
    router = _default_router(network, subnet)
    yield f"dhcp-option=option:router,{router}" if router else "dhcp-option=option:router"
    routes = [(str(route.destination), str(route.via)) for route in network.routes if route.via.version == 4]
    if subnet.gateway is None:
        yield f"shared-network={BRIDGE},{first}"
        routes.insert(0, (f"{server}/32", "0.0.0.0"))  # noqa: S104  # on the link itself (RFC 3442)
    if routes:
        if router:  # who takes static routes ignores the router option (RFC 3442)
            routes.insert(0, ("0.0.0.0/0", str(router)))
        yield "dhcp-option=option:classless-static-route," + ",".join(f"{to},{via}" for to, via in routes)


def _ipv6(network: Network, subnet: Subnet, server: IpAddress) -> Iterator[str]:
    lifetime_s = _ROUTER_LIFETIME_S if _default_router(network, subnet) else 0
    if subnet.addressing is Addressing.SLAAC:
        # No DHCPv6: who asks for more than the advertisement has names and domain in it (RFC 8106).
        yield f"dhcp-range={subnet.cidr.network_address},ra-only,{subnet.cidr.prefixlen},{_LEASE}"
    else:
        digest = hashlib.sha256(network.uid.encode()).digest()[:8]
        yield f"dhcp-range={subnet.cidr.network_address},static,{subnet.cidr.prefixlen},{_LEASE}"
        yield f"dhcp-duid={_ENTERPRISE},{digest.hex(':')}"
    yield "enable-ra"
    yield f"ra-param={BRIDGE},mtu:{network.mtu},{_ADVERTISED_EVERY_S},{lifetime_s}"
    yield f"dhcp-option=option6:dns-server,[{server}]"
    yield f"dhcp-option=option6:domain-search,{network.domain}"


def _default_router(network: Network, subnet: Subnet) -> IpAddress | None:
    return None if network.mode is NetworkMode.ISOLATED else subnet.gateway


def _reservations(network: Network) -> Iterator[str]:
    told = {subnet.cidr.version for subnet in network.subnets if subnet.addressing is Addressing.DHCP}
    for port in network.ports:
        addresses = [f"[{a}]" if a.version == 6 else str(a) for a in port.addresses if a.version in told]
        if addresses:
            yield ",".join([port.mac, *addresses, *_host_name(network, port)])


def _host_name(network: Network, port: Port) -> list[str]:
    """What a guest is told to call itself, if anything, with the domain: alone, `ignore` or `1h` would be an order.

    dnsmasq takes what is behind the first dot for the domain, and drops the name where that is another one.
    """
    name = f"{port.machine_name}.{network.domain}"
    return [] if "." in port.machine_name or _is_address(name) else [name]


def _names(network: Network) -> Iterator[str]:
    """With the domain; by the machine's name alone only where that is no name of the outside (`www.example.org`)."""
    for machine, addresses in _machines(network):
        name = f"{machine}.{network.domain}"
        if len(name) > _MAX_NAME_CHARS:
            continue
        short = "" if "." in machine else f" {machine}"
        for address in addresses:
            yield f"{address} {name}{short}"


def _machines(network: Network) -> Iterator[tuple[str, tuple[IpAddress, ...]]]:
    yield from ((port.machine_name, port.addresses) for port in network.ports)
    if network.overlay is not None:
        yield from ((machine.name, machine.addresses) for machine in network.overlay.machines)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _check(network: Network) -> None:
    """A second time, after the API: what gets past here is written into a language that has orders."""
    _fits("domain", _NAME, network.domain)
    _check_addresses(network)
    if not isinstance(network.mtu, int):
        raise _refused("MTU", network.mtu)
    for port in network.ports:
        _fits("MAC address", _MAC, port.mac)
    for machine, _addresses in _machines(network):
        _fits("name of a machine", _NAME, machine)


def _check_addresses(network: Network) -> None:
    given: list[object] = [*network.forwarders]
    for subnet in network.subnets:
        given += [subnet.cidr.network_address, *([] if subnet.gateway is None else [subnet.gateway])]
    for route in network.routes:
        given += [route.destination.network_address, route.via]
    for _machine, addresses in _machines(network):
        given += addresses
    for address in given:
        if not isinstance(address, IPv4Address | IPv6Address) or (address.version == 6 and address.scope_id):
            raise _refused("address", address)


def _fits(what: str, pattern: re.Pattern[str], text: str) -> None:
    if not pattern.fullmatch(text) or len(text) > _MAX_NAME_CHARS:
        raise _refused(what, text)


def _refused(what: str, value: object) -> Refused:
    return Refused(f"{str(value)[:100]!r} is no {what}", reason=Reason.NETWORK_INVALID)
