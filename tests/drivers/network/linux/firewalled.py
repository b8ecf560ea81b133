"""A network of a real driver with a firewall, and stand-ins for its guests."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

from tests.drivers.network import numbered
from tests.drivers.network.hosts import reachable_folder
from tests.drivers.network.linux.host import Host, Namespace, new_host
from tests.drivers.network.linux.networks import TRANSIT_CIDR
from virtplane_api.vocabulary import FirewallAction, FirewallDirection, FirewallProtocol, NetworkMode
from virtplane_drivers.network.contract import AddressGroup, Firewall, FirewallRule, Network, Port
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.allowances import Allowances
from virtplane_drivers.network.linux.driver import CHECK_EVERY_S, LinuxNetworks
from virtplane_drivers.network.linux.names import namespace_path

HOST_BRIDGE = "br-lan"
ALL_GIVEN = Allowances(frozenset({HOST_BRIDGE}), (ip_network("10.0.0.0/24"), ip_network("fd00::/64")))
ALLOW, DENY = FirewallAction.ALLOW, FirewallAction.DENY
INGRESS, EGRESS = FirewallDirection.INGRESS, FirewallDirection.EGRESS
TCP, UDP, ICMP = FirewallProtocol.TCP, FirewallProtocol.UDP, FirewallProtocol.ICMP


def rule(
    direction: FirewallDirection,
    action: FirewallAction,
    *others: str,
    protocol: FirewallProtocol = FirewallProtocol.ANY,
    ports: tuple[tuple[int, int], ...] = (),
) -> FirewallRule:
    """Of everybody; or of CIDRs, and of groups, whose names have a `@` here."""
    groups = tuple(other[1:] for other in others if other.startswith("@"))
    cidrs = tuple(ip_network(other) for other in others if not other.startswith("@"))
    return FirewallRule(direction, action, protocol, ports, not others, cidrs, groups)


def firewall(
    *rules: FirewallRule,
    ingress: FirewallAction = ALLOW,
    egress: FirewallAction = ALLOW,
    name: str = "f1",
) -> Firewall:
    return Firewall(name, ingress, egress, rules)


def group(name: str, *members: Port) -> AddressGroup:
    addresses = tuple(address for member in members for address in member.addresses)
    return AddressGroup(name, addresses, tuple(member.mac for member in members))


def network(*ports: Port, firewalls: tuple[Firewall, ...] = (), mode: NetworkMode = NetworkMode.NAT) -> Network:
    """That of the `Walled` unless it says otherwise."""
    return numbered.network("walled", *ports, mode=mode, firewalls=firewalls)


@dataclass
class Walled:
    """A host with one driver."""

    host: Host
    driver: LinuxNetworks
    folder: Path

    def router(self, uid: str = "walled") -> Namespace:
        return Namespace(namespace_path(self.folder / "run", uid))

    def guest(self, one: Port, uid: str = "walled") -> Namespace:
        """A stand-in for the guest of a port that was applied."""
        addresses = [f"{address}/{24 if address.version == 4 else 64}" for address in one.addresses]
        path = self.router(uid).path
        return self.host.guest(path, one.mac, *addresses, gateways=("10.0.0.1", "fd00::1"), port=names.tap_name(one))

    def another_driver(
        self, *, check_every_s: float = CHECK_EVERY_S, allowances: Allowances = ALL_GIVEN
    ) -> LinuxNetworks:
        """An agent that starts anew on the same host."""
        return LinuxNetworks(
            self.folder / "state",
            self.folder / "run",
            transit_cidr=TRANSIT_CIDR,
            host_namespace=self.host.machine.path,
            allowances=allowances,
            check_every_s=check_every_s,
        )


@asynccontextmanager
async def walled_host() -> AsyncIterator[Walled]:
    with reachable_folder() as folder, new_host(folder) as host:
        walled = Walled(host, LinuxNetworks.__new__(LinuxNetworks), folder)
        walled = replace(walled, driver=walled.another_driver())
        async with walled.driver as driver:
            try:
                yield walled
            finally:
                for uid in await driver.inventory():
                    await driver.remove(uid)


@contextmanager
def connection(client: Namespace, server: Namespace, address: str, number: int = 8000) -> Iterator["Connection"]:
    """TCP, from one guest to another, for as long as the block lasts."""
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    listener = server.inside(lambda: socket.create_server((address, number), family=family))
    with listener:
        asking = client.inside(lambda: socket.create_connection((address, number), timeout=10))
        answering, _ = listener.accept()
        with asking, answering:
            yield Connection(asking, answering)


@dataclass
class Connection:
    """Both ends."""

    client: socket.socket
    server: socket.socket

    def carries(self, *, timeout_s: float = 0.7) -> bool:
        """Whether something that is sent now arrives, in both directions."""
        return _arrives(self.client, self.server, timeout_s) and _arrives(self.server, self.client, timeout_s)


def _arrives(sender: socket.socket, receiver: socket.socket, timeout_s: float) -> bool:
    sender.send(b"?")
    receiver.settimeout(timeout_s)
    try:
        return bool(receiver.recv(99))
    except TimeoutError:
        return False
