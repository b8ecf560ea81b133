"""What the spec of a VirtualNetwork means where it leaves a choice: the same for operator and agent."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from virtplane_api.kube.resources import Object
from virtplane_api.vocabulary import NetworkMode

NO_GATEWAY = "None"
"""In the place of a gateway's address: the network has none."""

DEFAULT_MTU = 1500


def gateway_of(subnet: Mapping[str, Any]) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The router's address in spec.ipv4 or spec.ipv6: the first one where none is named."""
    named = subnet.get("gateway")
    if named == NO_GATEWAY:
        return None
    return ipaddress.ip_address(named) if named else ipaddress.ip_network(subnet["cidr"])[1]


def mtu_of(network: Object) -> int:
    """Of all its links, in bytes; of mode Overlay what the operator has claimed, once it has."""
    claimed = network.get("status", {}).get("mtu") if network["spec"]["mode"] == NetworkMode.OVERLAY else None
    return int(claimed or network["spec"].get("mtu", DEFAULT_MTU))


def domain_of(network: Object) -> str:
    """The DNS suffix of its machines' names."""
    metadata = network["metadata"]
    named = (network["spec"].get("dns") or {}).get("domain")
    return str(named or f"{metadata['name']}.{metadata['namespace']}.internal")
