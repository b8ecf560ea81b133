"""What a placement is decided from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from virtplane_api.host_networks import GivenNetwork, HostNetwork, IpNetwork


@dataclass(frozen=True, slots=True)
class StorageNeed:
    """One StoragePool that a disk of the machine lives in, or will."""

    pool_name: str
    pool_uid: str
    pool_type: str
    """`directory`, `fake`: the member of the pool's union."""
    disk_name: str
    agent_name: str = ""
    """Of an existing volume on a Local pool: the one agent beside which it can be used. Empty: any with the pool."""


class HostPort(NamedTuple):
    """A port of a host."""

    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Request:
    """A machine that wants a place."""

    cores: int
    memory_mib: int
    driver: str = ""
    hypervisor_name: str = ""
    match_labels: Mapping[str, str] = field(default_factory=dict)
    storage: tuple[StorageNeed, ...] = ()
    networks: frozenset[str] = frozenset()
    """UIDs."""
    network_modes: frozenset[str] = frozenset()
    network_capabilities: frozenset[str] = frozenset()
    """What its networks ask for beyond their modes."""
    host_networks: frozenset[HostNetwork] = frozenset()
    """What its networks of mode Bridge are joined to."""
    routed: frozenset[IpNetwork] = frozenset()
    """Addresses of its networks of mode Routed."""
    host_ports: frozenset[HostPort] = frozenset()
    tunnel_mtu: int = 0
    """Largest packet in bytes of its networks of mode Overlay."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A Hypervisor with what is free on it."""

    name: str
    agent_name: str
    driver: str
    labels: Mapping[str, str] = field(default_factory=dict)
    unschedulable: bool = False
    healthy: bool = True
    """Ready, and its agent is not silent."""
    allocatable_cores: int = 0
    """CPUs of the host times its cpuAllocationRatio."""
    allocatable_memory_mib: int = 0
    used_cores: int = 0
    used_memory_mib: int = 0
    pool_types: frozenset[str] = frozenset()
    ready_pool_uids: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    """UIDs of those that it has."""
    network_modes: frozenset[str] = frozenset()
    tunnel_mtu: int = 0
    """What its tunnels take."""
    missing_capabilities: Mapping[str, str] = field(default_factory=dict)
    """With the reason, as its agent says it."""
    host_networks: tuple[GivenNetwork, ...] | None = None
    routed: tuple[IpNetwork, ...] | None = None
    """What it gives to networks; None: its agent does not say."""
    host_ports: Mapping[HostPort, Sequence[object]] = field(default_factory=dict)
    """Those that are held, and by whom, who prints as namespace/name."""

    @property
    def free_cores(self) -> int:
        """Virtual CPUs that may still be placed; never negative."""
        return max(0, self.allocatable_cores - self.used_cores)

    @property
    def free_memory_mib(self) -> int:
        """Memory that may still be placed; never negative."""
        return max(0, self.allocatable_memory_mib - self.used_memory_mib)
