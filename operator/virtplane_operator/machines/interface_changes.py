"""Another spec.interfaces of a machine that has its place: what its next placement has, or why that cannot be had."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from virtplane_api.interfaces import is_claimed
from virtplane_api.kube.resources import HYPERVISORS, Key, Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_operator.machines.disks import Blocked
from virtplane_operator.machines.interfaces import InterfacePlan, host_ports_of, plan_interfaces
from virtplane_operator.machines.status import next_token, placement_of
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.world import Store


@dataclass(frozen=True, slots=True)
class Change:
    """All interfaces as they are to be: kept claims, new ones, and without those that are given up."""

    plans: tuple[InterfacePlan, ...]
    placement: dict[str, Any]
    """Under a greater token."""


def interface_change(
    store: Store, catalog: Catalog, claims: Claims, cluster_id: str, machine: Object
) -> Change | Blocked | None:
    """None: the placement has what is asked for. Nothing of a change is had while a part of it cannot be."""
    placement = placement_of(machine)
    if is_claimed(machine["spec"], placement):
        return None
    plans = plan_interfaces(catalog, claims, cluster_id, machine)
    if isinstance(plans, Blocked):
        return plans
    hypervisor = store.get(HYPERVISORS, Key("", placement["hypervisor"])) or {}
    modes = hypervisor.get("status", {}).get("networkModes") or ()
    blocked = _not_here(plans, modes, placement["hypervisor"]) or _port_in_use(claims, machine, placement)
    if blocked is not None:
        return blocked
    changed = {field: value for field, value in placement.items() if field != "interfaces"}
    changed["token"] = next_token(machine)
    if plans:
        changed["interfaces"] = [plan.placed for plan in plans]
    return Change(plans, changed)


def _not_here(plans: tuple[InterfacePlan, ...], modes: Collection[str], hypervisor: str) -> Blocked | None:
    for index, plan in enumerate(plans):
        if plan.network.mode not in modes:
            return Blocked(
                Reason.NIC_NOT_ATTACHABLE,
                f"spec.interfaces[{index}].networkName: VirtualNetwork {plan.network.key.name} is of mode "
                f"{plan.network.mode}, which {hypervisor} has not; a placed machine is not moved for it",
            )
    return None


def _port_in_use(claims: Claims, machine: Object, placement: dict[str, Any]) -> Blocked | None:
    held = claims.ports(placement.get("agentName", ""))
    for port in sorted(host_ports_of(machine)):
        others = [holder for holder in held.get(port, ()) if holder.uid != uid_of(machine)]
        if others:
            message = f"spec.interfaces: host port {port} of its host is held by VirtualMachine {others[0]}"
            return Blocked(Reason.HOST_PORT_IN_USE, message)
    return None
