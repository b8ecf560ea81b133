"""Whom a network's dnsmasq asks for the names of the outside."""

import contextlib
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import IpAddress, Network
from virtplane_drivers.network.linux.values import Finding

RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""Where the host's own servers stand, resolv.conf(5). The second: systemd-resolved puts only itself in the first."""
_MAX_SERVERS = 8


def servers_of(network: Network, of_the_agent: Sequence[IpAddress], resolv_confs: Sequence[Path]) -> list[IpAddress]:
    """The network's own, else the agent's, else the host's. An isolated network reaches none but its own."""
    if network.forwarders or network.mode is NetworkMode.ISOLATED:
        return list(network.forwarders)
    return list(of_the_agent) or host_servers(resolv_confs)


def host_servers(resolv_confs: Sequence[Path]) -> list[IpAddress]:
    """Of the first file that names any which a router namespace can reach: neither the host's loopback, nor a link."""
    for path in resolv_confs:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        found: dict[IpAddress, None] = {}
        for words in (line.split() for line in lines):
            if len(words) > 1 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    address = ip_address(words[1])
                    if not (address.is_loopback or address.is_link_local or address.is_unspecified):
                        found[address] = None
        if found:
            return list(found)[:_MAX_SERVERS]
    return []


def findings(network: Network, servers: Sequence[IpAddress]) -> list[Finding]:
    """That names of the outside are not answered, where a network has an outside."""
    if servers or network.mode is NetworkMode.ISOLATED:
        return []
    message = (
        "names outside of the network are not answered: this host has no DNS server that the network could reach "
        "(resolv.conf names only the host itself, or none); set spec.dns.forwarders of the network"
    )
    return [Finding(Reason.NO_UPSTREAM_DNS, message)]
