"""Another spec.interfaces of a machine that has its place: what its next placement has, or why that cannot be had."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virtplane_api.host_networks import gives, host_networks_of, routed_of, routes
from virtplane_api.interfaces import is_claimed, key_of_row
from virtplane_api.kube.resources import HYPERVISORS, Key, Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_operator.machines.address_cycles import cycle_of, giving_way, is_at_rest
from virtplane_operator.machines.disks import Blocked
from virtplane_operator.machines.interfaces import (
    InterfacePlan,
    host_ports_of,
    network_capabilities_of,
    plan_interfaces,
)
from virtplane_operator.machines.status import next_token, placement_of
from virtplane_operator.networks.catalog import Catalog, Network
from virtplane_operator.networks.claims import Claims
from virtplane_operator.networks.overlays import mtu_by
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
    if isinstance(plans, Blocked) and plans.reason == Reason.ADDRESS_IN_USE:
        plans = _out_of_a_cycle(store, catalog, claims, cluster_id, machine, plans)
    if isinstance(plans, Blocked):
        return plans
    hypervisor = store.get(HYPERVISORS, Key("", placement["hypervisor"])) or {}
    blocked = _not_here(machine, plans, hypervisor) or _port_in_use(claims, machine, placement)
    if blocked is not None:
        return blocked
    changed = {field: value for field, value in placement.items() if field != "interfaces"}
    changed["token"] = next_token(machine)
    if plans:
        changed["interfaces"] = [plan.placed for plan in plans]
    return Change(plans, changed)


def _out_of_a_cycle(
    store: Store, catalog: Catalog, claims: Claims, cluster_id: str, machine: Object, blocked: Blocked
) -> tuple[InterfacePlan, ...] | Blocked:
    """What a machine gets meanwhile that would wait for ever; or what has to be done about that."""
    cycle = cycle_of(store, catalog, claims, machine)
    if cycle is None:
        return blocked
    meanwhile = giving_way(catalog, claims, machine, cycle)
    plans = plan_interfaces(catalog, claims, cluster_id, meanwhile) if meanwhile is not None else None
    if isinstance(plans, Blocked):
        return plans  # which would be so without the cycle as well
    if not is_at_rest(machine):
        way_out = "stop one of them (powerState: Stopped), or give one of them another address first"
        return Blocked(blocked.reason, f"{blocked.message}; {cycle}: {way_out}")
    if plans is None:
        way_out = (
            "their network has no free address for one of them meanwhile: take the interface from one of them first"
        )
        return Blocked(blocked.reason, f"{blocked.message}; {cycle}, and {way_out}")
    return plans


def _not_here(machine: Object, plans: tuple[InterfacePlan, ...], hypervisor: Object) -> Blocked | None:
    """What the machine's host lacks for an interface that is new; what it has already it keeps."""
    placement, status = placement_of(machine), hypervisor.get("status", {})
    modes, name = status.get("networkModes") or (), placement["hypervisor"]
    missing = {row["name"]: row["message"] for row in status.get("missingCapabilities") or ()}
    present = {key_of_row(row) for row in placement.get("interfaces") or ()}
    for index, plan in enumerate(plans):
        network, where = plan.network, f"spec.interfaces[{index}].networkName: VirtualNetwork {plan.network.key.name}"
        if (plan.name, network.uid) in present:
            continue
        if network.mode not in modes:
            return Blocked(
                Reason.NIC_NOT_ATTACHABLE,
                f"{where} is of mode {network.mode}, which {name} has not; a placed machine is not moved for it",
            )
        if not network.is_numbered:
            return Blocked(Reason.NETWORK_NOT_READY, f"{where} has no number and MTU of its tunnels yet")
        if network.tunnel_mtu > mtu_by(hypervisor):
            return Blocked(
                Reason.NIC_NOT_ATTACHABLE,
                f"{where} has tunnels of MTU {network.tunnel_mtu}, and those of {name} take {mtu_by(hypervisor)}; a "
                f"placed machine is not moved for it",
            )
        lacking = sorted(network_capabilities_of(machine, [plan]) & missing.keys())
        if lacking:
            return Blocked(
                Reason.NIC_NOT_ATTACHABLE,
                f"{where} takes {lacking[0]}, which {name} has not; a placed machine is not moved for it: "
                f"{missing[lacking[0]]}",
            )
        if not_given := _not_given(network, status):
            return Blocked(
                Reason.NIC_NOT_ATTACHABLE,
                f"{where} takes {not_given[0]}, which {name} does not give to networks; a placed machine is not moved "
                f"for it: start its agent with {not_given[1]}",
            )
    return None


def _not_given(network: Network, status: Mapping[str, Any]) -> tuple[str, str] | None:
    """What of the network its host does not give, and the flag that would."""
    asked = network.host_network
    if asked is not None and not gives(host_networks_of(status), asked):
        return str(asked), asked.flag
    cidr = next((cidr for cidr in network.routed if not routes(routed_of(status), cidr)), None)
    return (str(cidr), f"--allow-routed {cidr}") if cidr is not None else None


def _port_in_use(claims: Claims, machine: Object, placement: dict[str, Any]) -> Blocked | None:
    held = claims.ports(placement.get("agentName", ""))
    for port in sorted(host_ports_of(machine)):
        others = [holder for holder in held.get(port, ()) if holder.uid != uid_of(machine)]
        if others:
            message = f"spec.interfaces: host port {port} of its host is held by VirtualMachine {others[0]}"
            return Blocked(Reason.HOST_PORT_IN_USE, message)
    return None
