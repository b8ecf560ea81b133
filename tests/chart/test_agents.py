"""What an agent may write, as the API server holds it to: the status of what is placed on it, its own Hypervisor,
its own Lease, Events under its own name, and nothing else.
"""

import contextlib
import copy
import re
from typing import Any

import pytest

from tests.chart.conftest import SYSTEM_NAMESPACE, Cluster
from tests.cluster.control_plane import CommandError
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiError, Conflict, Forbidden, Invalid
from virtplane_api.kube.resources import (
    ACTIONS,
    EVENTS,
    HYPERVISORS,
    LEASES,
    NETWORKS,
    STORAGE_POOLS,
    VIRTUAL_MACHINES,
    VOLUMES,
    Object,
    Resource,
)
from virtplane_api.names import AGENT_FIELD_MANAGER, AGENT_GROUP

ME = AGENT_FIELD_MANAGER
SEEN = {"powerState": "Running", "host": {"hypervisor": "host-a-qemu", "token": 1, "state": "Present"}}


async def test_it_writes_the_status_of_what_is_placed_on_it(cluster: Cluster) -> None:
    agent = await cluster.agent("host-a")
    machine = await cluster.machine(agent="host-a")
    written = await agent.apply_status(VIRTUAL_MACHINES, machine, SEEN, field_manager=ME)
    assert written["status"]["powerState"] == "Running"
    assert written["status"]["placement"] == machine["status"]["placement"]
    volume = await cluster.volume(agent="host-a")
    written = await agent.apply_status(VOLUMES, volume, {"size": "1Gi"}, field_manager=ME)
    assert written["status"]["size"] == "1Gi"


@pytest.mark.parametrize("placed_on", ["host-b", ""], ids=["another's", "nobody's"])
async def test_it_does_not_write_the_status_of_what_is_not_placed_on_it(cluster: Cluster, placed_on: str) -> None:
    machine = await cluster.machine(agent=placed_on)
    agent = await cluster.agent("host-a")
    with pytest.raises(Forbidden, match=r"status\.placement\.agentName.*agent host-a must not write it"):
        await agent.apply_status(VIRTUAL_MACHINES, machine, SEEN, field_manager=ME)


@pytest.mark.parametrize(
    "placement",
    [
        {"hypervisor": "host-a-qemu", "agentName": "host-a", "token": 2},
        {"hypervisor": "host-b-qemu", "agentName": "host-b", "token": 2},
        {"hypervisor": "host-a-fake", "agentName": "host-a", "token": 2},
    ],
    ids=["a greater token", "another agent", "another hypervisor"],
)
async def test_it_does_not_forge_a_placement_of_its_own_machine(cluster: Cluster, placement: dict[str, Any]) -> None:
    machine = await cluster.machine(agent="host-a")
    agent = await cluster.agent("host-a")
    with pytest.raises(Forbidden, match=r"status\.placement: only the operator places"):
        await agent.apply_status(VIRTUAL_MACHINES, machine, SEEN | {"placement": placement}, field_manager=ME)


async def test_it_does_not_remove_a_placement(cluster: Cluster) -> None:
    machine = await cluster.machine(agent="host-a")
    with pytest.raises((Forbidden, Invalid), match=r"only the operator places|never removed"):
        await patch_status(await cluster.agent("host-a"), machine, {"status": {"placement": None}})


async def patch_status(client: KubeClient, machine: Object, patch: dict[str, Any]) -> Object:
    """As no client of ours writes: a bare merge patch."""
    path = VIRTUAL_MACHINES.path(machine["metadata"]["namespace"], machine["metadata"]["name"], "status")
    return await client._request("PATCH", path, body=patch, content_type="application/merge-patch+json")


async def test_it_does_not_give_a_volume_to_a_machine(cluster: Cluster) -> None:
    volume = await cluster.volume(agent="host-a")
    agent = await cluster.agent("host-a")
    claim = {"claim": {"vmName": "web", "vmUID": "1"}}
    with pytest.raises(Forbidden, match=r"status\.claim: only the operator gives a Volume"):
        await agent.apply_status(VOLUMES, volume, claim, field_manager=ME)


async def test_it_changes_no_spec_and_no_metadata(cluster: Cluster) -> None:
    machine = await cluster.machine(agent="host-a")
    agent = await cluster.agent("host-a")
    changed = copy.deepcopy(machine)
    changed["spec"]["cpu"]["cores"] = 2
    with pytest.raises(Forbidden):
        await agent.update(VIRTUAL_MACHINES, changed, field_manager=ME)
    with pytest.raises(Forbidden):
        await agent.set_finalizers(VIRTUAL_MACHINES, machine, [], field_manager=ME)


