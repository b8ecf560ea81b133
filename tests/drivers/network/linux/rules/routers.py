"""A router for a test, put up by hand: a namespace with br0, its veth to the host, and stand-ins for guests."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from tests.drivers.network.linux.host import HOST_IPV4, HOST_IPV6, Host, Namespace
from virtplane_drivers.network.contract import Network, Port
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.transit import transit_at
from virtplane_drivers.network.linux.values import Transit

HOST_ADDRESSES = (IPv4Address(HOST_IPV4), IPv6Address(HOST_IPV6))


def transit(number: int) -> Transit:
    """The addresses of the host's veth of that number."""
    return transit_at(IPv4Address("169.254.64.0") + 2 * number)


@dataclass
class Router:
    """A router namespace of a network, without any rules."""

    host: Host
    at: Namespace
    network: Network
    transit: Transit | None

    @property
    def path(self) -> Path:
        return self.at.path

    def with_ports(self, *ports: Port) -> Network:
        """The network, with other ports from now on."""
        self.network = replace(self.network, ports=ports)
        return self.network

    def guest(self, one: Port) -> Namespace:
        """A stand-in for the guest of a port, with the port's addresses and default routes."""
        addresses = [f"{address}/{24 if address.version == 4 else 64}" for address in one.addresses]
        versions = {address.version for address in one.addresses}
        gateways = [
            str(subnet.gateway)
            for subnet in self.network.subnets
            if subnet.cidr.version in versions and subnet.gateway not in one.addresses
        ]
        return self.host.guest(self.path, one.mac, *addresses, gateways=tuple(gateways), port=names.tap_name(one))


def new_router(host: Host, one: Network, number: int | None = 0) -> Router:
    """The namespace with br0, and the veth to the host unless the number is None."""
    at = host.new_namespace()
    at.ip("link", "set", "lo", "up")
    at.ip("link", "add", names.BRIDGE, "address", names.router_mac(one.uid), "type", "bridge", "mcast_snooping", "0")
    at.ip("link", "set", names.BRIDGE, "up")
    for subnet in one.subnets:
        nodad = ["nodad"] if subnet.cidr.version == 6 else []
        at.ip("address", "add", f"{subnet.gateway}/{subnet.cidr.prefixlen}", "dev", names.BRIDGE, *nodad)
    # Where br_netfilter is loaded, bridged frames of a new namespace would meet the rules of routed packets.
    for name in at.run("sh", "-c", "cd /proc/sys/net/bridge 2>&- && ls -d bridge-nf-call-* || true").split():
        at.set_sysctl(f"net/bridge/{name}", 0)
    for family in ("ipv4", "ipv6"):
        at.set_sysctl(f"net/{family}/conf/all/forwarding", 1)
        host.machine.set_sysctl(f"net/{family}/conf/all/forwarding", 1)
    if number is None:
        return Router(host, at, one, None)
    pair, link = transit(number), names.host_link(one.uid)
    host.machine.ip("link", "add", link, "type", "veth", "peer", "name", names.UPLINK, "netns", str(at.path))
    for namespace, device, ipv4, ipv6 in (
        (host.machine, link, pair.host_ipv4, pair.host_ipv6),
        (at, names.UPLINK, pair.router_ipv4, pair.router_ipv6),
    ):
        namespace.ip("link", "set", device, "up")
        namespace.ip("address", "add", f"{ipv4}/31", "dev", device)
        namespace.ip("address", "add", f"{ipv6}/127", "dev", device, "nodad")
    at.ip("-4", "route", "add", "default", "via", str(pair.host_ipv4))
    at.ip("-6", "route", "add", "default", "via", str(pair.host_ipv6))
    return Router(host, at, one, pair)
