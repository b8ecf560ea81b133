"""What this agent drives: hypervisors and kinds of storage, by the names that `--drivers` gives.

A driver's code is imported only when it is asked for: an agent that runs beside guests holds what it uses.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from virtplane_api.names import local_hypervisor_name
from virtplane_drivers.attachment import Attachment, FakeAttachment, FileAttachment
from virtplane_drivers.hypervisor.contract import Facts, HypervisorDriver
from virtplane_drivers.storage.contract import StorageDriver

STORAGE_DRIVERS: Mapping[str, tuple[str, ...]] = {"qemu": ("directory",), "fake": ("fake",)}
"""Hypervisor driver -> the kinds of storage that the agent opens for it."""

HYPERVISOR_DRIVERS = tuple(STORAGE_DRIVERS)

GIVES: Mapping[str, type[Attachment]] = {"directory": FileAttachment, "fake": FakeAttachment}
"""Storage driver -> how its volumes are reached."""


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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One hypervisor of this host."""

    name: str
    """Of its Hypervisor object."""
    driver: HypervisorDriver
    facts: Facts
    pool_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All that this agent drives."""

    hypervisors: Mapping[str, Endpoint]
    """By the Hypervisor's name."""
    storage: Mapping[str, StorageDriver]
    """By pool type."""


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
    hypervisors = {}
    for name in drivers:
        own_name = local_hypervisor_name(agent_name, name)
        driver = await stack.enter_async_context(_hypervisor(name, own_name, settings))
        facts = await driver.probe()
        pool_types = tuple(sorted(kind for kind in storage if GIVES[kind] in facts.attachments))
        endpoint = Endpoint(own_name, driver, facts, pool_types)
        hypervisors[endpoint.name] = endpoint
    return Endpoints(hypervisors, storage)


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