async def test_a_spec_in_a_write_to_the_status_is_dropped(cluster: Cluster) -> None:
    machine = await cluster.machine(agent="host-a")
    patch = {"spec": {"cpu": {"cores": 64}}, "status": {"powerState": "Running"}}
    after = await patch_status(await cluster.agent("host-a"), machine, patch)
    assert after["spec"] == machine["spec"]
    assert after["status"]["powerState"] == "Running"


async def test_a_stale_writer_is_refused(cluster: Cluster) -> None:
    machine = await cluster.machine(agent="host-a")
    agent = await cluster.agent("host-a")
    await agent.apply_status(VIRTUAL_MACHINES, machine, SEEN, field_manager=ME)
    with pytest.raises(Conflict):
        await agent.apply_status(VIRTUAL_MACHINES, machine, SEEN | {"powerState": "Stopped"}, field_manager=ME)


async def test_what_was_read_of_an_earlier_object_of_the_name_is_refused(cluster: Cluster) -> None:
    earlier = await cluster.machine(agent="host-a")
    cluster.clean_up()
    admin = await cluster.admin()
    cluster.control_plane.request("DELETE", VIRTUAL_MACHINES.path(cluster.namespace, "web"))
    await cluster.machine(agent="host-a")
    agent = await cluster.agent("host-a")
    with pytest.raises(Conflict):
        await agent.apply_status(VIRTUAL_MACHINES, earlier, SEEN, field_manager=ME)
    with pytest.raises((Conflict, Invalid)):
        await admin.set_finalizers(VIRTUAL_MACHINES, earlier, [], field_manager="user")


def hypervisor(name: str, agent: str, driver: str = "qemu") -> Object:
    return {
        "apiVersion": HYPERVISORS.api_version,
        "kind": HYPERVISORS.kind,
        "metadata": {"name": name},
        "spec": {"driver": driver, "agentName": agent},
    }


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (hypervisor("host-b-qemu", "host-b"), "agent host-a creates Hypervisors of its own only, not of host-b"),
        (hypervisor("other", "host-a"), "named after agent and driver: host-a-qemu"),
        (hypervisor("host-a-lxc", "host-a"), "named after agent and driver: host-a-qemu"),
    ],
    ids=["of another agent", "of another name", "of another driver's name"],
)
async def test_it_makes_no_hypervisor_but_its_own(cluster: Cluster, obj: Object, message: str) -> None:
    agent = await cluster.agent("host-a")
    with pytest.raises(Forbidden, match=re.escape(message)):
        await agent.create(HYPERVISORS, obj, field_manager=ME)


async def test_it_makes_its_own_hypervisor_once_and_then_writes_its_status_only(cluster: Cluster) -> None:
    mine = await cluster.hypervisor("host-a")
    agent = await cluster.agent("host-a")
    await agent.apply_status(HYPERVISORS, mine, {"version": "7.2"}, field_manager=ME)
    changed = await agent.get(HYPERVISORS, "host-a-qemu")
    changed["spec"]["unschedulable"] = True
    with pytest.raises(Forbidden):
        await agent.update(HYPERVISORS, changed, field_manager=ME)
    theirs = await cluster.hypervisor("host-b")
    with pytest.raises(Forbidden, match="this Hypervisor belongs to agent host-b"):
        await agent.apply_status(HYPERVISORS, theirs, {"version": "7.2"}, field_manager=ME)


def lease(name: str, namespace: str = SYSTEM_NAMESPACE) -> Object:
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 40},
    }


@pytest.mark.parametrize("name", ["virtplane-agent-host-b", "virtplane-operator", "anything"])
async def test_it_holds_no_lease_but_its_own(cluster: Cluster, name: str) -> None:
    agent = await cluster.agent("host-a")
    with pytest.raises(Forbidden, match="the only Lease of agent host-a is virtplane-system/virtplane-agent-host-a"):
        await agent.create(LEASES, lease(name), field_manager=ME)


async def test_it_holds_its_own_lease_in_the_system_namespace_only(cluster: Cluster) -> None:
    agent = await cluster.agent("host-a")
    with pytest.raises(Forbidden):
        await agent.create(LEASES, lease("virtplane-agent-host-a", cluster.namespace), field_manager=ME)
    mine = await agent.create(LEASES, lease("virtplane-agent-host-a"), field_manager=ME)
    await agent.update(LEASES, mine, field_manager=ME)
    cluster.control_plane.kubectl("delete", "lease", "-n", SYSTEM_NAMESPACE, "virtplane-agent-host-a")


@pytest.mark.parametrize("resource", [VIRTUAL_MACHINES, VOLUMES, STORAGE_POOLS, NETWORKS], ids=lambda one: one.plural)
async def test_it_creates_and_deletes_no_machine_volume_pool_or_network(cluster: Cluster, resource: Resource) -> None:
    for verb in ("create", "delete", "deletecollection", "update", "patch"):
        assert not may("virtplane:agent:host-a", AGENT_GROUP, cluster, verb, f"{resource.plural}.virtplane.dev")


