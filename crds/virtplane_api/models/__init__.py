"""The kinds of group virtplane.dev: the one source of the CRDs and of every field's meaning."""

from virtplane_api.models.hypervisor import HYPERVISOR
from virtplane_api.models.storage_pool import STORAGE_POOL
from virtplane_api.models.virtual_machine import VIRTUAL_MACHINE
from virtplane_api.models.virtual_machine_action import VIRTUAL_MACHINE_ACTION
from virtplane_api.models.virtual_network import VIRTUAL_NETWORK
from virtplane_api.models.volume import VOLUME

RESOURCES = (VIRTUAL_MACHINE, VIRTUAL_MACHINE_ACTION, VIRTUAL_NETWORK, VOLUME, STORAGE_POOL, HYPERVISOR)

__all__ = [
    "HYPERVISOR",
    "RESOURCES",
    "STORAGE_POOL",
    "VIRTUAL_MACHINE",
    "VIRTUAL_MACHINE_ACTION",
    "VIRTUAL_NETWORK",
    "VOLUME",
]
