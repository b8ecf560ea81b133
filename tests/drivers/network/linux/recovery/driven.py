"""A host whose networks a whole driver makes, and all that can be seen of them from outside the driver."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

from tests.cluster.network_leftovers import mounts_below, network_processes
from tests.drivers.network import numbered
from tests.drivers.network.linux import networks
from tests.drivers.network.linux.dnsmasq.reachable_folder import folder_until_we_end
from tests.drivers.network.linux.host import Host, Namespace, new_host
from tests.drivers.network.linux.seen import state
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.contract import Network, Port
from virtplane_drivers.network.linux.driver import LinuxNetworks
from virtplane_drivers.network.linux.names import namespace_path

_RUN = re.compile(r"(/dnsmasq/[^/]+)/[0-9a-f]{12}")
"""Folder of one run of a dnsmasq: each has another name."""


def driver_of(folder: Path, host_namespace: Path) -> LinuxNetworks:
    """As an agent on that host has it, not entered yet."""
    return LinuxNetworks(
        folder / "state", folder / "run", transit_cidr=networks.TRANSIT_CIDR, host_namespace=host_namespace
    )


def port(number: int) -> Port:
    """Of a machine by number, from 0 on: 0 is none of `numbered`, and 1 is the router."""
    return numbered.port(number + 2, cidrs=networks.CIDRS)


@dataclass(frozen=True)
class Driven:
    """A host for one test."""

    host: Host
    folder: Path
    uid: str
    """Of its one network: nobody else's on this machine."""

    def open(self) -> LinuxNetworks:
        """A driver of what is on the host now, not entered yet."""
        return driver_of(self.folder, self.host.machine.path)

    @property
    def router(self) -> Path:
        """Where the network's namespace is, when it is there."""
        return namespace_path(self.folder / "run", self.uid)

    def network(self, *ports: Port, mode: NetworkMode = NetworkMode.NAT) -> Network:
        """Of both families; NAT has all parts that there are."""
        one = networks.network(mode, uid=self.uid, ports=ports)
        return replace(one, forwarders=(ip_address("203.0.113.1"),))

    def seen(self) -> Counter[str]:
        """Links, addresses, routes, settings and rules of the host and the router; processes, files, mounts, cgroups.

        Without what is another each time: numbers, and names of runs.
        """
        seen = Counter(f"host {line}" for line in _network_of(self.host.machine))
        if self.router.is_file() and str(self.router) in mounts_below(self.folder):
            seen.update(f"router {line}" for line in _network_of(Namespace(self.router)))
        for path in self.folder.rglob("*"):
            name = _RUN.sub(r"\1/RUN", str(path.relative_to(self.folder)))
            # What a run said, and whether it read a file again, is not compared.
            seen[f"file {name}"] += 1
        seen["dnsmasq"] = len(network_processes(self.folder))
        seen.update(f"mount {point}" for point in mounts_below(self.folder))
        # No glob: it fails when somebody else's group goes in this moment.
        for folder, names, _ in os.walk("/sys/fs/cgroup"):
            if Path(folder).name == "virtplane":
                seen.update(f"cgroup {folder}/{name}" for name in names if self.uid in name)
        return +seen

    def differs(self, before: Counter[str]) -> list[str]:
        """What has come (+) and gone (-) since."""
        now = self.seen()
        return sorted([*(f"+ {what}" for what in now - before), *(f"- {what}" for what in before - now)])


def _network_of(namespace: Namespace) -> list[str]:
    rules = namespace.run("nft", "--stateless", "list", "ruleset").splitlines()
    # An element for each port: in no order.
    return [*state(namespace.path), *(f"nft {word}" for line in rules for word in line.split())]


@contextmanager
def new_driven() -> Iterator[Driven]:
    """A host; nothing of it is left at the end, however that comes."""
    uid = f"{uuid4().hex[:12]}-net"
    with folder_until_we_end(uid) as folder, new_host(folder) as host:
        # A host forwards for good from its first network on.
        for setting in ("ipv4/conf/eth0/forwarding", "ipv6/conf/eth0/force_forwarding"):
            host.machine.set_sysctl(f"net/{setting}", 1)
        yield Driven(host, folder, uid)
