"""A host by hand: the Hypervisor's status is what a test says, and no guest runs on it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster.control_plane import ControlPlane

GROUP = "/apis/virtplane.dev/v1alpha1"
MERGE = "application/merge-patch+json"
NOW = "2026-11-24T10:00:00Z"
MODES = ("NAT", "Isolated", "Routed")


class ScriptedHost:
    """One Hypervisor, of an agent that has no Lease: it falls silent 40 s after the operator heard of it first."""

    def __init__(self, control_plane: ControlPlane, agent: str, *, modes: Sequence[str] = MODES) -> None:
        self.name = f"{agent}-qemu"
        self._control_plane = control_plane
        made = {
            "apiVersion": "virtplane.dev/v1alpha1",
            "kind": "Hypervisor",
            "metadata": {"name": self.name},
            "spec": {"driver": "qemu", "agentName": agent},
        }
        control_plane.request("POST", f"{GROUP}/hypervisors", made)
        ready = {"type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": NOW}
        self.report(
            capacity={"cpuCores": 64, "memory": "256Gi", "allocatableMemory": "256Gi"},
            networkModes=list(modes),
            conditions=[ready],
        )

    def report(self, **status: Any) -> None:
        """What the agent would say of its host."""
        self._patch(f"{GROUP}/hypervisors/{self.name}/status", {"status": status})

    def serves(self, *network_uids: str, **more: Any) -> None:
        """The networks that it says it has, Ready unless `more` says otherwise."""
        self.report(networks=[{"uid": uid, "state": "Ready"} | more for uid in network_uids])

    def remove(self, machine: Mapping[str, Any]) -> None:
        """What an agent says once nothing of a machine is left."""
        self.says(machine, state="Removed")

    def says(self, machine: Mapping[str, Any], *, state: str = "Present", **status: Any) -> None:
        """What an agent says of a machine under the placement that it has."""
        metadata, placement = machine["metadata"], machine["status"]["placement"]
        host = {"hypervisor": self.name, "token": placement["token"], "state": state}
        path = f"{GROUP}/namespaces/{metadata['namespace']}/virtualmachines/{metadata['name']}/status"
        self._patch(path, {"status": {"host": host} | status})

    def end(self, namespace: str) -> None:
        """Delete all machines of the namespace, and the Hypervisor."""
        self._control_plane.request("DELETE", f"{GROUP}/namespaces/{namespace}/virtualmachines")
        listed = json.loads(self._control_plane.request("GET", f"{GROUP}/namespaces/{namespace}/virtualmachines"))
        for machine in listed["items"]:
            if machine["status"].get("placement", {}).get("hypervisor") == self.name:
                self.remove(machine)
        self._control_plane.request("DELETE", f"{GROUP}/hypervisors/{self.name}")

    def _patch(self, path: str, body: Mapping[str, Any]) -> None:
        self._control_plane.request("PATCH", path, dict(body), content_type=MERGE)
