"""What this agent drives: hypervisors, kinds of storage and of networks, by the names that `--drivers` gives.

A driver's code is imported only when it is asked for: an agent that runs beside guests holds what it uses.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from virtplane_api.host_networks import GivenNetwork
from virtplane_api.names import local_hypervisor_name
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import (
    Attachment,
    FakeAttachment,
    FakeNicAttachment,
    FileAttachment,
    NicAttachment,
    StreamAttachment,
    TapAttachment,
)
from virtplane_drivers.hypervisor.contract import Facts, HypervisorDriver
from virtplane_drivers.network.contract import IpAddress, NetworkDriver, NetworkFacts
from virtplane_drivers.network.linux.allowances import BridgeVlans
from virtplane_drivers.network.overlay import Underlay
from virtplane_drivers.storage.contract import StorageDriver

STORAGE_DRIVERS: Mapping[str, tuple[str, ...]] = {"qemu": ("directory",), "fake": ("fake",)}
"""Hypervisor driver -> the kinds of storage that the agent opens for it."""

NETWORK_DRIVERS: Mapping[str, tuple[str, ...]] = {"qemu": ("linux", "passt"), "fake": ("fake",)}
"""Hypervisor driver -> the networks that the agent opens for it; of two that have a mode the first is used."""

HYPERVISOR_DRIVERS = tuple(STORAGE_DRIVERS)

GIVES: Mapping[str, type[Attachment]] = {"directory": FileAttachment, "fake": FakeAttachment}
"""Storage driver -> how its volumes are reached."""

JOINED_BY: Mapping[str, type[NicAttachment]] = {
    "linux": TapAttachment,
    "passt": StreamAttachment,
    "fake": FakeNicAttachment,
}
"""Network driver -> how its ports are joined."""

_NO_NETWORKS = NetworkFacts(frozenset(), host_networks=(), routed=())
DEFAULT_TRANSIT_CIDR = IPv4Network("169.254.64.0/18")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the agent's flags say to its drivers."""

    state_folder: Path
    """Durable, over reboots of the host."""
    runtime_folder: Path
    """Sockets; emptied by a reboot."""
    allowed_sources: tuple[str, ...] = ()
    """`host:port` of web servers that images may come from although their address is the host's own."""
    qemu_accelerator: str = "auto"
    transit_cidr: IPv4Network = DEFAULT_TRANSIT_CIDR
    """What lies between this host and the routers of its networks; routed nowhere else."""
    allowed_bridges: tuple[str, ...] = ()
    """Of the host, that networks of mode Bridge may join untagged."""
    allowed_vlans: tuple[BridgeVlans, ...] = ()
    """Of bridges of the host, that networks of mode Bridge may have."""
    allowed_routed: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses that the host may route for networks of mode Routed."""
    host_network_namespace: Path | None = None
    """What networks lead out through; None: the agent's own."""
    underlay_address: IpAddress | None = None
    """This host's end of the tunnels of networks; None: where its default route begins."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One hypervisor of this host."""

    name: str
    """Of its Hypervisor object."""
    driver: HypervisorDriver
    facts: Facts
    pool_types: tuple[str, ...]
    network_modes: Mapping[NetworkMode, str] = field(default_factory=dict)
    """Mode -> the network driver that has it, of those whose ports this hypervisor can join."""
    underlay: Underlay | None = None
    """What networks of mode Overlay go over, if it has that mode."""
    host_networks: tuple[GivenNetwork, ...] | None = None
    """What networks of mode Bridge may be joined to; None: nobody says."""
    routed: tuple[IPv4Network | IPv6Network, ...] | None = None
    """Addresses that networks of mode Routed may have; None: nobody says."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All that this agent drives."""

    hypervisors: Mapping[str, Endpoint]
    """By the Hypervisor's name."""
    storage: Mapping[str, StorageDriver]
    """By pool type."""
    networks: Mapping[str, NetworkDriver] = field(default_factory=dict)
    """By the driver's name."""
    underlays: Mapping[str, Underlay] = field(default_factory=dict)
    """By the network driver's name: of those that have mode Overlay."""


