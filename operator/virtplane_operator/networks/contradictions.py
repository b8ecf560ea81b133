"""What a network's spec says against itself, where neither its schema nor CEL can tell."""

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from virtplane_api.vocabulary import NetworkMode
from virtplane_operator.networks.addresses import VERSIONS, Subnet, Unusable, Version, text_of

_OUT_BY_THE_HOST = (NetworkMode.NAT, NetworkMode.ROUTED, NetworkMode.OVERLAY)
_RESERVED = ip_network("240.0.0.0/4")
"""RFC 1112, 4: many systems take no such address. The last one is the broadcast of every network."""


def contradiction_in(spec: Mapping[str, Any], subnets: Mapping[Version, Subnet]) -> str:
    """The first contradiction, with the field's path and the next step; empty when there is none.

    `subnets` are those of the spec, by family.
    """
    return next(_contradictions(spec, subnets), "")


def _contradictions(spec: Mapping[str, Any], subnets: Mapping[Version, Subnet]) -> Iterator[str]:
    for version in VERSIONS:
        if version in subnets:
            yield from _in_subnet(f"spec.ipv{version}", spec[f"ipv{version}"], subnets[version])
    for index, text in enumerate((spec.get("dns") or {}).get("forwarders") or ()):
        if found := _in_forwarder(f"spec.dns.forwarders[{index}]", text, subnets):
            yield found
    if spec.get("routes") and spec["mode"] == NetworkMode.USER:
        yield "spec.routes: machines of mode User do not meet, so none leads to another network; leave routes out"
    first: dict[IPv4Network | IPv6Network, int] = {}
    for index, route in enumerate(spec.get("routes") or ()):
        field, destination = f"spec.routes[{index}]", ip_network(route["destination"])
        yield from _in_route(field, route, subnets)
        if not destination.prefixlen and spec["mode"] in _OUT_BY_THE_HOST:
            yield (
                f"{field}.destination: the way to {destination} of mode {spec['mode']} is by the host; route other "
                f"networks, or take mode Isolated"
            )
        if first.setdefault(destination, index) != index:
            yield f"{field}.destination: spec.routes[{first[destination]}] leads to {destination} too; leave one out"


def _in_forwarder(field: str, text: str, subnets: Mapping[Version, Subnet]) -> str:
    """Of a server that the router cannot ask, or that is itself."""
    address, what = ip_address(text), ""
    subnet = subnets.get(4 if address.version == 4 else 6)
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        what = "is the address of no server"
    elif address.is_loopback or (subnet is not None and subnet.gateway == int(address)):
        what = "is the router itself, which would ask itself"
    return f"{field}: {text} {what}; name another server, or none for the host's" if what else ""


def _in_subnet(field: str, spec: Mapping[str, Any], subnet: Subnet) -> Iterator[str]:
    cidr = subnet.cidr
    special = _special(subnet)
    if special:
        yield f"{field}.cidr: {cidr} holds {special} addresses, which no machine can have; take another network"
    if subnet.gateway is not None and subnet.gateway > subnet.last:
        yield f"{field}.gateway: {spec['gateway']} is the broadcast address of {cidr}; take another one"
    for index, span in enumerate(subnet.excluded):
        start, end = text_of(subnet.version, span.start), text_of(subnet.version, span.end)
        where = f"{field}.excludedRanges[{index}]"
        if span.start > span.end:
            yield f"{where}: its start {start} comes after its end {end}; exchange them"
        elif subnet.gateway is not None and span.start <= subnet.gateway <= span.end:
            given = "" if "gateway" in spec else ", the first one, as spec names none"
            gateway = text_of(subnet.version, subnet.gateway)
            yield (
                f"{where}: {start} to {end} excludes the gateway {gateway}{given}; "
                f"leave it out, it is never given to a machine, or set {field}.gateway to another address or to None"
            )


def _special(subnet: Subnet) -> str:
    cidr = subnet.cidr
    this_host = ip_network("0.0.0.0/8" if subnet.version == 4 else "::/64")
    for found, name in (
        (cidr.overlaps(this_host), "unspecified"),
        (cidr.is_loopback, "loopback"),
        (cidr.is_multicast, "multicast"),
        (cidr.is_link_local, "link-local"),
        (cidr.overlaps(_RESERVED), "reserved"),
    ):
        if found:
            return name
    return ""


def _in_route(field: str, route: Mapping[str, str], subnets: Mapping[Version, Subnet]) -> Iterator[str]:
    destination, via = ip_network(route["destination"]), ip_address(route["via"])
    if destination.version != via.version:
        yield f"{field}: {via} cannot be the way to {destination}, which is of the other family"
        return
    subnet = subnets[4 if via.version == 4 else 6]
    if destination.prefixlen and destination.overlaps(subnet.cidr):
        yield f"{field}.destination: {destination} is a part of the network itself or holds it; route other networks"
    match subnet.unusable(int(via)):
        case Unusable.GATEWAY:
            yield f"{field}.via: {via} is the gateway, which does the routing; name a machine's address"
        case Unusable.NETWORK | Unusable.BROADCAST:
            yield f"{field}.via: no machine can have {via}"
        case Unusable.EXCLUDED | Unusable.OUTSIDE | None:
            pass