async def test_it_reads_networks_and_writes_no_status_of_them(cluster: Cluster) -> None:
    network = await cluster.network()
    agent = await cluster.agent("host-a")
    assert (await agent.get(NETWORKS, "lan", cluster.namespace))["spec"] == network["spec"]
    for verb in ("list", "watch"):
        assert may("virtplane:agent:host-a", AGENT_GROUP, cluster, verb, "virtualnetworks.virtplane.dev")
    with pytest.raises(Forbidden):
        await agent.apply_status(NETWORKS, network, {"used": 0}, field_manager=ME)


async def test_it_reads_no_secret(cluster: Cluster) -> None:
    for verb in ("get", "list", "watch"):
        assert not may("virtplane:agent:host-a", AGENT_GROUP, cluster, verb, "secrets")


def may(user: str, group: str, cluster: Cluster, verb: str, resource: str) -> bool:
    with contextlib.suppress(CommandError):
        arguments = ("auth", "can-i", verb, resource, "-n", cluster.namespace, "--as", user, "--as-group", group)
        return cluster.control_plane.kubectl(*arguments).strip() == "yes"
    return False


def event(controller: str, instance: str, regarding: Object, namespace: str) -> Object:
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"generateName": "web-", "namespace": namespace},
        "eventTime": "2026-11-24T10:00:00.000000Z",
        "type": "Normal",
        "reason": "Running",
        "action": "Reconciling",
        "reportingController": controller,
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "name": regarding["metadata"]["name"],
            "namespace": namespace,
        },
    }


@pytest.mark.parametrize(
    ("controller", "instance", "message"),
    [
        ("virtplane-operator", "host-a", "an agent reports as virtplane-agent"),
        ("virtplane-agent", "host-b", "agent host-a reports as host-a, not as host-b"),
    ],
)
async def test_it_speaks_under_its_own_name(cluster: Cluster, controller: str, instance: str, message: str) -> None:
    machine = await cluster.machine(agent="host-a")
    agent = await cluster.agent("host-a")
    with pytest.raises(Forbidden, match=message):
        await agent.create(EVENTS, event(controller, instance, machine, cluster.namespace), field_manager=ME)
    said = event("virtplane-agent", "host-a", machine, cluster.namespace)
    await agent.create(EVENTS, said, field_manager=ME)


async def test_a_member_of_the_group_with_another_kind_of_name_is_refused(cluster: Cluster) -> None:
    machine = await cluster.machine(agent="host-a")
    stranger = await cluster.user("host-a", AGENT_GROUP)
    with pytest.raises(ApiError, match="must be a user of the name virtplane:agent:<agent name>"):
        await stranger.apply_status(VIRTUAL_MACHINES, machine, SEEN, field_manager=ME)


# --- acts -------------------------------------------------------------------------------------------------------------

AGENTS = ("host-a", "host-b", "")
BEGUN = {"startTime": "2026-11-24T10:00:00Z"}


async def test_it_begins_the_actions_that_are_given_to_it_and_no_others(cluster: Cluster) -> None:
    mine, another_s, nobody_s = [
        await cluster.action(f"reset-{index}", agent=name) for index, name in enumerate(AGENTS)
    ]
    agent = await cluster.agent("host-a")
    written = await agent.apply_status(ACTIONS, mine, BEGUN, field_manager=ME)
    assert written["status"]["startTime"] == BEGUN["startTime"]
    for action in (another_s, nobody_s):
        with pytest.raises(Forbidden, match="agent host-a must not write it"):
            await agent.apply_status(ACTIONS, action, BEGUN, field_manager=ME)


async def test_it_gives_itself_no_action(cluster: Cluster) -> None:
    action = await cluster.action(agent="host-a")
    agent = await cluster.agent("host-a")
    forged = {"placement": action["status"]["placement"] | {"vmUID": "another"}}
    with pytest.raises((Forbidden, Invalid), match=r"only the operator places|an action is never moved"):
        await agent.apply_status(ACTIONS, action, forged, field_manager=ME)
    with pytest.raises(Forbidden):
        await agent.create(
            ACTIONS, dict(action, metadata={"name": "x", "namespace": cluster.namespace}), field_manager=ME
        )


async def test_what_has_begun_is_not_begun_again_at_another_time(cluster: Cluster) -> None:
    agent = await cluster.agent("host-a")
    begun = await agent.apply_status(ACTIONS, await cluster.action(agent="host-a"), BEGUN, field_manager=ME)
    for status in ({}, {"startTime": "2026-11-24T11:00:00Z"}):
        with pytest.raises(Invalid, match="startTime is set once"):
            await agent.apply_status(ACTIONS, begun, status, field_manager=ME)
