"""Hosts that reach each other over one link, each with its driver, and one network of mode Overlay over them.

::

    host 1 ── eth1: 198.51.100.1, 2001:db8:5::1 ──┐
    host 2 ── eth1: 198.51.100.2, 2001:db8:5::2 ──┼── br0 of a namespace that is the switch
    host 3 ── eth1: 198.51.100.3, 2001:db8:5::3 ──┘
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from tests.drivers.network import numbered
from tests.drivers.network.hosts import reachable_folder
from tests.drivers.network.linux.host import Namespace, new_host
from tests.drivers.network.linux.networks import CIDRS, GATEWAY_IPV4, GATEWAY_IPV6, TRANSIT_CIDR, network
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Network, Port
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.names import namespace_path, tap_name
from virtplane_drivers.network.overlay import IpAddress, Overlay, RemoteMachine

Ports = Mapping[int, Sequence[Port]]
"""By the number of the host."""
VNI = 5000
MTU = 1450


def underlay(number: int, version: int = 4) -> IpAddress:
    return ip_address(f"198.51.100.{number}" if version == 4 else f"2001:db8:5::{number}")


def port(number: int) -> Port:
    """The interface of machine `number`, wherever it is."""
    return numbered.port(number, cidrs=CIDRS)


@dataclass
class OverlayHost:
    """One of the hosts."""

    number: int
    machine: Namespace
    folder: Path
    address: IpAddress
    """Its end of all tunnels."""
    new_namespace: Callable[[], Namespace] = field(repr=False)
    driver: LinuxNetworks = field(init=False, repr=False)

    def router(self, one: Network) -> Namespace:
        return Namespace(namespace_path(self.folder / "run", one.uid))

    def guest(self, one: Network, port: Port) -> Namespace:
        """A stand-in for the guest of a port, whose tap is a veth."""
        guest, router = self.new_namespace(), self.router(one)
        tap = tap_name(port)
        guest.ip(
            "link", "add", "eth0", "address", port.mac, "type", "veth", "peer", "name", tap, "netns", str(router.path)
        )
        router.ip("link", "set", tap, "mtu", str(one.mtu), "master", "br0", "up")
        guest.ip("link", "set", "lo", "up")
        guest.ip("link", "set", "eth0", "mtu", str(one.mtu), "up")
        for address in port.addresses:
            length, nodad = (24, ()) if address.version == 4 else (64, ("nodad",))
            guest.ip("address", "add", f"{address}/{length}", "dev", "eth0", *nodad)
        guest.ip("-4", "route", "add", "default", "via", GATEWAY_IPV4)
        # A router's advertisement may have brought it already.
        guest.ip("-6", "route", "replace", "default", "via", GATEWAY_IPV6)
        return guest


def new_driver(host: OverlayHost, *, check_every_s: float = 0.2) -> LinuxNetworks:
    """Of what is on the host now, not entered yet."""
    return LinuxNetworks(
        host.folder / "state",
        host.folder / "run",
        transit_cidr=TRANSIT_CIDR,
        host_namespace=host.machine.path,
        underlay_address=host.address,
        check_every_s=check_every_s,
    )


@asynccontextmanager
async def hosts(
    count: int, *, version: int = 4, link_mtu: int = 1500, check_every_s: float = 0.2
) -> AsyncIterator[list[OverlayHost]]:
    """Nothing of them is left at the end."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(reachable_folder())
        new_namespace = stack.enter_context(new_host(folder)).new_namespace
        switch, made = new_namespace(), []
        switch.ip("link", "add", "br0", "type", "bridge")
        switch.ip("link", "set", "br0", "mtu", str(link_mtu), "up")
        for number in range(1, count + 1):
            machine = new_namespace()
            end = f"host{number}"
            machine.ip("link", "add", "eth1", "type", "veth", "peer", "name", end, "netns", str(switch.path))
            switch.ip("link", "set", end, "mtu", str(link_mtu), "master", "br0", "up")
            machine.ip("link", "set", "lo", "up")
            machine.ip("link", "set", "eth1", "mtu", str(link_mtu), "up")
            machine.ip("address", "add", f"{underlay(number)}/24", "dev", "eth1")
            machine.ip("address", "add", f"{underlay(number, 6)}/64", "dev", "eth1", "nodad")
            host = OverlayHost(number, machine, folder / str(number), underlay(number, version), new_namespace)
            driver = host.driver = new_driver(host, check_every_s=check_every_s)
            await stack.enter_async_context(driver)
            stack.push_async_callback(_removed, driver)
            made.append(host)
        yield made


async def _removed(driver: LinuxNetworks) -> None:
    for uid in await driver.inventory():
        await driver.remove(uid)


def overlay_network(uid: str, *, mtu: int = MTU) -> Network:
    """Without tunnels yet."""
    forwarders = (ip_address("203.0.113.1"),)
    return replace(network(NetworkMode.OVERLAY), uid=uid, mtu=mtu, forwarders=forwarders)


def on(
    one: Network, host: OverlayHost, ports: dict[int, Sequence[Port]], *, version: int = 4, vni: int = VNI
) -> Network:
    """The network as it is to be on that host, when the ports of each host are these."""
    peers = tuple(underlay(number, version) for number in ports if number != host.number)
    elsewhere = tuple(
        RemoteMachine(remote.machine_name, remote.addresses)
        for number, theirs in ports.items()
        if number != host.number
        for remote in theirs
    )
    overlay = Overlay(vni, underlay(host.number, version), peers, elsewhere)
    return replace(one, overlay=overlay, ports=tuple(ports.get(host.number, ())))


async def spread(
    one: Network, hosts: Sequence[OverlayHost], ports: dict[int, Sequence[Port]], *, version: int = 4
) -> None:
    """The network is so on all hosts that have ports of it."""
    for host in hosts:
        if host.number in ports:
            await host.driver.apply(on(one, host, ports, version=version))