async def open_endpoints(
    stack: AsyncExitStack, agent_name: str, drivers: Sequence[str], settings: Settings
) -> Endpoints:
    """Enter the drivers; the stack leaves them.

    Raises:
        DriverError: one of them cannot work on this host.
    """
    storage: dict[str, StorageDriver] = {}
    for name in dict.fromkeys(kind for driver in drivers for kind in STORAGE_DRIVERS[driver]):
        storage[name] = await stack.enter_async_context(_storage(name, settings))
    networks: dict[str, NetworkDriver] = {}
    network_facts: dict[str, NetworkFacts] = {}
    for name in dict.fromkeys(kind for driver in drivers for kind in NETWORK_DRIVERS[driver]):
        networks[name] = await stack.enter_async_context(_network(name, settings))
        network_facts[name] = await networks[name].probe()
    hypervisors = {}
    for name in drivers:
        own_name = local_hypervisor_name(agent_name, name)
        driver = await stack.enter_async_context(_hypervisor(name, own_name, settings))
        facts = await driver.probe()
        pool_types = tuple(sorted(kind for kind in storage if GIVES[kind] in facts.attachments))
        endpoint = Endpoint(own_name, driver, facts, pool_types)
        joined = [kind for kind in NETWORK_DRIVERS[name] if JOINED_BY[kind] in facts.nic_attachments]
        hypervisors[own_name] = with_networks(endpoint, {kind: network_facts[kind] for kind in joined})
    underlays = {name: one.underlay for name, one in network_facts.items() if one.underlay is not None}
    return Endpoints(hypervisors, storage, networks, underlays)


def with_networks(endpoint: Endpoint, usable: dict[str, NetworkFacts]) -> Endpoint:
    """With what the network drivers have whose ports it can join: of two that have a mode the first is used."""
    by_mode = {mode: kind for kind in reversed(usable) for mode in usable[kind].modes}
    lacking = {word: why for facts in usable.values() for word, why in facts.missing.items()}
    overlay, bridge, routed = (
        usable[by_mode[mode]] if mode in by_mode else _NO_NETWORKS
        for mode in (NetworkMode.OVERLAY, NetworkMode.BRIDGE, NetworkMode.ROUTED)
    )
    return replace(
        endpoint,
        facts=replace(endpoint.facts, missing={**lacking, **endpoint.facts.missing}),
        network_modes=by_mode,
        underlay=overlay.underlay,
        host_networks=bridge.host_networks,
        routed=routed.routed,
    )


def _hypervisor(name: str, own_name: str, settings: Settings) -> HypervisorDriver:
    match name:
        case "qemu":
            from virtplane_drivers.hypervisor.qemu.driver import QemuDriver  # noqa: PLC0415

            return QemuDriver(
                settings.state_folder / "qemu",
                settings.runtime_folder,
                accelerator=settings.qemu_accelerator,
                hypervisor=own_name,
            )
        case "fake":
            from virtplane_drivers.hypervisor.fake import FakeHypervisor  # noqa: PLC0415

            return FakeHypervisor(state_file=settings.state_folder / "fake-machines.json")
        case _:
            raise ValueError(f"no hypervisor driver {name!r}: there are {', '.join(HYPERVISOR_DRIVERS)}")


def _storage(name: str, settings: Settings) -> StorageDriver:
    match name:
        case "directory":
            from virtplane_drivers.storage.directory import DirectoryStorage  # noqa: PLC0415

            return DirectoryStorage(
                cache_folder=settings.state_folder / "images", allowed_sources=settings.allowed_sources
            )
        case "fake":
            from virtplane_drivers.storage.fake import FakeStorage  # noqa: PLC0415

            return FakeStorage(state_file=settings.state_folder / "fake-volumes.json")
        case _:
            raise ValueError(f"no storage driver {name!r}")


def _network(name: str, settings: Settings) -> NetworkDriver:
    match name:
        case "linux":
            from virtplane_drivers.network.linux.allowances import Allowances  # noqa: PLC0415
            from virtplane_drivers.network.linux.driver import LinuxNetworks  # noqa: PLC0415

            return LinuxNetworks(
                settings.state_folder,
                settings.runtime_folder,
                transit_cidr=settings.transit_cidr,
                host_namespace=settings.host_network_namespace,
                allowances=Allowances(
                    frozenset(settings.allowed_bridges), settings.allowed_routed, settings.allowed_vlans
                ),
                underlay_address=settings.underlay_address,
            )
        case "passt":
            from virtplane_drivers.network.passt.driver import PasstNetworks  # noqa: PLC0415

            return PasstNetworks(settings.runtime_folder, host_namespace=settings.host_network_namespace)
        case "fake":
            from virtplane_drivers.network.fake import FakeNetworks  # noqa: PLC0415

            return FakeNetworks(state_file=settings.state_folder / "fake-networks.json")
        case _:
            raise ValueError(f"no network driver {name!r}")
