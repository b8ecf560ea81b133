"""Where the kinds that this project touches live in the API, and how an object is named."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from virtplane_api.names import GROUP, VERSION

Object = dict[str, Any]
"""One Kubernetes object as JSON."""


class Key(NamedTuple):
    """Namespace (empty for cluster-scoped kinds) and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind's REST path."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    page_size: int = 500
    """How many are listed at a time; fewer of what may be large."""

    @property
    def api_version(self) -> str:
        """`group/version`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of a collection, an object or a subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if namespace:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


VIRTUAL_MACHINES = Resource(GROUP, VERSION, "virtualmachines", "VirtualMachine", namespaced=True)
ACTIONS = Resource(GROUP, VERSION, "virtualmachineactions", "VirtualMachineAction", namespaced=True, page_size=20)
VOLUMES = Resource(GROUP, VERSION, "volumes", "Volume", namespaced=True)
STORAGE_POOLS = Resource(GROUP, VERSION, "storagepools", "StoragePool", namespaced=False)
NETWORKS = Resource(GROUP, VERSION, "virtualnetworks", "VirtualNetwork", namespaced=True)
HYPERVISORS = Resource(GROUP, VERSION, "hypervisors", "Hypervisor", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)
EVENTS = Resource("events.k8s.io", "v1", "events", "Event", namespaced=True)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)


def key_of(obj: Object) -> Key:
    """The object's name."""
    metadata = obj["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def uid_of(obj: Object) -> str:
    """metadata.uid."""
    return str(obj["metadata"]["uid"])


def is_being_deleted(obj: Object) -> bool:
    """Whether somebody asked for its deletion."""
    return "deletionTimestamp" in obj["metadata"]
